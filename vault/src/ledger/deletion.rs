//! Deletes recovery points. The guard here is the only way to it: whoever asks, a person, the
//! retention policy or a request from the network, is asked the same questions by the writer, at
//! the moment of writing.

use relevo_wire::{PointId, ServerId, TenantId, Timestamp};
use serde::Serialize;

use super::Ledger;
use crate::clock::VaultTime;
use crate::error::StoreError;
use crate::record::{DeletionRecord, Record};
use crate::volume::Volume;

/// A recovery point that somebody wants deleted.
#[derive(Clone, Debug)]
pub struct Deletion {
    /// Which.
    pub point: PointId,
    /// Who: an identity, `local`, `retention`.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Also when it is its server's latest. A policy never asks for that.
    pub latest_too: bool,
}

/// Why a recovery point was not deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "because", rename_all = "kebab-case")]
pub enum Kept {
    /// There is none of this id.
    #[error("there is no such recovery point")]
    Unknown,
    /// Its lock has not ended.
    #[error("it is locked for {} more", remaining(*.until, *.now))]
    Locked {
        /// Until then, in vault time.
        until: VaultTime,
        /// Vault time now.
        now: VaultTime,
    },
    /// It is held.
    #[error("it is held: {reason}")]
    Held {
        /// Why.
        reason: String,
    },
    /// It is its server's latest.
    #[error("it is its server's latest")]
    Latest,
    /// Its entry cannot be read, and with it whether it is locked.
    #[error("whether it is locked cannot be told: {reason}")]
    Unreadable {
        /// What is wrong with the entry.
        reason: String,
    },
}

impl Kept {
    /// What the administrator can do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unknown => "'relevo-vault images' lists the recovery points",
            Self::Locked { .. } => {
                "wait: nobody can shorten a lock; 'relevo-vault locks' lists them"
            }
            Self::Held { .. } => "'relevo-vault release' ends a hold",
            Self::Latest => "say --even-latest when the server's latest image is to go as well",
            Self::Unreadable { .. } => "run 'relevo-vault verify', then 'relevo-vault rebuild'",
        }
    }
}

/// The time that a lock lasts yet.
pub fn remaining(until: VaultTime, now: VaultTime) -> crate::settings::Span {
    let left = until.since(now);
    // Rounded up: a lock with a moment left is not one with none.
    crate::settings::Span::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0))
}

/// What became of each wanted deletion, in their order.
pub type Deleted = Vec<Result<(), Kept>>;

impl<V: Volume> Ledger<V> {
    /// Deletes those recovery points that may be. When this returns, that is durable.
    pub fn delete(&mut self, tenant: TenantId, wanted: &[Deletion]) -> Result<Deleted, StoreError> {
        self.make_ready()?;
        let highest = self.highest.get(&tenant).copied().unwrap_or(0);
        let deleted = Timestamp::now();
        let (mut records, mut answers) = (Vec::new(), Vec::with_capacity(wanted.len()));
        for (at, deletion) in wanted.iter().enumerate() {
            if wanted[..at].iter().any(|d| d.point == deletion.point) {
                answers.push(Err(Kept::Unknown));
                continue;
            }
            let judged = self.guard(tenant, deletion)?;
            if let Ok(server) = &judged {
                records.push(Record::Deletion(DeletionRecord {
                    point: deletion.point,
                    server: *server,
                    deleted,
                    by: deletion.by.clone(),
                    reason: deletion.reason.clone(),
                    highest,
                }));
            }
            answers.push(judged.map(drop));
        }
        if !records.is_empty() {
            self.append_judged(tenant, &[&records])?;
        }
        Ok(answers)
    }

    /// Whether a recovery point may be deleted now; of which server it is.
    ///
    /// What its own entry in the packs says of its lock counts beside what the catalogue says: a
    /// catalogue that was altered opens no lock that was given at the commit.
    fn guard(
        &self,
        tenant: TenantId,
        deletion: &Deletion,
    ) -> Result<Result<ServerId, Kept>, StoreError> {
        let point = deletion.point;
        let Some(place) = self.catalogue.point_place(tenant, point)? else {
            return Ok(Err(Kept::Unknown));
        };
        let now = self.clock.now();
        let in_pack = match self.lock_in_pack(tenant, point, place) {
            Ok(until) => until,
            Err(reason) => return Ok(Err(Kept::Unreadable { reason })),
        };
        let until = self.catalogue.locked_until(tenant, point)?.max(in_pack);
        if until > now {
            return Ok(Err(Kept::Locked { until, now }));
        }
        if let Some(reason) = self.catalogue.hold(tenant, point)? {
            return Ok(Err(Kept::Held { reason }));
        }
        let latest = self.catalogue.is_latest(tenant, place.server, point)?;
        if latest && !deletion.latest_too {
            return Ok(Err(Kept::Latest));
        }
        Ok(Ok(place.server))
    }
}
