//! What a request does, given who asks and the store. No network: tests drive it as they like.
//!
//! | who | may |
//! | --- | --- |
//! | applicant (no certificate of this vault) | `Enroll` |
//! | agent | `Hello`, `OpenSession`, `Have`, `Put`, `Commit` for its own server |
//! | recovery site | `Hello`, `ListServers`, `ListPoints`, `GetManifest`, `Get` of its tenant |

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use relevo_wire::chunk::{CheckedChunk, MAX_SEALED};
use relevo_wire::client::SOFTWARE;
use relevo_wire::enrollment::Token;
use relevo_wire::identity::{Authority, Identity};
use relevo_wire::manifest::SealedManifest;
use relevo_wire::message::{
    MAX_IDS, MAX_MISSING, MAX_PUT, Refusal, RefusalCode, Request, Response,
};
use relevo_wire::{ChunkId, ServerId, SessionId, SiteId, TenantId, Timestamp, VaultId};

use crate::catalogue::{Located, Role, TokenError};
use crate::completeness::{self, Fault, Shelf};
use crate::error::StoreError;
use crate::record::{ChunkKind, PointRecord, Record, ServerRecord, SiteRecord};
use crate::store::{ReadStep, Store, plan_reads, stored_size};
use crate::volume::Volume;

/// How long a certificate of an agent or recovery site is accepted.
pub const CLIENT_VALIDITY: Duration = Duration::from_secs(2 * 365 * 24 * 3600);
/// Uploads that one server may have open; opening one more closes the oldest.
const SESSIONS_PER_SERVER: usize = 16;
/// Longest name of a server or site, in bytes.
const MAX_NAME: usize = 200;
/// Recovery points in one answer: what fits into a frame with room.
const MAX_POINTS: usize = 4096;
/// Complete nodes are handed to the writer in batches of this many.
const MARK_BATCH: usize = 2048;

/// Who asks, as the connection's certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Somebody without a certificate of this vault.
    Applicant,
    /// A server's agent.
    Agent(TenantId, ServerId),
    /// A recovery site.
    Recovery(TenantId, SiteId),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applicant => f.write_str("applicant"),
            Self::Agent(_, server) => write!(f, "agent of {server}"),
            Self::Recovery(_, site) => write!(f, "recovery site {site}"),
        }
    }
}

impl Peer {
    /// Who a certificate's identity is to a vault.
    pub fn of(identity: Identity) -> Self {
        match identity {
            Identity::Agent { tenant, server } => Self::Agent(tenant, server),
            Identity::Recovery { tenant, site } => Self::Recovery(tenant, site),
            Identity::Vault(_) => Self::Applicant,
        }
    }
}

/// What follows a request.
#[derive(Debug)]
pub enum Outcome {
    /// This answer.
    Answer(Response),
    /// Chunks come in, then an answer.
    Receive(Reception),
    /// [`Response::Chunks`], then chunks go out.
    Send(TenantId, Vec<ReadStep>),
}

struct Session {
    tenant: TenantId,
    server: ServerId,
    added: u64,
    opened: u64,
}

/// A vault at work.
pub struct Vault<V> {
    id: VaultId,
    store: Store<V>,
    authority: Authority,
    sessions: Mutex<HashMap<SessionId, Session>>,
}

impl<V: Volume> Vault<V> {
    /// A vault over an open store.
    pub fn new(id: VaultId, store: Store<V>, authority: Authority) -> Self {
        Self {
            id,
            store,
            authority,
            sessions: Mutex::default(),
        }
    }

    /// Packs and catalogue.
    pub fn store(&self) -> &Store<V> {
        &self.store
    }

    /// What a request does. Waits for the disk; not for threads that serve many.
    pub fn answer(&self, peer: Peer, request: Request) -> Result<Outcome, Refusal> {
        let answer = match (peer, request) {
            (
                Peer::Applicant,
                Request::Enroll {
                    secret,
                    certificate_request,
                    name,
                    tenant,
                },
            ) => self.enroll(&secret, &certificate_request, &name, tenant)?,
            (Peer::Applicant, _) => {
                return Err(forbidden(
                    "a certificate that this vault issued is needed",
                    "enrol with a token first",
                ));
            }
            (_, Request::Hello { software }) => self.welcome(peer, &software)?,
            (Peer::Agent(tenant, server), Request::OpenSession) => {
                self.open_session(tenant, server)
            }
            (Peer::Agent(tenant, server), Request::Have { session, ids }) => {
                self.check_session(tenant, server, session)?;
                self.have(tenant, &ids)?
            }
            (Peer::Agent(tenant, server), Request::Put { session, chunks }) => {
                self.check_session(tenant, server, session)?;
                let left = usize::try_from(chunks).unwrap_or(usize::MAX);
                if left > MAX_PUT {
                    return Err(malformed(format!(
                        "a put of {chunks} chunks is over the limit of {MAX_PUT}"
                    )));
                }
                return Ok(Outcome::Receive(Reception {
                    tenant,
                    session,
                    left,
                    added: 0,
                }));
            }
            (Peer::Agent(tenant, server), Request::Commit { session, manifest }) => {
                self.commit(tenant, server, session, manifest)?
            }
            (Peer::Recovery(tenant, _), Request::ListServers) => {
                Response::Servers(self.store.read(|c| c.servers(tenant))?)
            }
            (Peer::Recovery(tenant, _), Request::ListPoints { server }) => {
                if !self.store.read(|c| c.has_server(tenant, server))? {
                    return Err(not_found(format!("there is no server {server}")));
                }
                Response::Points(self.store.read(|c| c.points(tenant, server, MAX_POINTS))?)
            }
            (Peer::Recovery(tenant, _), Request::GetManifest { point }) => {
                match self.store.read(|c| c.point(tenant, point))? {
                    Some((manifest, _)) => Response::Manifest(manifest),
                    None => return Err(not_found(format!("there is no recovery point {point}"))),
                }
            }
            (Peer::Recovery(tenant, _), Request::Get { ids }) => {
                check_ids(&ids)?;
                let found = self.store.read(|c| c.locate(tenant, &ids))?;
                return Ok(Outcome::Send(tenant, plan_reads(&found)));
            }
            (_, Request::Enroll { .. }) => {
                return Err(forbidden(
                    "this peer is enrolled already",
                    "enrol without a certificate",
                ));
            }
            (Peer::Agent(..), _) => {
                return Err(forbidden(
                    "an agent may write recovery points and read none",
                    "read from a recovery site",
                ));
            }
            (Peer::Recovery(..), _) => {
                return Err(forbidden(
                    "a recovery site may read recovery points and write none",
                    "back up from an agent",
                ));
            }
        };
        Ok(Outcome::Answer(answer))
    }

    fn welcome(&self, peer: Peer, software: &str) -> Result<Response, Refusal> {
        let software: String = software
            .chars()
            .filter(|c| !c.is_control())
            .take(80)
            .collect();
        tracing::info!(%peer, software, "hello");
        Ok(Response::Welcome {
            vault: self.id,
            software: SOFTWARE.into(),
            now: Timestamp::now(),
            epoch: self.store.read(|c| c.epoch())?.unsigned_abs(),
        })
    }

    fn enroll(
        &self,
        secret: &[u8; 32],
        certificate_request: &[u8],
        name: &str,
        tenant: TenantId,
    ) -> Result<Response, Refusal> {
        let hash = Token::secret_hash(secret);
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(malformed(format!(
                "a name has 1 to {MAX_NAME} bytes and no control characters"
            )));
        }
        let token = self
            .store
            .read(|c| Ok(c.use_token(&hash, tenant)))?
            .map_err(token_refused)?;
        let enrolled = Timestamp::now();
        let name = name.to_string();
        let (identity, record) = match token.role {
            Role::Agent => {
                let id = ServerId::random();
                let identity = Identity::Agent { tenant, server: id };
                (
                    identity,
                    Record::Server(ServerRecord {
                        id,
                        name: name.clone(),
                        enrolled,
                    }),
                )
            }
            Role::Recovery => {
                let id = SiteId::random();
                let identity = Identity::Recovery { tenant, site: id };
                (
                    identity,
                    Record::Site(SiteRecord {
                        id,
                        name: name.clone(),
                        enrolled,
                    }),
                )
            }
        };
        let issued = self
            .authority
            .issue_client(certificate_request, &identity, &name, CLIENT_VALIDITY)
            .map_err(|e| malformed(e.to_string()))
            .and_then(|issued| {
                self.store.append_blocking(tenant, vec![record])?;
                Ok(issued)
            });
        let issued = match issued {
            Ok(issued) => issued,
            Err(refusal) => {
                if let Err(error) = self.store.read(|c| c.return_token(&hash)) {
                    tracing::warn!(%error, "a token is lost to an enrolment that failed");
                }
                return Err(refusal);
            }
        };
        tracing::info!(%identity, name, "enrolled");
        Ok(Response::Enrolled {
            certificate: issued.certificate.to_vec(),
            authority: self.authority.certificate().to_vec(),
            identity: identity.to_string(),
            expires: issued.expires,
        })
    }

    fn open_session(&self, tenant: TenantId, server: ServerId) -> Response {
        let mut sessions = self.sessions();
        let mine = |s: &&Session| s.tenant == tenant && s.server == server;
        if sessions.values().filter(mine).count() >= SESSIONS_PER_SERVER {
            let oldest = sessions
                .iter()
                .filter(|(_, s)| mine(s))
                .min_by_key(|(_, s)| s.opened)
                .map(|(id, _)| *id);
            oldest.and_then(|id| sessions.remove(&id));
        }
        let opened = sessions.values().map(|s| s.opened + 1).max().unwrap_or(0);
        let session = SessionId::random();
        sessions.insert(
            session,
            Session {
                tenant,
                server,
                added: 0,
                opened,
            },
        );
        Response::SessionOpened { session }
    }

    fn check_session(
        &self,
        tenant: TenantId,
        server: ServerId,
        session: SessionId,
    ) -> Result<u64, Refusal> {
        match self.sessions().get(&session) {
            Some(s) if s.tenant == tenant && s.server == server => Ok(s.added),
            _ => Err(Refusal::new(
                RefusalCode::NotFound,
                "this upload is not open here: the vault was started anew since",
                "open it again; what was stored is kept",
            )),
        }
    }

    fn have(&self, tenant: TenantId, ids: &[ChunkId]) -> Result<Response, Refusal> {
        check_ids(ids)?;
        let found = self.store.read(|c| c.locate(tenant, ids))?;
        let mut bits = vec![0u8; ids.len().div_ceil(8)];
        for (at, _) in found.iter().enumerate().filter(|(_, f)| f.is_some()) {
            bits[at / 8] |= 1 << (at % 8);
        }
        Ok(Response::Known(bits))
    }

    fn commit(
        &self,
        tenant: TenantId,
        server: ServerId,
        session: SessionId,
        manifest: SealedManifest,
    ) -> Result<Response, Refusal> {
        let corrupt =
            |what: String| Refusal::new(RefusalCode::Corrupt, what, "start the backup anew");
        let public = manifest.public().map_err(|e| corrupt(e.to_string()))?;
        if public.server != server {
            return Err(forbidden(
                "a recovery point of another server",
                "commit with that server's enrolment",
            ));
        }
        // The answer to a commit may be lost: asked again, it is given again.
        if let Some((earlier, stored)) = self.store.read(|c| c.point(tenant, public.point))? {
            return match earlier == manifest {
                true => Ok(Response::Committed { stored }),
                false => Err(StoreError::PointTaken(public.point).into()),
            };
        }
        let added = self.check_session(tenant, server, session)?;
        let mut shelf = VaultShelf::new(&self.store, tenant)?;
        let faults = completeness::faults(&mut shelf, &public, MAX_MISSING)?;
        shelf.flush();
        let misplaced = faults.iter().find_map(|fault| match fault {
            Fault::Misplaced(id, why) => Some(format!("chunk {id}: {why}")),
            Fault::Missing(_) => None,
        });
        if let Some(what) = misplaced {
            return Err(corrupt(what));
        }
        if !faults.is_empty() {
            let missing = faults.iter().map(Fault::chunk).collect();
            return Ok(Response::Incomplete { missing });
        }
        let mut point = PointRecord {
            manifest,
            committed: Timestamp::now(),
            stored: added,
        };
        let body = minicbor::to_vec(&point).map_err(|e| corrupt(e.to_string()))?;
        point.stored += stored_size(body.len());
        let stored = point.stored;
        self.store
            .append_blocking(tenant, vec![Record::Point(Box::new(point))])?;
        self.sessions().remove(&session);
        tracing::info!(%server, point = %public.point, stored, "recovery point committed");
        Ok(Response::Committed { stored })
    }

    /// Counts what an upload added.
    pub fn note_added(&self, reception: &Reception) {
        if let Some(session) = self.sessions().get_mut(&reception.session) {
            session.added += reception.added;
        }
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A put under way.
#[derive(Debug)]
pub struct Reception {
    tenant: TenantId,
    session: SessionId,
    left: usize,
    added: u64,
}

impl Reception {
    /// Whose chunks come.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// True while chunks are still to come.
    pub fn expects_more(&self) -> bool {
        self.left > 0
    }

    /// A chunk has come: whether its size is one that a chunk may have.
    pub fn arrived(&mut self, chunk: &Bytes) -> Result<(), Refusal> {
        self.left = self.left.saturating_sub(1);
        if chunk.is_empty() || chunk.len() > MAX_SEALED {
            return Err(malformed(format!("no chunk has {} bytes", chunk.len())));
        }
        Ok(())
    }

    /// Bytes that some of its chunks added.
    pub fn stored(&mut self, added: u64) {
        self.added += added;
    }

    /// The answer when all chunks are stored.
    pub fn answer(&self) -> Response {
        Response::Stored { added: self.added }
    }
}

/// Hashes chunks that came in. Takes processor time, none of the store's.
pub fn check_chunks(chunks: Vec<Bytes>) -> Result<Vec<Record>, Refusal> {
    let check = |bytes| {
        let chunk = CheckedChunk::of(bytes);
        ChunkKind::of(&chunk).map_err(|e| {
            Refusal::new(RefusalCode::Corrupt, e.to_string(), "start the backup anew")
        })?;
        Ok(Record::Chunk(chunk))
    };
    chunks.into_iter().map(check).collect()
}

/// The store as a commit's walk sees it.
struct VaultShelf<'a, V: Volume> {
    store: &'a Store<V>,
    tenant: TenantId,
    epoch: i64,
    /// Complete nodes that the catalogue may not show yet.
    fresh: Vec<ChunkId>,
    recent: std::collections::HashSet<ChunkId>,
}

impl<'a, V: Volume> VaultShelf<'a, V> {
    fn new(store: &'a Store<V>, tenant: TenantId) -> Result<Self, StoreError> {
        let epoch = store.read(|c| c.epoch())?;
        Ok(Self {
            store,
            tenant,
            epoch,
            fresh: Vec::new(),
            recent: Default::default(),
        })
    }

    fn flush(&mut self) {
        let ids = std::mem::take(&mut self.fresh);
        if !ids.is_empty() {
            self.store.mark_complete(self.tenant, self.epoch, ids);
        }
    }
}

impl<V: Volume> Shelf for VaultShelf<'_, V> {
    fn locate(&mut self, ids: &[ChunkId]) -> Result<Vec<Option<Located>>, StoreError> {
        self.store.read(|c| c.locate(self.tenant, ids))
    }

    fn read(&mut self, id: ChunkId, at: Located) -> Result<Option<CheckedChunk>, StoreError> {
        self.store.read_chunk(self.tenant, id, at).map(Some)
    }

    fn is_complete(&self, id: ChunkId, at: &Located) -> bool {
        at.complete || self.recent.contains(&id)
    }

    fn set_complete(&mut self, id: ChunkId) {
        self.fresh.push(id);
        // Only a repeated walk below what was just walked is lost when these are dropped.
        if self.recent.len() >= 64 * MARK_BATCH {
            self.recent.clear();
        }
        self.recent.insert(id);
        if self.fresh.len() >= MARK_BATCH {
            self.flush();
        }
    }
}

fn check_ids(ids: &[ChunkId]) -> Result<(), Refusal> {
    if ids.len() > MAX_IDS {
        return Err(malformed(format!(
            "{} ids in one request are over the limit of {MAX_IDS}",
            ids.len()
        )));
    }
    Ok(())
}

/// A peer that breaks the protocol.
pub fn malformed(message: String) -> Refusal {
    Refusal::new(
        RefusalCode::Malformed,
        message,
        "update this program and the vault to the same release",
    )
}

fn forbidden(message: &str, remedy: &str) -> Refusal {
    Refusal::new(RefusalCode::Forbidden, message, remedy)
}

fn not_found(message: String) -> Refusal {
    Refusal::new(
        RefusalCode::NotFound,
        message,
        "see what there is: 'relevo-recover list'",
    )
}

fn token_refused(error: TokenError) -> Refusal {
    let remedy = match &error {
        TokenError::Store(error) => return error.clone().into(),
        TokenError::NamelessToken(tenant) | TokenError::OtherTenant(tenant) => {
            format!(
                "use the keys of the token's tenant, or make a token with --tenant; here {tenant}"
            )
        }
        _ => "ask the vault's administrator for a new token: 'relevo-vault token'".into(),
    };
    Refusal::new(RefusalCode::Token, error.to_string(), remedy)
}
