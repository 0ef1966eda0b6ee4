//! A client's connection to a vault: requests and chunks over QUIC streams.

mod congestion;
mod dial;
mod error;
mod exchange;
mod pages;
mod renewal;
pub mod resolve;

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, Endpoint, RecvStream, SendStream};

use crate::chunk::{CheckedChunk, SealedChunk};
use crate::enrollment::{Enrollment, Token};
use crate::frame;
use crate::id::{ChunkId, ServerId, SessionId, TenantId, VaultId};
use crate::identity::{Applicant, Identity};
use crate::message::{PointEntry, Request, Response};
use crate::time::Timestamp;
use crate::tls;
use dial::dial;
use error::{describe, unexpected, write_error};
use exchange::{Frames, exchange};

pub use congestion::{CongestionControl, Line, PathControl};
pub use dial::{RECEIVE_WINDOW, bind, transport};
pub use error::{CLOSED_REVOKED, ClientError};
pub use pages::PointPages;
pub use renewal::{Renewal, renew, renew_when_due};

/// Release named to the other side, for its logs.
pub const SOFTWARE: &str = concat!("relevo ", env!("CARGO_PKG_VERSION"));

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

/// To the greeting, and to what was asked with it.
type Answers = (Response, Option<Response>);

/// A connection whose greeting may have been answered.
struct Greeted {
    endpoint: Endpoint,
    connection: Connection,
    vault: Arc<str>,
}

impl Greeted {
    fn welcomed(self, answer: Response) -> Result<VaultConnection, ClientError> {
        let Response::Welcome {
            vault, now, epoch, ..
        } = answer
        else {
            return Err(unexpected(&answer));
        };
        Ok(VaultConnection {
            endpoint: self.endpoint,
            connection: self.connection,
            vault: self.vault,
            welcome: Welcome {
                vault,
                clock_ahead: now.as_millis().saturating_sub(Timestamp::now().as_millis()),
                epoch,
            },
        })
    }
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
        Ok(Self::greet(enrollment, None).await?.0)
    }

    /// Connects and asks `first` together with the greeting, which saves a round trip.
    pub async fn connect_asking(
        enrollment: &Enrollment,
        first: &Request,
    ) -> Result<(Self, Response), ClientError> {
        let (connection, answer) = Self::greet(enrollment, Some(first)).await?;
        let unanswered = || ClientError::Protocol("a question without an answer".into());
        Ok((connection, answer.ok_or_else(unanswered)?))
    }

    /// Connects, and greets while `first` is asked. A vault that was there and is started anew just
    /// then is greeted once more.
    async fn greet(
        enrollment: &Enrollment,
        first: Option<&Request>,
    ) -> Result<(Self, Option<Response>), ClientError> {
        let (connection, answers) = Self::ask_first(enrollment, first).await?;
        let (connection, (welcome, answer)) = match answers {
            Err(error) if error.is_transient() => {
                let (connection, answers) = Self::ask_first(enrollment, first).await?;
                (connection, answers?)
            }
            answers => (connection, answers?),
        };
        Ok((connection.welcomed(welcome)?, answer))
    }

    /// A connection, and what came of the greeting and of `first`.
    async fn ask_first(
        enrollment: &Enrollment,
        first: Option<&Request>,
    ) -> Result<(Greeted, Result<Answers, ClientError>), ClientError> {
        let credentials = enrollment.credentials()?;
        let tls = tls::client_config(enrollment.authority()?.into(), &credentials)
            .map_err(|e| ClientError::Credentials(e.to_string()))?;
        let (endpoint, connection) = dial(&enrollment.vault, tls).await?;
        let vault: Arc<str> = enrollment.vault.as_str().into();
        let hello = Request::Hello {
            software: SOFTWARE.into(),
        };
        let asked = async {
            match first {
                Some(first) => exchange(&connection, &vault, first).await.map(Some),
                None => Ok(None),
            }
        };
        let (welcome, answer) = tokio::join!(exchange(&connection, &vault, &hello), asked);
        let answers = welcome.and_then(|welcome| Ok((welcome, answer?)));
        let connection = Greeted {
            endpoint,
            connection,
            vault,
        };
        Ok((connection, answers))
    }

    /// What the vault said of itself.
    pub fn welcome(&self) -> Welcome {
        self.welcome
    }

    /// What the path to the vault was found to carry; none before anything was acknowledged.
    pub fn line(&self) -> Option<Line> {
        let state = self.connection.congestion_state().into_any();
        state.downcast::<PathControl>().ok()?.line()
    }

    /// Asks, and waits for the answer. A refusal is an error.
    pub async fn request(&self, request: &Request) -> Result<Response, ClientError> {
        exchange(&self.connection, &self.vault, request).await
    }

    /// A server's recovery points, newest first, all of them.
    pub async fn points(&self, server: ServerId) -> Result<Vec<PointEntry>, ClientError> {
        let mut pages = PointPages::default();
        loop {
            match self.request(&pages.request(server)).await? {
                Response::Points(page) => {
                    if !pages.take(page) {
                        return Ok(pages.into_points());
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
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

    /// Says goodbye, and leaves it the time to be sent.
    pub async fn close(self) {
        self.connection.close(0u32.into(), b"done");
        leave(&self.endpoint).await;
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

/// A goodbye is sent at once. quinn would go on listening for three timeouts (RFC 9000, section
/// 10.2), a second on a long line, only to say it again; a vault that it does not reach notices
/// after 30 s that nobody is there.
const GOODBYE: Duration = Duration::from_millis(25);

async fn leave(endpoint: &Endpoint) {
    // Its end is no failure either way.
    let _ = tokio::time::timeout(GOODBYE, endpoint.wait_idle()).await;
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
    leave(&endpoint).await;
    Ok(enrollment)
}
