//! What a request does, given who asks and the store. No network: tests drive it as they like.
//!
//! | who | may |
//! | --- | --- |
//! | applicant (no certificate of this vault) | `Enroll` |
//! | agent | `Hello`, `OpenSession`, `Have`, `Put`, `Commit` for its own server |
//! | recovery site | `Hello`, `ListServers`, `ListPoints`, `GetManifest`, `Get` of its tenant |

mod enrolment;
mod peer;
mod refusal;
mod shelf;
mod upload;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use relevo_wire::client::SOFTWARE;
use relevo_wire::identity::Authority;
use relevo_wire::message::{MAX_IDS, Refusal, Request, Response};
use relevo_wire::{ChunkId, SessionId, TenantId, Timestamp, VaultId};

use crate::settings::{Settings, SettingsWatch};
use crate::store::{ReadStep, Store, plan_reads};
use crate::volume::Volume;
use refusal::{forbidden, not_found};
use upload::Session;

pub use enrolment::CLIENT_VALIDITY;
pub use peer::Peer;
pub use refusal::malformed;
pub use upload::{Reception, check_chunks};

/// Recovery points in one answer: what fits into a frame with room.
const MAX_POINTS: usize = 4096;

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

/// A vault at work.
pub struct Vault<V> {
    id: VaultId,
    store: Store<V>,
    authority: Authority,
    sessions: Mutex<HashMap<SessionId, Session>>,
    settings: Arc<SettingsWatch>,
}

impl<V: Volume> Vault<V> {
    /// A vault over an open store.
    pub fn new(id: VaultId, store: Store<V>, authority: Authority) -> Self {
        Self {
            id,
            store,
            authority,
            sessions: Mutex::default(),
            settings: Arc::new(SettingsWatch::fixed(Settings::default())),
        }
    }

    /// The same with the operator's settings rather than the defaults.
    pub fn with_settings(mut self, settings: Arc<SettingsWatch>) -> Self {
        self.settings = settings;
        self
    }

    /// The operator's settings.
    pub fn settings(&self) -> &Arc<SettingsWatch> {
        &self.settings
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
                return Ok(Outcome::Receive(Reception::new(tenant, session, chunks)?));
            }
            (Peer::Agent(tenant, server), Request::Commit { session, manifest }) => {
                self.commit(tenant, server, session, manifest)?
            }
            (Peer::Recovery(tenant, _), Request::ListServers) => {
                Response::Servers(self.store.read(|c| c.servers(tenant))?)
            }
            (Peer::Recovery(tenant, _), Request::ListPoints { server, .. }) => {
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
