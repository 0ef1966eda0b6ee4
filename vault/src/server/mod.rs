//! The network side: QUIC connections in, requests to [`crate::ingest`], answers out.
//!
//! Memory of one connection is bounded by its windows ([`relevo_wire::client::transport`]), by
//! `REQUESTS` requests half read, by `PUTS` puts of `PUT_PIECE` bytes buffered and one such
//! piece with the writer, by `READ_AHEAD` MiB read ahead of all its answers and one more for each
//! of `GETS`, and by what is sent and not acknowledged (the send window); that of somebody
//! unknown by `UNKNOWN_WINDOW`. One peer has only so many connections, and handshakes that
//! nobody finishes make room for others. Whatever a peer sends, the worst that follows is a
//! refusal and a line in the log.

mod doorway;
#[cfg(test)]
mod ending_test;
mod presence;
mod reset;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, Incoming, ServerConfig};
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use relevo_wire::identity::{Authority, Identity, Validity};
use relevo_wire::message::RefusalCode;
use relevo_wire::{Timestamp, VaultId, client, tls};

use crate::error::VaultError;
use crate::ingest::{Caller, Peer, Vault};
use crate::volume::Volume;
use doorway::Doorway;
use presence::Presence;

/// Bytes that somebody may send before he is known, or when he is an applicant.
const UNKNOWN_WINDOW: u32 = 1 << 20;
/// Requests of one connection that are read or worked on at once; further ones wait.
const REQUESTS: usize = 16;
/// Puts that one connection may have under way.
const PUTS: usize = 16;
/// Answers with chunks that one connection is given at once; further requests wait.
const GETS: usize = 32;
/// Bytes of a put that are hashed and handed to the writer together. Larger pieces make fewer
/// and longer writes: a disk that takes 75 MB/s in synced pieces of 1 MiB takes 200 in 8 MiB.
const PUT_PIECE: usize = 4 * 1024 * 1024;
/// Reads of packs ahead of the network, 1 MiB each, of one answer.
const ANSWER_READ_AHEAD: usize = 3;
/// The same of all answers of one connection together, besides the one that each is sending.
const READ_AHEAD: usize = 8;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long nothing may come of a request that is half sent, or be read of an answer.
const STALLED: Duration = Duration::from_secs(30);
/// How long a frame may take in all: 4 MiB over a line of 40 kbit/s.
const FRAME: Duration = Duration::from_secs(15 * 60);
/// How often the vault's own certificate is made anew; it is valid for a year.
const RENEWAL: Duration = Duration::from_secs(30 * 24 * 3600);

/// A vault that listens.
pub struct Server<V> {
    vault: Arc<Vault<V>>,
    endpoint: Endpoint,
    id: VaultId,
    authority: Authority,
}

/// What the streams of one connection share.
struct Shared<V> {
    vault: Arc<Vault<V>>,
    caller: Caller,
    remote: SocketAddr,
    requests: Semaphore,
    puts: Semaphore,
    gets: Semaphore,
    reads: Arc<Semaphore>,
}

impl<V: Volume> Server<V> {
    /// Listens at `address`; port 0 takes a free one.
    pub fn listen(
        vault: Vault<V>,
        id: VaultId,
        authority: Authority,
        address: SocketAddr,
    ) -> Result<Self, VaultError> {
        let config = server_config(&authority, id)?;
        let listening = client::bind(address).and_then(|socket| {
            let runtime = Arc::new(quinn::TokioRuntime);
            Endpoint::new(reset::endpoint(&authority), Some(config), socket, runtime)
        });
        let endpoint = listening.map_err(|e| VaultError::Network {
            doing: format!("listen at {address}"),
            reason: e.to_string(),
            remedy: "choose another address with --listen",
        })?;
        Ok(Self {
            vault: Arc::new(vault),
            endpoint,
            id,
            authority,
        })
    }

    /// The vault that it serves.
    pub fn vault(&self) -> Arc<Vault<V>> {
        self.vault.clone()
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr, VaultError> {
        self.endpoint.local_addr().map_err(|e| VaultError::Network {
            doing: "read the address listened at".into(),
            reason: e.to_string(),
            remedy: "choose another address with --listen",
        })
    }

    /// Serves until `stop`, then lets the writer finish. An error when the store can go on no
    /// more: then the process is to end, and to be started anew.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), VaultError> {
        let mut connections = JoinSet::new();
        let presence = Arc::new(Presence::default());
        let doorway = Doorway::new(doorway::HALF_OPEN);
        let applicants = Doorway::new(doorway::APPLICANTS);
        let mut renewal = tokio::time::interval(RENEWAL);
        renewal.tick().await;
        tokio::pin!(stop);
        let mut failed = None;
        loop {
            tokio::select! {
                () = &mut stop => break,
                reason = self.vault.store().failed() => {
                    tracing::error!(reason, "the store can go on no more");
                    failed = Some(reason);
                    break;
                }
                _ = renewal.tick() => {
                    self.endpoint.set_server_config(Some(server_config(&self.authority, self.id)?));
                }
                incoming = self.endpoint.accept() => {
                    let Some(incoming) = incoming else { break };
                    if doorway.is_crowded() && incoming.may_retry() {
                        // Refused only when it was asked already, which was just ruled out.
                        let _ = incoming.retry();
                        continue;
                    }
                    let hall = Hall {
                        vault: self.vault.clone(),
                        presence: presence.clone(),
                        doorway: doorway.clone(),
                        applicants: applicants.clone(),
                    };
                    connections.spawn(connection(hall, incoming));
                }
                Some(_) = connections.join_next() => {}
            }
        }
        tracing::info!("stopping");
        self.vault.stop();
        self.endpoint.close(0u32.into(), b"the vault is stopping");
        let goodbye = self.endpoint.wait_idle();
        if tokio::time::timeout(Duration::from_secs(3), goodbye)
            .await
            .is_err()
        {
            tracing::warn!("some peers did not hear the goodbye");
        }
        connections.shutdown().await;
        let vault = self.vault.clone();
        // Joining the writer may wait for the disk.
        let closed = tokio::task::spawn_blocking(move || vault.store().close()).await;
        closed.map_err(|e| VaultError::Network {
            doing: "close the store".into(),
            reason: e.to_string(),
            remedy: "run 'relevo-vault verify'",
        })?;
        match failed {
            None => Ok(()),
            Some(reason) => Err(VaultError::Refused {
                reason: format!("the store can go on no more: {reason}"),
                remedy:
                    "start the vault anew, as a service manager does by itself; when that does \
                         not help, 'relevo-vault verify' says what is damaged"
                        .into(),
            }),
        }
    }
}

fn server_config(authority: &Authority, id: VaultId) -> Result<ServerConfig, VaultError> {
    let credentials = authority.issue_vault(id)?;
    let failed = |reason: String| VaultError::Network {
        doing: "set up TLS".into(),
        reason,
        remedy: "bring authority/ back from a copy",
    };
    let tls = tls::server_config(authority.certificate().clone(), &credentials)
        .map_err(|e| failed(e.to_string()))?;
    let crypto = QuicServerConfig::try_from(tls).map_err(|e| failed(e.to_string()))?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = client::transport();
    transport.receive_window(UNKNOWN_WINDOW.into());
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Who is at the other end, and when his certificate was issued. The TLS layer has checked that
/// it is this vault's, or signed by its own bearer, who is an applicant whatever names he gives
/// himself.
fn identify(connection: &quinn::Connection) -> Option<(Peer, Timestamp)> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    let certificate = chain.first()?;
    if tls::is_applicant(certificate) {
        return Some((Peer::Applicant, Timestamp::now()));
    }
    let peer = Identity::of_certificate(certificate).ok().map(Peer::of)?;
    let validity = Validity::of_certificate(certificate).ok()?;
    Some((peer, validity.issued))
}

/// What connections share.
struct Hall<V> {
    vault: Arc<Vault<V>>,
    presence: Arc<Presence>,
    doorway: Arc<Doorway>,
    applicants: Arc<Doorway>,
}

/// Waits for the handshake, unless it must make room for others.
async fn shake_hands<V: Volume>(hall: &Hall<V>, incoming: Incoming) -> Option<quinn::Connection> {
    let remote = incoming.remote_address();
    let metrics = hall.vault.metrics();
    let _shaking = metrics.handshakes.hold();
    let (_place, evicted, another) = hall.doorway.enter(remote.ip());
    if another {
        metrics.handshakes_evicted.increment();
    }
    let error = tokio::select! {
        done = tokio::time::timeout(HANDSHAKE, incoming) => match done {
            Ok(Ok(connection)) => return Some(connection),
            Ok(Err(error)) => {
                if is_bad_certificate(&error) {
                    let caller = Caller {
                        peer: Peer::Applicant,
                        issued: Timestamp::now(),
                        from: remote.ip().to_string(),
                    };
                    let (vault, why) = (hall.vault.clone(), error.to_string());
                    // Writes to the disk; nobody waits for it.
                    tokio::task::spawn_blocking(move || {
                        vault.authentication_failed(&caller, "connect", &why);
                    });
                }
                error.to_string()
            }
            Err(_) => "the handshake took too long".into(),
        },
        _ = evicted => "it made room for newer ones".into(),
    };
    metrics.handshake_failures.increment();
    tracing::info!(%remote, error, "no connection");
    None
}

/// Whether the vault's TLS refused a certificate: the alerts of RFC 8446, section 6, that say so,
/// as QUIC carries them.
fn is_bad_certificate(error: &quinn::ConnectionError) -> bool {
    let quinn::ConnectionError::TransportError(error) = error else {
        return false;
    };
    matches!(
        u64::from(error.code).checked_sub(0x100),
        Some(42..=46 | 48 | 51 | 116)
    )
}

async fn connection<V: Volume>(hall: Hall<V>, incoming: Incoming) {
    let remote = incoming.remote_address();
    let Some(connection) = shake_hands(&hall, incoming).await else {
        return;
    };
    let vault = hall.vault;
    let Some((peer, issued)) = identify(&connection) else {
        tracing::warn!(%remote, "a certificate without an identity");
        vault.metrics().connections_refused.increment();
        connection.close(1u32.into(), b"the certificate names no identity");
        return;
    };
    let Some(_place) = hall.presence.enter(peer) else {
        tracing::warn!(%remote, %peer, "too many connections of one peer");
        vault.metrics().connections_refused.increment();
        connection.close(2u32.into(), b"too many connections of this peer");
        return;
    };
    let caller = Caller {
        peer,
        issued,
        from: remote.ip().to_string(),
    };
    // Before the first look, so that no revocation falls between.
    let mut revocations = vault.watch_revocations();
    if is_revoked(&vault, &caller, "connect").await {
        close_revoked(&connection, &caller);
        return;
    }
    if peer != Peer::Applicant {
        connection.set_receive_window(client::RECEIVE_WINDOW.into());
    }
    tracing::debug!(%remote, %peer, "connected");
    let _counted = vault.metrics().connections.hold();
    vault.metrics().connections_opened.increment();
    let shared = Arc::new(Shared {
        vault: vault.clone(),
        caller,
        remote,
        requests: Semaphore::new(REQUESTS),
        puts: Semaphore::new(PUTS),
        gets: Semaphore::new(GETS),
        reads: Arc::new(Semaphore::new(READ_AHEAD)),
    });
    let mut streams = JoinSet::new();
    let reason = if peer == Peer::Applicant {
        // One request is all that an applicant has; then he is to go.
        connection.set_max_concurrent_bi_streams(1u32.into());
        let (_place, evicted, _) = hall.applicants.enter(remote.ip());
        tokio::select! {
            reason = hear_applicant(shared, &connection) => reason,
            _ = evicted => None,
        }
    } else {
        loop {
            tokio::select! {
                accepted = connection.accept_bi() => match accepted {
                    Ok((send, receive)) => drop(streams.spawn(stream::serve(shared.clone(), send, receive))),
                    Err(error) => break Some(error),
                },
                Ok(()) = revocations.changed() => {
                    if is_revoked(&vault, &shared.caller, "stay connected").await {
                        close_revoked(&connection, &shared.caller);
                        break None;
                    }
                }
                Some(_) = streams.join_next() => {}
            }
        }
    };
    // What was read of unfinished puts and is with the writer may be stored; nobody is told.
    streams.shutdown().await;
    connection.close(0u32.into(), b"done");
    tracing::debug!(%remote, reason = ?reason, "disconnected");
}

/// The one request of an applicant; why he went.
async fn hear_applicant<V: Volume>(
    shared: Arc<Shared<V>>,
    connection: &quinn::Connection,
) -> Option<quinn::ConnectionError> {
    match tokio::time::timeout(STALLED, connection.accept_bi()).await {
        Ok(Ok((send, receive))) => {
            stream::serve(shared, send, receive).await;
            tokio::time::timeout(STALLED, connection.closed())
                .await
                .ok()
        }
        Ok(Err(error)) => Some(error),
        Err(_) => None,
    }
}

/// Whether a certificate counts no more. What cannot be told is asked again at each request.
async fn is_revoked<V: Volume>(
    vault: &Arc<Vault<V>>,
    caller: &Caller,
    doing: &'static str,
) -> bool {
    let (vault, caller) = (vault.clone(), caller.clone());
    let asked = tokio::task::spawn_blocking(move || match vault.check_standing(&caller) {
        Err(refusal) if refusal.code == RefusalCode::Forbidden => {
            vault.authentication_failed(&caller, doing, &refusal.message);
            true
        }
        _ => false,
    });
    asked.await.unwrap_or(true)
}

fn close_revoked(connection: &quinn::Connection, caller: &Caller) {
    tracing::warn!(remote = caller.from, peer = %caller.peer, "its certificate was revoked");
    connection.close(
        client::CLOSED_REVOKED.into(),
        b"the certificate was revoked",
    );
}
