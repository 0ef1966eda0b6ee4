//! Takes chunks out of the catalogue to which nothing refers, from roots down to data.

use std::sync::atomic::{AtomicBool, Ordering};

use relevo_wire::index::NodeLinks;
use relevo_wire::{ChunkId, TenantId, Timestamp};

use super::Rule;
use super::report::{HeldBack, Report};
use crate::catalogue::{ChunkState, Unreferenced};
use crate::error::StoreError;
use crate::record::ChunkKind;
use crate::store::Store;
use crate::volume::Volume;

/// Chunks that are looked at together.
const BATCH: usize = 512;
/// Chunks and children of one job of the writer: some ten milliseconds.
const JOB: usize = 2048;

/// A chunk that goes, and what it refers to.
type Going = (Unreferenced, Vec<ChunkId>);

/// False while something is lost that may come back: what is below a lost node looks as if
/// nothing referred to it.
pub(super) fn may_remove<V: Volume>(
    store: &Store<V>,
    tenant: TenantId,
    rule: &Rule,
    report: &mut Report,
) -> Result<bool, StoreError> {
    let losses = store.read(|c| c.open_losses(tenant))?;
    if losses.is_empty() {
        return Ok(true);
    }
    if rule.accept_loss && !rule.dry_run {
        let accepted = store
            .in_writer(move |ledger| ledger.catalogue().transaction(|c| c.accept_losses(tenant)))?;
        tracing::warn!(%tenant, accepted, "losses are accepted: what was below them may go");
        return Ok(true);
    }
    if rule.accept_loss {
        return Ok(true);
    }
    report.held_back.push(HeldBack {
        tenant,
        chunks: store.read(|c| c.count_unreferenced(tenant))?,
        reason: format!(
            "{} places of its packs are damaged or missing, and what they held may be needed to \
             tell what is garbage; the first: pack {:08} at {}",
            losses.len(),
            losses[0].pack,
            losses[0].offset
        ),
        remedy: "heal them, or back up the servers again; when all recovery points verify whole, \
                 or to go on without what is lost: 'relevo-vault collect --accept-loss'",
    });
    Ok(false)
}

/// Removes until nothing is left that may go.
pub(super) fn remove<V: Volume>(
    store: &Store<V>,
    tenant: TenantId,
    rule: &Rule,
    stop: &AtomicBool,
    report: &mut Report,
) -> Result<(), StoreError> {
    let mut unreadable = Vec::new();
    loop {
        // Children of what goes may have to be looked for before where this pass is by then.
        let passed = pass(store, tenant, rule, stop, report, &mut unreadable)?;
        if passed == 0 || stop.load(Ordering::Relaxed) {
            break;
        }
        unreadable.clear();
    }
    report.damage.append(&mut unreadable);
    Ok(())
}

/// Once through all that may go, in the order since when; how many went.
fn pass<V: Volume>(
    store: &Store<V>,
    tenant: TenantId,
    rule: &Rule,
    stop: &AtomicBool,
    report: &mut Report,
    unreadable: &mut Vec<String>,
) -> Result<u64, StoreError> {
    let mut after = None;
    let mut passed = 0;
    let mut before = rule.before(store, tenant);
    while !stop.load(Ordering::Relaxed) {
        // Never later than it was, should the clock be set back.
        before = before.min(rule.before(store, tenant));
        let batch = store.read(|c| c.unreferenced(tenant, before, after, BATCH))?;
        let Some(last) = batch.last() else { break };
        after = Some(*last);
        let mut going = Vec::new();
        let mut weight = 0;
        for (one, state) in with_states(store, tenant, &batch)? {
            let children = match children(store, tenant, one.id, state) {
                Ok(Some(children)) => children,
                Ok(None) => continue,
                Err(reason) => {
                    unreadable.push(format!("tenant {tenant}: {reason}"));
                    continue;
                }
            };
            weight += 1 + children.len();
            going.push((one, children));
            if weight >= JOB {
                passed += write(store, tenant, before, rule, &mut going, report)?;
                weight = 0;
            }
        }
        passed += write(store, tenant, before, rule, &mut going, report)?;
    }
    Ok(passed)
}

fn with_states<V: Volume>(
    store: &Store<V>,
    tenant: TenantId,
    batch: &[Unreferenced],
) -> Result<impl Iterator<Item = (Unreferenced, ChunkState)>, StoreError> {
    let ids: Vec<ChunkId> = batch.iter().map(|one| one.id).collect();
    let states = store.read(|c| c.states(tenant, &ids))?;
    Ok(batch.iter().copied().zip(states))
}

/// What a chunk refers to; nothing when it found a referrer meanwhile. The error says why a node
/// cannot be read: then it stays, and with it what is below it.
pub(super) fn children<V: Volume>(
    store: &Store<V>,
    tenant: TenantId,
    id: ChunkId,
    state: ChunkState,
) -> Result<Option<Vec<ChunkId>>, String> {
    let Some(at) = state.place.filter(|_| state.refs == 0) else {
        return Ok(None);
    };
    if at.kind == ChunkKind::Data {
        return Ok(Some(Vec::new()));
    }
    let kept = |reason: String| format!("node {id} cannot be read and is kept: {reason}");
    let node = store
        .find_chunk(tenant, id, at)
        .map_err(|e| kept(e.to_string()))?;
    let Some(node) = node else {
        return Ok(None);
    };
    let links = NodeLinks::parse(&node).map_err(|e| kept(e.to_string()))?;
    Ok(Some(links.ids().collect()))
}

/// Has the writer remove what still may go.
fn write<V: Volume>(
    store: &Store<V>,
    tenant: TenantId,
    before: Timestamp,
    rule: &Rule,
    going: &mut Vec<Going>,
    report: &mut Report,
) -> Result<u64, StoreError> {
    if going.is_empty() {
        return Ok(0);
    }
    let going = std::mem::take(going);
    // Open uploads were perhaps told of a child while its parent stood: it stays while they
    // are open. With none, what was below goes now: its grace has passed with its parent's.
    let floor = store
        .openings()
        .oldest(tenant)
        .map(|_| rule.earlier(Timestamp::now()));
    let (chunks, bytes) =
        store.in_writer(move |ledger| ledger.remove_unreferenced(tenant, before, floor, &going))?;
    report.chunks_removed += chunks;
    report.bytes_died += bytes;
    Ok(chunks)
}
