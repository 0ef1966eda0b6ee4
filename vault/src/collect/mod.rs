//! Garbage collection: takes back the space of what no recovery point needs any more, beside
//! uploads and restores. `docs/collection.md` tells it to administrators.
//!
//! * removal: chunks to which nothing has referred for longer than the grace, and than
//!   any upload is open, leave the catalogue, and with each node what it referred to. Costs what
//!   died: nothing looks at what lives.
//! * emptying: a pack with at least as many dead bytes as the rule says is rewritten; with
//!   no live ones it is only taken away. At the default share of one half each byte that is copied
//!   frees one or more.
//!
//! All writing is the writer's, in pieces small enough that uploads go on in between. There is no
//! state of a collection but what stands in packs and catalogue: one that is killed loses nothing,
//! and the next goes on where it was. Memory: a batch of nodes, a few MiB of entries, a
//! line for each pack, whatever the vault holds.

mod emptying;
mod foresight;
mod openings;
mod removal;
mod report;
mod upkeep;

#[cfg(test)]
mod collect_test;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use relevo_wire::{TenantId, Timestamp};

use crate::error::StoreError;
use crate::settings::Collect;
use crate::store::Store;
use crate::volume::Volume;

pub use openings::{Opening, Openings};
pub use report::{HeldBack, Report, text};
pub use upkeep::Collector;
pub(crate) use upkeep::note;

/// What is collected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// How long a chunk stays to which nothing refers.
    pub grace: Duration,
    /// The share of a pack that must be dead for it to be rewritten.
    pub rewrite_at: f64,
    /// Go on although something is lost that may come back.
    pub accept_loss: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl Rule {
    /// As the operator set it.
    pub fn of(settings: &Collect) -> Self {
        Self {
            grace: settings.grace.duration(),
            rewrite_at: settings.rewrite_at,
            accept_loss: false,
            dry_run: false,
        }
    }

    /// What became unreferenced before this moment may go now: the grace must have passed, not
    /// only until now, but before the oldest open upload was opened, which may count on what
    /// it was told.
    fn before<V: Volume>(&self, store: &Store<V>, tenant: TenantId) -> Timestamp {
        let now = Timestamp::now();
        let oldest = store.openings().oldest(tenant);
        self.earlier(oldest.map_or(now, |opened| opened.min(now)))
    }

    fn earlier(&self, moment: Timestamp) -> Timestamp {
        let grace = i64::try_from(self.grace.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(moment.as_millis().saturating_sub(grace))
    }
}

/// Collects in all tenants. One at a time: who comes second waits. Ends early, with what was done
/// until then, when `stop` is set.
pub fn collect<V: Volume>(
    store: &Store<V>,
    rule: &Rule,
    stop: &AtomicBool,
) -> Result<Report, StoreError> {
    let _alone = store.collect_alone();
    let mut report = Report {
        dry_run: rule.dry_run,
        ..Report::default()
    };
    if !rule.dry_run {
        emptying::take_away_retired(store, &mut report)?;
    }
    for tenant in store.read(|c| c.tenants())? {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // One tenant's trouble is no other's.
        match collect_tenant(store, tenant, rule, stop, &mut report) {
            Ok(()) => {}
            Err(error) if ends_all(&error) => return Err(error),
            Err(error) => report.fail(format_args!("tenant {tenant}"), &error),
        }
    }
    Ok(report)
}

fn collect_tenant<V: Volume>(
    store: &Store<V>,
    tenant: TenantId,
    rule: &Rule,
    stop: &AtomicBool,
    report: &mut Report,
) -> Result<(), StoreError> {
    if rule.dry_run {
        return foresight::foresee(store, tenant, rule, report);
    }
    if removal::may_remove(store, tenant, rule, report)? {
        removal::remove(store, tenant, rule, stop, report)?;
    }
    report.waiting += store.read(|c| c.count_unreferenced(tenant))?;
    emptying::empty(store, tenant, rule, stop, report)
}

/// True when nothing else can be done either.
fn ends_all(error: &StoreError) -> bool {
    matches!(error, StoreError::Stopped | StoreError::ReadOnly(_))
}
