//! What people ask for one recovery point: hold, release, lock, delete.

use relevo_wire::{PointId, ServerId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::clock::VaultTime;
use crate::error::{StoreError, VaultError};
use crate::ledger::{Deletion, remaining};
use crate::record::{HoldRecord, LockRecord, Record};
use crate::revocation::check_reason;
use crate::settings::{Settings, Span, Whose};
use crate::store::Store;
use crate::volume::Volume;

/// Fewest digits of an id's beginning.
const MIN_DIGITS: usize = 4;

/// How a recovery point is named.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Which {
    /// Of this server, by name or id.
    pub server: Option<String>,
    /// Its id or the beginning of it; `latest` when the server is named.
    pub point: String,
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "recovery point {}", self.point)?;
        match &self.server {
            Some(server) => write!(f, " of {server}"),
            None => Ok(()),
        }
    }
}

/// The recovery point that was meant.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// Whose.
    pub tenant: TenantId,
    /// Of which server.
    pub server: ServerId,
    /// The server's name.
    pub name: String,
    /// The recovery point.
    pub point: PointId,
    /// The moment whose state it holds.
    pub taken: Timestamp,
}

/// A lock as `locks` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Lock {
    /// The recovery point.
    #[serde(flatten)]
    pub found: Found,
    /// Until when, in vault time.
    pub until: VaultTime,
    /// Seconds of vault time that are left.
    pub seconds_left: u64,
    /// When that will be by the wall clock, if the vault runs until then without a pause.
    pub ends_about: Timestamp,
}

/// The lock that a recovery point gets at its commit, by the settings of that moment.
pub fn lock_at_commit<V: Volume>(
    store: &Store<V>,
    settings: &Settings,
    tenant: TenantId,
    server: ServerId,
) -> Result<Option<VaultTime>, StoreError> {
    let name = store.read(|c| c.server_name(tenant, server))?;
    let whose = Whose {
        tenant,
        server,
        name: name.as_deref().unwrap_or_default(),
    };
    let millis = settings.immutability(whose).millis();
    Ok((millis > 0).then(|| store.vault_time().plus_millis(millis)))
}

/// Finds the recovery point that is meant.
pub fn find<V: Volume>(store: &Store<V>, which: &Which) -> Result<Found, VaultError> {
    let usage = |reason: String| VaultError::Usage {
        reason,
        remedy: "'relevo-vault images' lists servers and recovery points".into(),
    };
    let servers = store.read(|c| c.servers_with_points())?;
    let of_server = servers.into_iter().filter(|s| match &which.server {
        Some(wanted) => *wanted == s.name || *wanted == s.server.to_string(),
        None => true,
    });
    let all = of_server.flat_map(|s| {
        let (tenant, server, name) = (s.tenant, s.server, s.name);
        s.points.into_iter().map(move |point| Found {
            tenant,
            server,
            name: name.clone(),
            point: point.point,
            taken: point.taken,
        })
    });
    if which.point == "latest" {
        let Some(server) = &which.server else {
            return Err(usage("'latest' needs a server".into()));
        };
        let all: Vec<Found> = all.collect();
        if all.iter().any(|found| found.server != all[0].server) {
            return Err(usage(format!(
                "there are several servers '{server}': name one by its id"
            )));
        }
        let latest = all.into_iter().max_by_key(|found| found.taken);
        return latest.ok_or_else(|| usage(format!("there is no recovery point of '{server}'")));
    }
    if which.point.len() < MIN_DIGITS {
        return Err(usage(format!(
            "'{}' is too short for a recovery point: give {MIN_DIGITS} digits or more",
            which.point
        )));
    }
    let mut found: Vec<Found> = all
        .filter(|found| found.point.to_string().starts_with(&which.point))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(found), true) => Ok(found),
        (Some(_), false) => Err(usage(format!(
            "several recovery points begin with '{}'",
            which.point
        ))),
        (None, _) => Err(usage(format!(
            "there is no recovery point '{}'{}",
            which.point,
            match &which.server {
                Some(server) => format!(" of '{server}'"),
                None => String::new(),
            }
        ))),
    }
}

/// Holds a recovery point back from deletion, or ends that.
pub fn set_hold<V: Volume>(
    store: &Store<V>,
    which: &Which,
    held: bool,
    reason: &str,
    by: &str,
) -> Result<Found, VaultError> {
    check_reason(reason)?;
    let found = find(store, which)?;
    let before = store.read(|c| c.hold(found.tenant, found.point))?;
    if !held && before.is_none() {
        return Err(VaultError::Usage {
            reason: format!("recovery point {} is not held", found.point),
            remedy: "'relevo-vault prune --dry-run' says why each point stays".into(),
        });
    }
    // The latest counts: a wall clock that was set back must not make this one the earlier.
    let changed = store.read(|c| c.hold_changed(found.tenant, found.point))?;
    let after = changed.map(|changed| changed.plus(std::time::Duration::from_millis(1)));
    let when = Timestamp::now().max(after.unwrap_or(Timestamp::from_millis(i64::MIN)));
    let record = HoldRecord {
        point: found.point,
        held,
        when,
        by: by.into(),
        reason: reason.into(),
    };
    store.append_blocking(found.tenant, vec![Record::Hold(record)])?;
    tracing::info!(point = %found.point, held, reason, by, "hold changed");
    Ok(found)
}

/// Locks a recovery point from now on, or lengthens its lock.
pub fn lock<V: Volume>(
    store: &Store<V>,
    which: &Which,
    length: Span,
    by: &str,
) -> Result<Lock, VaultError> {
    let found = find(store, which)?;
    let now = store.vault_time();
    let millis = u64::try_from(length.duration().as_millis()).unwrap_or(u64::MAX);
    let until = now.plus_millis(millis);
    let known = store.read(|c| c.locked_until(found.tenant, found.point))?;
    if known >= until {
        return Err(VaultError::Usage {
            reason: format!(
                "recovery point {} is locked for {} already",
                found.point,
                remaining(known, now)
            ),
            remedy: "a lock can be lengthened and never shortened".into(),
        });
    }
    let record = LockRecord {
        point: found.point,
        until,
        when: Timestamp::now(),
        by: by.into(),
    };
    store.append_blocking(found.tenant, vec![Record::Lock(record)])?;
    // From here on what runs counts.
    store.note_clock(None)?;
    tracing::info!(point = %found.point, length = %length, by, "locked");
    Ok(shown(found, until, now))
}

/// What is locked and until when, the earliest end first.
pub fn locks<V: Volume>(store: &Store<V>) -> Result<Vec<Lock>, VaultError> {
    let now = store.vault_time();
    let locked = store.read(|c| c.locked_points(now))?;
    let show = |l: crate::catalogue::LockedPoint| {
        let found = Found {
            tenant: l.tenant,
            server: l.server,
            name: l.name,
            point: l.point,
            taken: l.taken,
        };
        shown(found, l.until, now)
    };
    Ok(locked.into_iter().map(show).collect())
}

fn shown(found: Found, until: VaultTime, now: VaultTime) -> Lock {
    let left = until.since(now);
    Lock {
        found,
        until,
        seconds_left: left.as_secs(),
        ends_about: Timestamp::now().plus(left),
    }
}

/// Deletes a recovery point, if the guard lets it go.
pub fn delete<V: Volume>(
    store: &Store<V>,
    which: &Which,
    reason: &str,
    even_latest: bool,
    by: &str,
) -> Result<Found, VaultError> {
    check_reason(reason)?;
    let found = find(store, which)?;
    let deletion = Deletion {
        point: found.point,
        by: by.into(),
        reason: reason.into(),
        latest_too: even_latest,
    };
    for kept in store.delete_blocking(found.tenant, vec![deletion])? {
        if let Err(kept) = kept {
            return Err(VaultError::Refused {
                reason: format!("recovery point {} is not deleted: {kept}", found.point),
                remedy: kept.remedy().into(),
            });
        }
    }
    tracing::info!(point = %found.point, server = found.name, reason, by, "deleted");
    Ok(found)
}
