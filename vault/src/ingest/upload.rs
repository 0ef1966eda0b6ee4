//! An agent's upload: the session, what is known already, chunks, and the commit.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;

use relevo_wire::chunk::{CheckedChunk, MAX_SEALED};
use relevo_wire::manifest::{PublicManifest, SealedManifest};
use relevo_wire::message::{MAX_MISSING, MAX_PUT, Refusal, RefusalCode, Response};
use relevo_wire::{ChunkId, ServerId, SessionId, TenantId, Timestamp};

use super::refusal::{forbidden, malformed};
use super::shelf::VaultShelf;
use super::{Vault, check_ids};
use crate::collect::Opening;
use crate::completeness::{self, Fault};
use crate::error::StoreError;
use crate::record::{ChunkKind, PointRecord, Record};
use crate::retention::lock_at_commit;
use crate::store::stored_size;
use crate::volume::Volume;

/// Uploads that one server may have open; opening one more closes the oldest.
const SESSIONS_PER_SERVER: usize = 16;
/// Longest clear part of a manifest: an inventory of some hundred MiB. Lists hold many of them.
const MAX_PUBLIC: usize = 256 * 1024;
/// How often a commit walks again when what it walked was removed meanwhile.
const COMMIT_TRIES: u32 = 4;

/// An upload that is open.
pub(super) struct Session {
    tenant: TenantId,
    server: ServerId,
    added: u64,
    /// Counts sessions, so that the oldest can be told.
    number: u64,
    opening: Arc<Opening>,
}

impl<V: Volume> Vault<V> {
    pub(super) fn open_session(&self, tenant: TenantId, server: ServerId) -> Response {
        let mut sessions = self.sessions();
        sessions.retain(|_, s| !s.opening.is_forgotten());
        let mine = |s: &&Session| s.tenant == tenant && s.server == server;
        if sessions.values().filter(mine).count() >= SESSIONS_PER_SERVER {
            let oldest = sessions
                .iter()
                .filter(|(_, s)| mine(s))
                .min_by_key(|(_, s)| s.number)
                .map(|(id, _)| *id);
            oldest.and_then(|id| sessions.remove(&id));
        }
        let number = sessions.values().map(|s| s.number + 1).max().unwrap_or(0);
        let session = SessionId::random();
        sessions.insert(
            session,
            Session {
                tenant,
                server,
                added: 0,
                number,
                opening: self.store.openings().open(tenant),
            },
        );
        Response::SessionOpened { session }
    }

    pub(super) fn check_session(
        &self,
        tenant: TenantId,
        server: ServerId,
        session: SessionId,
    ) -> Result<(u64, Arc<Opening>), Refusal> {
        match self.sessions().get(&session) {
            Some(s) if s.tenant == tenant && s.server == server && s.opening.touch() => {
                Ok((s.added, s.opening.clone()))
            }
            _ => Err(Refusal::new(
                RefusalCode::NotFound,
                "this upload is not open here: the vault was started anew since, or it lay idle \
                 for a day, or is too old",
                "open it again; what was stored is kept",
            )),
        }
    }

    /// Who is told that a chunk is stored counts on it: it stays while the upload is open.
    pub(super) fn have(
        &self,
        tenant: TenantId,
        opening: &Opening,
        ids: &[ChunkId],
    ) -> Result<Response, Refusal> {
        check_ids(ids)?;
        self.keep(tenant, opening, ids)?;
        let found = self.store.read(|c| c.locate_usable(tenant, ids))?;
        let mut bits = vec![0u8; ids.len().div_ceil(8)];
        for (at, _) in found.iter().enumerate().filter(|(_, f)| f.is_some()) {
            bits[at / 8] |= 1 << (at % 8);
        }
        Ok(Response::Known(bits))
    }

    /// Chunks to which nothing refers stay as long as the upload is open.
    fn keep(&self, tenant: TenantId, opening: &Opening, ids: &[ChunkId]) -> Result<(), StoreError> {
        let opened = opening.opened();
        let old = self
            .store
            .read(|c| c.unreferenced_of(tenant, opened, ids))?;
        if old.is_empty() {
            return Ok(());
        }
        self.store.in_writer(move |ledger| {
            ledger
                .catalogue()
                .transaction(|c| c.renew_unreferenced(tenant, &old))
        })
    }

    pub(super) fn commit(
        &self,
        tenant: TenantId,
        server: ServerId,
        session: SessionId,
        manifest: SealedManifest,
    ) -> Result<Response, Refusal> {
        let corrupt =
            |what: String| Refusal::new(RefusalCode::Corrupt, what, "start the backup anew");
        if manifest.public_length() > MAX_PUBLIC {
            let found = manifest.public_length();
            return Err(corrupt(format!(
                "a manifest's clear part of {found} bytes is over the limit of {MAX_PUBLIC}"
            )));
        }
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
        let (added, opening) = self.check_session(tenant, server, session)?;
        let mut point = PointRecord {
            manifest,
            committed: Timestamp::now(),
            stored: added,
            locked: lock_at_commit(&self.store, &self.settings.now(), tenant, server)?,
        };
        let body = minicbor::to_vec(&point).map_err(|e| corrupt(e.to_string()))?;
        point.stored += stored_size(body.len());
        let stored = point.stored;
        let mut tries = 1;
        loop {
            self.keep(tenant, &opening, &public.roots)?;
            for ids in public.inventory.chunks(1024) {
                self.keep(tenant, &opening, ids)?;
            }
            if let Some(incomplete) = self.walk(tenant, &public)? {
                return Ok(incomplete);
            }
            let record = Record::Point(Box::new(point.clone()));
            match self.store.append_blocking(tenant, vec![record]) {
                Ok(_) => break,
                Err(StoreError::NotWhole(_)) if tries < COMMIT_TRIES => tries += 1,
                Err(error) => return Err(error.into()),
            }
        }
        self.sessions().remove(&session);
        tracing::info!(%server, point = %public.point, stored, "recovery point committed");
        Ok(Response::Committed { stored })
    }

    /// Proves that all is there that a point refers to; else the answer that says what is not.
    fn walk(&self, tenant: TenantId, public: &PublicManifest) -> Result<Option<Response>, Refusal> {
        let mut shelf = VaultShelf::new(&self.store, tenant)?;
        let faults = completeness::faults(&mut shelf, public, MAX_MISSING)?;
        shelf.flush();
        let misplaced = faults.iter().find_map(|fault| match fault {
            Fault::Misplaced(id, why) => Some(format!("chunk {id}: {why}")),
            Fault::Missing(_) => None,
        });
        if let Some(what) = misplaced {
            return Err(Refusal::new(
                RefusalCode::Corrupt,
                what,
                "start the backup anew",
            ));
        }
        Ok((!faults.is_empty()).then(|| Response::Incomplete {
            missing: faults.iter().map(Fault::chunk).collect(),
        }))
    }

    /// Counts what an upload added.
    pub fn note_added(&self, reception: &Reception) {
        if let Some(session) = self.sessions().get_mut(&reception.session) {
            session.added += reception.added;
            if reception.added > 0 {
                session.opening.grew();
            }
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Session>> {
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
    pub(super) fn new(tenant: TenantId, session: SessionId, chunks: u32) -> Result<Self, Refusal> {
        let left = usize::try_from(chunks).unwrap_or(usize::MAX);
        if left > MAX_PUT {
            return Err(malformed(format!(
                "a put of {chunks} chunks is over the limit of {MAX_PUT}"
            )));
        }
        Ok(Self {
            tenant,
            session,
            left,
            added: 0,
        })
    }

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
