//! Which packs are to be put together.
//!
//! Packs that are closed and in no group, and those of groups that are half empty, oldest first,
//! so many as a group holds. Fewer only when some have waited for a day: a small group costs
//! more, and is dissolved into a larger one as soon as there are packs for it.

use std::collections::{BTreeMap, BTreeSet};

use relevo_wire::{TenantId, VaultId};

use super::{Group, Groups, Member};

/// Groups to form and those to drop when these are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be written.
    pub form: Vec<Group>,
    /// To be taken away afterwards: each of their packs is in another group then.
    pub drop: Vec<Group>,
}

/// A closed pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Number and length.
    pub member: Member,
    /// It has waited long enough for others.
    pub waited: bool,
}

impl Plan {
    /// For one tenant.
    pub fn of(
        vault: VaultId,
        tenant: TenantId,
        closed: &[Closed],
        existing: &Groups,
        (data, parity): (usize, usize),
    ) -> Self {
        let mine = || existing.usable.iter().filter(|g| g.tenant == tenant);
        let (sparse, dense): (Vec<&Group>, Vec<&Group>) = mine().partition(|g| g.is_sparse());
        let covered: BTreeSet<u32> = dense.iter().flat_map(|g| numbers(g)).collect();
        let in_sparse: BTreeSet<u32> = sparse.iter().flat_map(|g| numbers(g)).collect();
        let known: BTreeMap<u32, Closed> = closed.iter().map(|c| (c.member.pack, *c)).collect();
        let free = |number: &u32| !covered.contains(number);
        // Those of half-empty groups first, so that these can go.
        let mut queue: Vec<Closed> = in_sparse
            .iter()
            .filter(|n| free(n))
            .filter_map(|n| known.get(n).copied())
            .collect();
        let fresh: Vec<Closed> = known
            .values()
            .filter(|c| free(&c.member.pack) && !in_sparse.contains(&c.member.pack))
            .copied()
            .collect();
        queue.extend(&fresh);
        let mut plan = Self::default();
        let mut number = existing.highest.get(&tenant).copied().unwrap_or(0);
        let mut group = |members: &[Closed]| {
            number += 1;
            let mut slots: Vec<_> = members.iter().map(|c| Some(c.member)).collect();
            slots.resize(data, None);
            Group::new(vault, tenant, number, slots, parity)
        };
        let whole = queue.len() / data * data;
        plan.form
            .extend(queue[..whole].chunks(data).map(&mut group));
        let placed: BTreeSet<u32> = queue[..whole].iter().map(|c| c.member.pack).collect();
        let waiting: Vec<Closed> = fresh
            .into_iter()
            .filter(|c| !placed.contains(&c.member.pack))
            .collect();
        if waiting.iter().any(|c| c.waited) {
            plan.form.push(group(&waiting));
        }
        let elsewhere = |number: &u32| placed.contains(number) || covered.contains(number);
        plan.drop = sparse
            .into_iter()
            .filter(|g| numbers(g).all(|number| elsewhere(&number)))
            .cloned()
            .collect();
        plan
    }
}

fn numbers(group: &Group) -> impl Iterator<Item = u32> + '_ {
    group.slots.iter().flatten().map(|member| member.pack)
}
