//! The policy of each server applied to its recovery points.

use relevo_wire::{PointId, Timestamp};
use serde::{Deserialize, Serialize};

use super::plan::{Now, plan};
use super::policy::{Keep, Policy};
use super::report::{self, ServerPlan};
use crate::catalogue::{Catalogue, ServerPoints};
use crate::clock::VaultTime;
use crate::error::VaultError;
use crate::ledger::Deletion;
use crate::settings::{Settings, Whose};
use crate::store::Store;
use crate::volume::Volume;

/// Deletions that the writer judges and writes together, between what others bring.
const BATCH: usize = 256;

/// What is pruned, and by what.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Scope {
    /// Only this server, by name or id.
    pub server: Option<String>,
    /// These rules rather than the settings'.
    pub keep: Keep,
}

/// What a pruning did.
#[derive(Clone, Debug, Serialize)]
pub struct Pruned {
    /// What the policies say, for each server.
    pub servers: Vec<ServerPlan>,
    /// Points deleted; none in a dry run.
    pub deleted: Vec<PointId>,
    /// Points that should have gone and had to stay.
    pub refused: Vec<Refused>,
}

/// A point that should have gone and had to stay.
#[derive(Clone, Debug, Serialize)]
pub struct Refused {
    /// Which.
    pub point: PointId,
    /// Why.
    pub because: String,
}

/// What the policies say of each server. Changes nothing.
pub fn plans(
    catalogue: &Catalogue,
    settings: &Settings,
    scope: &Scope,
    vault_time: VaultTime,
) -> Result<Vec<ServerPlan>, VaultError> {
    let now = Now {
        wall: Timestamp::now(),
        vault: vault_time,
    };
    let wanted = |s: &ServerPoints| match &scope.server {
        Some(wanted) => *wanted == s.name || *wanted == s.server.to_string(),
        None => true,
    };
    let servers = catalogue.servers_with_points()?;
    let servers: Vec<_> = servers.into_iter().filter(wanted).collect();
    if let (Some(server), true) = (&scope.server, servers.is_empty()) {
        return Err(VaultError::Usage {
            reason: format!("there is no server '{server}' with recovery points"),
            remedy: "'relevo-vault images' lists servers and recovery points".into(),
        });
    }
    let judge = |s: ServerPoints| {
        let policy = policy(settings, scope, &s);
        ServerPlan {
            tenant: s.tenant,
            server: s.server,
            policy: policy.to_string(),
            points: plan(&s.points, &policy, now),
            name: s.name,
        }
    };
    Ok(servers.into_iter().map(judge).collect())
}

fn policy(settings: &Settings, scope: &Scope, server: &ServerPoints) -> Policy {
    let own = settings.policy(Whose {
        tenant: server.tenant,
        server: server.server,
        name: &server.name,
    });
    let given = scope.keep.policy();
    let zone = scope.keep.time_zone.clone();
    let time_zone = zone.unwrap_or_else(|| own.time_zone.clone());
    match scope.keep.has_rules() {
        true => Policy { time_zone, ..given },
        false => Policy { time_zone, ..own },
    }
}

/// Deletes what the policies do not keep.
pub fn prune<V: Volume>(
    store: &Store<V>,
    settings: &Settings,
    scope: &Scope,
    by: &str,
    dry_run: bool,
) -> Result<Pruned, VaultError> {
    let time = store.vault_time();
    // The error of a wrong scope is not one of the store's.
    let servers = store.read(|catalogue| Ok(plans(catalogue, settings, scope, time)))??;
    let mut pruned = Pruned {
        servers,
        deleted: Vec::new(),
        refused: Vec::new(),
    };
    if dry_run {
        return Ok(pruned);
    }
    for server in &pruned.servers {
        let going: Vec<Deletion> = server
            .going()
            .map(|verdict| Deletion {
                point: verdict.point,
                by: by.into(),
                reason: format!("not kept by: {}", server.policy),
                latest_too: false,
            })
            .collect();
        for batch in going.chunks(BATCH) {
            let done = store.delete_blocking(server.tenant, batch.to_vec())?;
            for (deletion, done) in batch.iter().zip(done) {
                match done {
                    Ok(()) => pruned.deleted.push(deletion.point),
                    Err(kept) => pruned.refused.push(Refused {
                        point: deletion.point,
                        because: kept.to_string(),
                    }),
                }
            }
        }
    }
    Ok(pruned)
}

/// For people.
pub fn text(pruned: &Pruned, dry_run: bool) -> String {
    let mut text = report::text(&pruned.servers);
    for refused in &pruned.refused {
        text.push_str(&format!("kept {}: {}\n", refused.point, refused.because));
    }
    text.push_str(&match dry_run {
        true => "dry run: nothing was deleted\n".to_string(),
        false => format!("{} recovery points deleted\n", pruned.deleted.len()),
    });
    text
}
