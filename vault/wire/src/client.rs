//! A client's connection to a vault: requests and chunks over QUIC streams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig};

use crate::chunk::{CheckedChunk, SealError, SealedChunk};
use crate::enrollment::{Enrollment, Token};
use crate::frame::{self, FrameDecoder, FrameError};
use crate::id::{ChunkId, SessionId, TenantId, VaultId};
use crate::identity::{Applicant, Identity, IdentityError, VAULT_NAME};
use crate::message::{Refusal, Request, Response};
use crate::time::Timestamp;
use crate::tls;

/// Release named to the other side, for its logs.
pub const SOFTWARE: &str = concat!("relevo ", env!("CARGO_PKG_VERSION"));

/// Why the vault could not be spoken with.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The name has no address, or no socket could be made.
    #[error("vault {vault}: {reason}")]
    Address {
        /// As configured.
        vault: String,
        /// Why.
        reason: String,
    },
    /// No connection, or it broke.
    #[error("vault {vault}: {reason}")]
    Connection {
        /// As configured.
        vault: String,
        /// In words.
        reason: String,
        /// What to do.
        remedy: &'static str,
        /// Whether another try may work without anybody doing anything.
        transient: bool,
    },
    /// The vault said no.
    #[error("the vault refused: {0}")]
    Refused(#[from] Refusal),
    /// The vault spoke out of turn.
    #[error("the vault broke the protocol: {0}")]
    Protocol(String),
    /// The vault has no such chunk.
    #[error("the vault does not have chunk {0}")]
    MissingChunk(ChunkId),
    /// A chunk arrived damaged.
    #[error(transparent)]
    Chunk(#[from] SealError),
    /// This side's certificate or key is unusable.
    #[error("own credentials: {0}")]
    Credentials(String),
}

impl ClientError {
    /// What the administrator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Address { .. } => "check the vault's address (HOST:PORT) and name service".into(),
            Self::Connection { remedy, .. } => (*remedy).into(),
            Self::Refused(refusal) => refusal.remedy.clone(),
            Self::Protocol(_) => "update this program and the vault to the same release".into(),
            Self::MissingChunk(_) | Self::Chunk(_) => {
                "run 'relevo-vault verify' to see what else is damaged; take an older recovery point".into()
            }
            Self::Credentials(_) => "enrol again with a new token".into(),
        }
    }

    /// Whether another try may work by itself.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Connection {
                transient: true,
                ..
            }
        )
    }
}

impl From<FrameError> for ClientError {
    fn from(error: FrameError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<IdentityError> for ClientError {
    fn from(error: IdentityError) -> Self {
        Self::Credentials(error.to_string())
    }
}

/// QUIC settings of both sides: windows for long fat lines, many streams, quick notice of loss.
pub fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(256u32.into())
        .max_concurrent_uni_streams(0u32.into())
        .stream_receive_window((16u32 << 20).into())
        .receive_window((64u32 << 20).into())
        .send_window(64 << 20)
        .keep_alive_interval(Some(Duration::from_secs(5)));
    if let Ok(idle) = Duration::from_secs(30).try_into() {
        transport.max_idle_timeout(Some(idle));
    }
    let mut mtu = quinn::MtuDiscoveryConfig::default();
    // Jumbo frames where the path carries them; discovery finds out.
    mtu.upper_bound(9000);
    transport.mtu_discovery_config(Some(mtu));
    Arc::new(transport)
}

/// What the vault said of itself.
#[derive(Clone, Copy, Debug)]
pub struct Welcome {
    /// The vault.
    pub vault: VaultId,
    /// How far its clock is ahead of ours, in milliseconds.
    pub clock_ahead: i64,
    /// See [`Response::Welcome`].
    pub epoch: u64,
}

/// A connection to a vault. Clones share it.
#[derive(Clone)]
pub struct VaultConnection {
    endpoint: Endpoint,
    connection: Connection,
    vault: Arc<str>,
    welcome: Welcome,
}

impl VaultConnection {
    /// Connects as an enrolled agent or recovery site.
    pub async fn connect(enrollment: &Enrollment) -> Result<Self, ClientError> {
        let credentials = enrollment.credentials()?;
        let tls = tls::client_config(enrollment.authority()?.into(), &credentials)
            .map_err(|e| ClientError::Credentials(e.to_string()))?;
        let (endpoint, connection) = dial(&enrollment.vault, tls).await?;
        let vault: Arc<str> = enrollment.vault.as_str().into();
        let hello = Request::Hello {
            software: SOFTWARE.into(),
        };
        let welcome = match exchange(&connection, &vault, &hello).await? {
            Response::Welcome {
                vault, now, epoch, ..
            } => {
                let clock_ahead = now.as_millis() - Timestamp::now().as_millis();
                Welcome {
                    vault,
                    clock_ahead,
                    epoch,
                }
            }
            other => return Err(unexpected(&other)),
        };
        Ok(Self {
            endpoint,
            connection,
            vault,
            welcome,
        })
    }

    /// What the vault said of itself.
    pub fn welcome(&self) -> Welcome {
        self.welcome
    }

    /// Asks, and waits for the answer. A refusal is an error.
    pub async fn request(&self, request: &Request) -> Result<Response, ClientError> {
        exchange(&self.connection, &self.vault, request).await
    }

    /// Asks which of `ids` the vault has: one bit each, lowest first.
    pub async fn have(
        &self,
        session: SessionId,
        ids: Vec<ChunkId>,
    ) -> Result<Vec<u8>, ClientError> {
        match self.request(&Request::Have { session, ids }).await? {
            Response::Known(bits) => Ok(bits),
            other => Err(unexpected(&other)),
        }
    }

    /// Stores chunks; they are on stable storage when this returns. Bytes added to the vault.
    pub async fn put(
        &self,
        session: SessionId,
        chunks: &[SealedChunk],
    ) -> Result<u64, ClientError> {
        let (mut send, receive) = self.open().await?;
        let head = Request::Put {
            session,
            chunks: chunks.len() as u32,
        };
        let sent = async {
            send.write_chunk(frame::encode(&head)?)
                .await
                .map_err(|e| self.broken(e))?;
            for chunk in chunks {
                let prefix = frame::prefix(chunk.bytes())?;
                send.write_all(&prefix).await.map_err(|e| self.broken(e))?;
                send.write_chunk(chunk.bytes().clone())
                    .await
                    .map_err(|e| self.broken(e))?;
            }
            send.finish()
                .map_err(|e| ClientError::Protocol(e.to_string()))
        };
        let sent: Result<(), ClientError> = sent.await;
        // The vault may refuse before it has read everything: its answer says more than the
        // stream that it stopped.
        let mut frames = Frames::new(receive, self.vault.clone());
        match (frames.response().await, sent) {
            (Ok(Response::Stored { added }), Ok(())) => Ok(added),
            (Ok(other), Ok(())) => Err(unexpected(&other)),
            (Err(error @ ClientError::Refused(_)), _) | (Err(error), Ok(())) => Err(error),
            (_, Err(error)) => Err(error),
        }
    }

    /// Asks for chunks; they come one by one in this order, each checked against its id.
    pub async fn get(&self, ids: Vec<ChunkId>) -> Result<ChunkStream, ClientError> {
        let (mut send, receive) = self.open().await?;
        let request = frame::encode(&Request::Get { ids: ids.clone() })?;
        send.write_chunk(request)
            .await
            .map_err(|e| self.broken(e))?;
        send.finish()
            .map_err(|e| ClientError::Protocol(e.to_string()))?;
        let mut frames = Frames::new(receive, self.vault.clone());
        match frames.response().await? {
            Response::Chunks => Ok(ChunkStream {
                frames,
                ids: ids.into_iter(),
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// One chunk.
    pub async fn get_one(&self, id: ChunkId) -> Result<CheckedChunk, ClientError> {
        let mut chunks = self.get(vec![id]).await?;
        chunks
            .next()
            .await
            .unwrap_or(Err(ClientError::MissingChunk(id)))
    }

    /// Returns when the connection is gone, with the reason.
    pub async fn closed(&self) -> ClientError {
        describe(&self.vault, &self.connection.closed().await)
    }

    /// Says goodbye and waits until that is sent.
    pub async fn close(self) {
        self.connection.close(0u32.into(), b"done");
        self.endpoint.wait_idle().await;
    }

    async fn open(&self) -> Result<(SendStream, RecvStream), ClientError> {
        self.connection
            .open_bi()
            .await
            .map_err(|e| describe(&self.vault, &e))
    }

    fn broken(&self, error: quinn::WriteError) -> ClientError {
        write_error(&self.vault, error)
    }
}

/// Chunks as they arrive.
pub struct ChunkStream {
    frames: Frames,
    ids: std::vec::IntoIter<ChunkId>,
}

impl ChunkStream {
    /// The next chunk, or nothing after the last.
    pub async fn next(&mut self) -> Option<Result<CheckedChunk, ClientError>> {
        let id = self.ids.next()?;
        Some(match self.frames.next().await {
            Ok(bytes) if bytes.is_empty() => Err(ClientError::MissingChunk(id)),
            Ok(bytes) => CheckedChunk::check(id, bytes).map_err(ClientError::from),
            Err(error) => Err(error),
        })
    }
}

/// Turns a token into an enrolment: proves itself to the vault that the token pins.
pub async fn enroll(
    vault: &str,
    token: &Token,
    name: &str,
    tenant: TenantId,
) -> Result<Enrollment, ClientError> {
    let applicant = Applicant::generate()?;
    let tls = tls::applicant_config(token.authority, &applicant.credentials)
        .map_err(|e| ClientError::Credentials(e.to_string()))?;
    let (endpoint, connection) = dial(vault, tls).await?;
    let request = Request::Enroll {
        secret: token.secret,
        certificate_request: applicant.request,
        name: name.into(),
        tenant,
    };
    let enrollment = match exchange(&connection, vault, &request).await? {
        Response::Enrolled {
            certificate,
            authority,
            identity,
            expires,
        } => {
            if *blake3::hash(&authority).as_bytes() != token.authority {
                return Err(ClientError::Protocol(
                    "its authority is not the token's".into(),
                ));
            }
            let identity: Identity = identity.parse()?;
            Enrollment::new(
                vault.into(),
                name.into(),
                &identity,
                expires,
                &certificate,
                &authority,
                applicant.credentials.key_der(),
            )
        }
        other => return Err(unexpected(&other)),
    };
    connection.close(0u32.into(), b"done");
    endpoint.wait_idle().await;
    Ok(enrollment)
}

async fn dial(
    vault: &str,
    tls: rustls::ClientConfig,
) -> Result<(Endpoint, Connection), ClientError> {
    let address_error = |reason: String| ClientError::Address {
        vault: vault.to_string(),
        reason,
    };
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(vault)
        .await
        .map_err(|e| address_error(e.to_string()))?
        .collect();
    let crypto =
        QuicClientConfig::try_from(tls).map_err(|e| ClientError::Credentials(e.to_string()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport());
    let mut last = address_error("the name has no address".into());
    for address in addresses {
        let local: SocketAddr = match address {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        let endpoint = match Endpoint::client(local) {
            Ok(endpoint) => endpoint,
            Err(e) => {
                last = address_error(e.to_string());
                continue;
            }
        };
        match endpoint.connect_with(config.clone(), address, VAULT_NAME) {
            Ok(connecting) => match connecting.await {
                Ok(connection) => return Ok((endpoint, connection)),
                Err(e) => last = describe(vault, &e),
            },
            Err(e) => last = address_error(e.to_string()),
        }
    }
    Err(last)
}

async fn exchange(
    connection: &Connection,
    vault: &str,
    request: &Request,
) -> Result<Response, ClientError> {
    let (mut send, receive) = connection
        .open_bi()
        .await
        .map_err(|e| describe(vault, &e))?;
    let sent = send.write_chunk(frame::encode(request)?).await;
    let finished = sent.map_err(|e| write_error(vault, e)).and_then(|()| {
        send.finish()
            .map_err(|e| ClientError::Protocol(e.to_string()))
    });
    let answer = Frames::new(receive, vault.into()).response().await;
    match answer {
        Err(ClientError::Refused(_)) | Ok(_) => answer,
        Err(error) => Err(finished.err().unwrap_or(error)),
    }
}

/// Frames of one stream.
struct Frames {
    stream: RecvStream,
    decoder: FrameDecoder,
    vault: Arc<str>,
}

impl Frames {
    fn new(stream: RecvStream, vault: Arc<str>) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::default(),
            vault,
        }
    }

    async fn next(&mut self) -> Result<Bytes, ClientError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(frame);
            }
            match self.stream.read_chunk(usize::MAX, true).await {
                Ok(Some(part)) => self.decoder.push(&part.bytes),
                Ok(None) => {
                    self.decoder.finish()?;
                    return Err(ClientError::Protocol("it ended an answer too early".into()));
                }
                Err(quinn::ReadError::ConnectionLost(e)) => return Err(describe(&self.vault, &e)),
                Err(e) => return Err(ClientError::Protocol(e.to_string())),
            }
        }
    }

    async fn response(&mut self) -> Result<Response, ClientError> {
        match frame::decode(&self.next().await?)? {
            Response::Refused(refusal) => Err(refusal.into()),
            response => Ok(response),
        }
    }
}

fn unexpected(response: &Response) -> ClientError {
    let text: String = format!("{response:?}").chars().take(80).collect();
    ClientError::Protocol(format!("an answer that fits no question ({text})"))
}

fn write_error(vault: &str, error: quinn::WriteError) -> ClientError {
    match error {
        quinn::WriteError::ConnectionLost(e) => describe(vault, &e),
        other => ClientError::Protocol(other.to_string()),
    }
}

/// TLS alerts (RFC 8446, section 6) as QUIC carries them: 0x100 + the alert.
fn alert(error: &ConnectionError) -> Option<u8> {
    let code = match error {
        ConnectionError::TransportError(e) => u64::from(e.code),
        ConnectionError::ConnectionClosed(e) => u64::from(e.error_code),
        _ => return None,
    };
    code.checked_sub(0x100)
        .and_then(|alert| u8::try_from(alert).ok())
}

/// A broken connection in words that name the remedy.
fn describe(vault: &str, error: &ConnectionError) -> ClientError {
    let own = matches!(error, ConnectionError::TransportError(_));
    let (reason, remedy, transient) = match (alert(error), error) {
        (Some(45), _) if own => (
            "its certificate has expired".into(),
            "restart the vault, which renews it; check both clocks",
            false,
        ),
        (Some(45), _) => (
            "it does not accept this certificate: it has expired".into(),
            "enrol again with a new token; check both clocks",
            false,
        ),
        (Some(42 | 46 | 48 | 49 | 51), _) if own => (
            "its certificate is not of the vault that was enrolled with".into(),
            "check the address; if the vault was set up anew, enrol again",
            false,
        ),
        (Some(42 | 46 | 48 | 49 | 51), _) => (
            "it does not know this certificate".into(),
            "enrol again with a new token",
            false,
        ),
        (Some(120), _) => (
            "it speaks another version of the protocol".into(),
            "update this program and the vault to the same release",
            false,
        ),
        (_, ConnectionError::TimedOut) => (
            "no answer".into(),
            "check that the vault runs and that UDP reaches its port",
            true,
        ),
        (_, ConnectionError::VersionMismatch) => (
            "it does not speak this version of QUIC".into(),
            "check that the address is a Relevo vault's",
            false,
        ),
        (_, other) => (
            other.to_string(),
            "try again; see the vault's log for its side",
            true,
        ),
    };
    ClientError::Connection {
        vault: vault.into(),
        reason,
        remedy,
        transient,
    }
}
