//! What a request does, given who asks and the store. No network: tests drive it as they like.
//!
//! Who may ask what is a table in one place, [`permission`]. Everything is done within the tenant
//! of the certificate: what belongs to another tenant is answered as what does not exist.

mod enrolment;
mod governing;
mod instruction;
#[cfg(test)]
mod isolation_test;
mod peer;
pub mod permission;
mod quota;
mod refusal;
mod shelf;
mod standing;
mod upload;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use relevo_wire::client::SOFTWARE;
use relevo_wire::identity::Authority;
use relevo_wire::message::{MAX_IDS, Refusal, Request, Response};
use relevo_wire::{ChunkId, ServerId, SessionId, TenantId, Timestamp, VaultId};
use tokio::sync::watch;

use crate::audit::Audit;
use crate::catalogue::Catalogue;
use crate::metrics::Metrics;
use crate::settings::{Settings, SettingsWatch};
use crate::store::{ReadStep, Store, plan_reads};
use crate::volume::Volume;
use governing::unknown_point;
use quota::Usage;
use refusal::{forbidden, not_found};
use upload::Session;

pub use enrolment::CLIENT_VALIDITY;
pub use peer::{Caller, Peer};
pub use permission::Kind;
pub use quota::Reserved;
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
    audit: Option<Arc<Audit>>,
    metrics: Arc<Metrics>,
    usage: Usage,
    revocations: watch::Sender<u64>,
    stopping: Arc<AtomicBool>,
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
            audit: None,
            metrics: Arc::default(),
            usage: Usage::default(),
            revocations: watch::Sender::new(0),
            stopping: Arc::default(),
        }
    }

    /// The same with an audit log, which every privileged act goes into.
    pub fn with_audit(mut self, audit: Arc<Audit>) -> Self {
        self.audit = Some(audit);
        self
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

    /// Which vault.
    pub fn id(&self) -> VaultId {
        self.id
    }

    /// Packs and catalogue.
    pub fn store(&self) -> &Store<V> {
        &self.store
    }

    /// Has what takes long end at its next piece of work.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Set when what takes long is to end.
    pub fn stopping(&self) -> &Arc<AtomicBool> {
        &self.stopping
    }

    /// What a request does. Waits for the disk; not for threads that serve many.
    pub fn answer(&self, peer: Peer, request: Request) -> Result<Outcome, Refusal> {
        self.judge(&peer.into(), request)
    }

    fn judge(&self, caller: &Caller, request: Request) -> Result<Outcome, Refusal> {
        let kind = Kind::of(&request);
        permission::check(caller.peer, kind)?;
        if kind.is_noted() {
            self.check_audit()?;
        }
        if let Request::Enroll {
            secret,
            certificate_request,
            name,
            tenant,
        } = request
        {
            let enrolled = self.enroll(caller, &secret, &certificate_request, &name, tenant);
            return enrolled.map(Outcome::Answer);
        }
        let Some(tenant) = caller.peer.tenant() else {
            return Err(forbidden("nobody's request", "enrol with a token first"));
        };
        match caller.peer {
            Peer::Agent(_, server) => self.answer_agent(caller, tenant, server, request),
            _ => self.answer_reader(caller, tenant, request),
        }
    }

    /// What an agent asks.
    fn answer_agent(
        &self,
        caller: &Caller,
        tenant: TenantId,
        server: ServerId,
        request: Request,
    ) -> Result<Outcome, Refusal> {
        let answer = match request {
            Request::OpenSession => self.open_session(tenant, server),
            Request::Have { session, ids } => {
                let (_, opening) = self.check_session(tenant, server, session)?;
                self.have(tenant, &opening, &ids)?
            }
            Request::Put { session, chunks } => {
                self.check_session(tenant, server, session)?;
                let reception = Reception::new(tenant, session, chunks)?;
                // Before anything comes in for a tenant that may store nothing more.
                self.settle(self.reserve(tenant, 0)?, 0);
                return Ok(Outcome::Receive(reception));
            }
            Request::Commit { session, manifest } => {
                let committed = self.commit(tenant, server, session, manifest)?;
                if let Response::Committed { .. } = committed {
                    self.metrics.points_committed.increment();
                }
                committed
            }
            Request::GetPolicy => self.backup_policy(tenant, server)?,
            other => return self.answer_anybody(caller, other),
        };
        Ok(Outcome::Answer(answer))
    }

    /// What recovery sites and people ask.
    fn answer_reader(
        &self,
        caller: &Caller,
        tenant: TenantId,
        request: Request,
    ) -> Result<Outcome, Refusal> {
        let answer = match request {
            Request::ListServers => Response::Servers(self.store.read(|c| c.servers(tenant))?),
            Request::ListPoints { server, after } => {
                if !self.store.read(|c| c.has_server(tenant, server))? {
                    return Err(not_found(format!("there is no server {server}")));
                }
                let page = |c: &Catalogue| c.points(tenant, server, after, MAX_POINTS);
                Response::Points(self.store.read(page)?)
            }
            Request::GetManifest { point } => match self.store.read(|c| c.point(tenant, point))? {
                Some((manifest, _)) => Response::Manifest(manifest),
                None => return Err(unknown_point(point)),
            },
            Request::Get { ids } => {
                check_ids(&ids)?;
                let found = self.store.read(|c| c.locate(tenant, &ids))?;
                return Ok(Outcome::Send(tenant, plan_reads(&ids, &found)));
            }
            Request::Report => self.report(tenant)?,
            Request::AuditLog { after } => self.audit_log(tenant, after)?,
            Request::Hold { point, reason } => {
                self.set_hold(tenant, caller, point, true, reason)?
            }
            Request::Release { point, reason } => {
                self.set_hold(tenant, caller, point, false, reason)?
            }
            Request::LockPoint { point, days } => self.lock_point(tenant, caller, point, days)?,
            Request::DeletePoint {
                point,
                reason,
                even_latest,
            } => self.delete_point(tenant, caller, point, reason, even_latest)?,
            Request::Revoke { who, reason } => self.revoke_one(tenant, caller, &who, &reason)?,
            Request::MakeToken { role, valid, again } => {
                self.make_token(tenant, caller, role, valid, again.as_deref())?
            }
            other => return self.answer_anybody(caller, other),
        };
        Ok(Outcome::Answer(answer))
    }

    /// What everybody asks who is enrolled.
    fn answer_anybody(&self, caller: &Caller, request: Request) -> Result<Outcome, Refusal> {
        let answer = match request {
            Request::Hello { software } => self.welcome(caller.peer, &software)?,
            Request::Renew {
                certificate_request,
            } => self.renew(caller, &certificate_request)?,
            // The table lets nothing else come here.
            other => {
                let kind = Kind::of(&other).word();
                return Err(malformed(format!(
                    "'{kind}' is no request of {}",
                    caller.peer
                )));
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
