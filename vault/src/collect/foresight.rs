//! What a collection would do, without doing it. Memory: some hundred bytes for each chunk that
//! would go, and for each that would lose a referrer.

use std::collections::HashMap;

use relevo_wire::{ChunkId, TenantId};

use super::report::Report;
use super::{Rule, emptying, removal};
use crate::catalogue::ChunkState;
use crate::error::StoreError;
use crate::pack::{FIRST_ENTRY, entry_size};
use crate::store::Store;
use crate::volume::Volume;

/// Chunks that are looked at together.
const BATCH: usize = 512;

/// Adds to the report what would be done in a tenant.
pub(super) fn foresee<V: Volume>(
    store: &Store<V>,
    tenant: TenantId,
    rule: &Rule,
    report: &mut Report,
) -> Result<(), StoreError> {
    let mut dying: HashMap<u32, u64> = HashMap::new();
    let mut gone = 0;
    let mut all = store.read(|c| c.count_unreferenced(tenant))?;
    if removal::may_remove(store, tenant, rule, report)? {
        // How many of a chunk's referrers would stay.
        let mut left: HashMap<ChunkId, u64> = HashMap::new();
        let mut after = None;
        let before = rule.before(store, tenant);
        loop {
            let batch = store.read(|c| c.unreferenced(tenant, before, after, BATCH))?;
            let Some(last) = batch.last() else { break };
            after = Some(*last);
            let mut next: Vec<ChunkId> = batch.iter().map(|one| one.id).collect();
            while !next.is_empty() {
                let states = store.read(|c| c.states(tenant, &next))?;
                let mut below = Vec::new();
                for (id, state) in next.into_iter().zip(states) {
                    let unreferenced = ChunkState { refs: 0, ..state };
                    let children = match removal::children(store, tenant, id, unreferenced) {
                        Ok(Some(children)) => children,
                        Ok(None) => continue,
                        Err(reason) => {
                            report.damage.push(format!("tenant {tenant}: {reason}"));
                            continue;
                        }
                    };
                    if let Some(at) = state.place {
                        let size = entry_size(at.length as usize);
                        *dying.entry(at.pack).or_default() += size;
                        report.bytes_died += size;
                        gone += 1;
                    }
                    below.extend(orphans(store, tenant, children, &mut left)?);
                }
                all += below.len() as u64;
                next = below;
            }
        }
    }
    report.chunks_removed += gone;
    report.waiting += all.saturating_sub(gone);
    let mut packs = store.read(|c| c.pack_use(tenant))?;
    for used in &mut packs {
        used.dead += dying.get(&used.number).copied().unwrap_or(0);
    }
    for used in emptying::candidates(&packs, rule) {
        let live = used.length.saturating_sub(FIRST_ENTRY + used.dead);
        report.packs_retired += 1;
        report.packs_rewritten += u64::from(live > 0);
        report.bytes_copied += live;
        report.bytes_freed += used.length;
    }
    Ok(())
}

/// Those of a removed node's children to which nothing would refer any more.
fn orphans<V: Volume>(
    store: &Store<V>,
    tenant: TenantId,
    mut children: Vec<ChunkId>,
    left: &mut HashMap<ChunkId, u64>,
) -> Result<Vec<ChunkId>, StoreError> {
    children.sort_unstable();
    children.dedup();
    let unknown: Vec<ChunkId> = children
        .iter()
        .filter(|id| !left.contains_key(id))
        .copied()
        .collect();
    let states = store.read(|c| c.states(tenant, &unknown))?;
    for (id, state) in unknown.into_iter().zip(states) {
        left.insert(id, state.refs);
    }
    let mut orphans = Vec::new();
    for id in children {
        let Some(refs) = left.get_mut(&id) else {
            continue;
        };
        *refs = refs.saturating_sub(1);
        if *refs == 0 {
            orphans.push(id);
        }
    }
    Ok(orphans)
}
