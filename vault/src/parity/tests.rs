//! Parity on a disk that flips bits, loses sectors and files, and crashes at every write.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use relevo_wire::{TenantId, VaultId};

use super::*;
use crate::volume::simulated::{Dice, Fault, SimulatedDisk};

/// Packs with parity, and what their files held.
struct Shelf {
    disk: SimulatedDisk,
    vault: VaultId,
    group: Group,
    content: Vec<(FileId, Vec<u8>)>,
}

impl Shelf {
    /// Packs of some blocks in slots of which one may be empty.
    fn new(seed: u64, packs: usize, slots: usize, parity: usize) -> Self {
        let mut shelf = Self::without_parity(seed, packs, slots, parity);
        assert!(form(&shelf.disk, &shelf.group, || Ok(true)).unwrap());
        let bytes = shelf.read(shelf.group.file()).unwrap();
        shelf.content.push((shelf.group.file(), bytes));
        shelf
    }

    fn without_parity(seed: u64, packs: usize, slots: usize, parity: usize) -> Self {
        let disk = SimulatedDisk::new(seed);
        let (vault, tenant) = (VaultId::random(), TenantId::random());
        let mut dice = Dice::new(seed ^ 77);
        let mut members = Vec::new();
        let mut content = Vec::new();
        for number in 1..=packs as u32 {
            let pack = PackId { tenant, number };
            let length = 1 + dice.roll(3 * BLOCK as u64);
            let mut bytes = vec![0; length as usize];
            let mut noise = blake3::Hasher::new();
            noise
                .update(&seed.to_le_bytes())
                .update(&number.to_le_bytes());
            noise.finalize_xof().fill(&mut bytes);
            disk.create(pack).unwrap();
            disk.write_at(pack, 0, &bytes).unwrap();
            disk.sync(pack).unwrap();
            members.push(Some(Member {
                pack: number,
                length,
            }));
            content.push((pack.into(), bytes));
        }
        disk.sync_directory(tenant).unwrap();
        members.resize(slots, None);
        let group = Group::new(vault, tenant, 1, members, parity);
        Self {
            disk,
            vault,
            group,
            content,
        }
    }

    fn read(&self, file: FileId) -> io::Result<Vec<u8>> {
        let length = self.disk.length(file)?;
        read_exact(&self.disk, file, 0, length as usize).map(|bytes| bytes.to_vec())
    }

    fn flip(&self, file: FileId, at: u64) {
        let mut byte = [0];
        self.disk.read_at(file, at, &mut byte).unwrap();
        self.disk.write_at(file, at, &[byte[0] ^ 4]).unwrap();
    }

    fn assert_whole(&self, context: &str) {
        for (file, bytes) in &self.content {
            let found = self
                .read(*file)
                .unwrap_or_else(|e| panic!("{context}: {file}: {e}"));
            assert!(found == *bytes, "{context}: {file} differs");
        }
    }
}

/// What happens to one of the files of a column.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip,
    Unreadable,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Guards the promise of parity: whatever happens to so many of the blocks of each column
    /// as there is parity, of packs or of the parity itself, all is as it was, bit for bit.
    #[test]
    fn damage_up_to_the_bound_heals_bit_for_bit(
        seed in any::<u64>(), packs in 1usize..5, empty in 0usize..2, parity in 1usize..4,
        harms in proptest::collection::vec((any::<u64>(), any::<bool>()), 1..12),
    ) {
        let shelf = Shelf::new(seed, packs, packs + empty, parity);
        let group = &shelf.group;
        let mut harmed = vec![Vec::new(); group.columns as usize];
        for (place, flip) in harms {
            let mut dice = Dice::new(place);
            let column = dice.roll(group.columns.into()) as u32;
            let which = dice.roll((packs + parity) as u64) as usize;
            let in_column: &mut Vec<usize> = &mut harmed[column as usize];
            if in_column.len() >= parity || in_column.contains(&which) {
                continue;
            }
            let (file, from, length) = match which.checked_sub(packs) {
                None => {
                    let pack = group.members().nth(which).unwrap().1;
                    let length = group.block_length(which, column) as u64;
                    (FileId::from(pack), u64::from(column) * BLOCK as u64, length)
                }
                Some(at) => {
                    (group.file(), group.parity_at(column) + (at * BLOCK) as u64, BLOCK as u64)
                }
            };
            if length == 0 {
                continue;
            }
            in_column.push(which);
            let at = from + dice.roll(length);
            match if flip { Harm::Flip } else { Harm::Unreadable } {
                Harm::Flip => shelf.flip(file, at),
                Harm::Unreadable => shelf.disk.lose(file, at..at + 1),
            }
        }
        let harmed: u64 = harmed.iter().map(|column| column.len() as u64).sum();
        let healed = heal(&shelf.disk, group, 0..group.columns).unwrap();
        prop_assert_eq!((healed.damaged, healed.restored), (harmed, harmed));
        prop_assert!(healed.beyond.is_empty() && !healed.stale);
        shelf.assert_whole("healed");
        let again = heal(&shelf.disk, group, 0..group.columns).unwrap();
        prop_assert_eq!(again, Restored::default());
    }

    /// Guards what is left: beyond the bound nothing is written, and all other columns heal.
    #[test]
    fn beyond_the_bound_nothing_is_changed(seed in any::<u64>(), parity in 1usize..3) {
        let packs = parity + 1;
        let shelf = Shelf::new(seed, packs, packs, parity);
        let mut damaged = Vec::new();
        for (_, pack, _) in shelf.group.members() {
            shelf.flip(pack.into(), 0);
            damaged.push(shelf.read(pack.into()).unwrap());
        }
        let healed = heal(&shelf.disk, &shelf.group, 0..shelf.group.columns).unwrap();
        prop_assert_eq!((healed.beyond.len(), healed.restored), (packs, 0));
        for ((_, pack, _), bytes) in shelf.group.members().zip(damaged) {
            prop_assert!(shelf.read(pack.into()).unwrap() == bytes);
        }
    }

    /// Guards against the loss of whole files: so many packs as there is parity come back, one
    /// more does not, and what a lost or cut pack still has is used.
    #[test]
    fn lost_and_cut_packs_come_back(seed in any::<u64>(), lost in 0usize..4) {
        let shelf = Shelf::new(seed, 5, 5, 2);
        let members: Vec<_> = shelf.group.members().collect();
        for &(_, pack, _) in &members[..lost] {
            shelf.disk.vanish(pack);
        }
        if lost < 2 {
            let (_, pack, length) = members[4];
            shelf.disk.truncate(pack, Dice::new(seed).roll(length)).unwrap();
        }
        let done = restore_lost(&shelf.disk, shelf.vault, &|_| false, &|_, _| false).unwrap();
        if lost > 2 {
            prop_assert_eq!(done[0].beyond.len(), lost);
            prop_assert!(shelf.disk.length(members[0].1).is_err());
        } else {
            shelf.assert_whole("restored");
        }
        prop_assert!(shelf.disk.list_files().unwrap().iter().all(|f| f.kind != FileKind::NewPack));
    }
}

/// Guards packs and parity against a crash at any moment of healing, forming and leaving.
#[test]
fn a_crash_at_any_write_loses_nothing_and_the_next_try_ends_it() {
    for seed in 0..6 {
        for after in 0.. {
            let shelf = Shelf::new(seed, 4, 4, 2);
            let members: Vec<_> = shelf.group.members().collect();
            shelf.disk.vanish(members[0].1);
            shelf.flip(members[2].1.into(), 0);
            shelf.disk.sync(members[2].1).unwrap();
            shelf.disk.plan(after, Fault::Crash);
            let healed = heal(&shelf.disk, &shelf.group, 0..shelf.group.columns);
            shelf.disk.crash();
            sweep(&shelf.disk).unwrap();
            let again = heal(&shelf.disk, &shelf.group, 0..shelf.group.columns).unwrap();
            assert!(
                again.beyond.is_empty(),
                "seed {seed}, crash {after}: {again:?}"
            );
            shelf.assert_whole(&format!("seed {seed}, crash {after}"));
            if healed.is_ok() {
                assert_eq!(again.restored, 0, "seed {seed}: what was done is durable");
                break;
            }
        }
        for after in 0.. {
            let shelf = Shelf::without_parity(seed, 3, 3, 1);
            shelf.disk.plan(after, Fault::Crash);
            let formed = form(&shelf.disk, &shelf.group, || Ok(true));
            shelf.disk.crash();
            sweep(&shelf.disk).unwrap();
            let found = groups(&shelf.disk, shelf.vault, None).unwrap();
            assert!(found.lost.is_empty(), "half a file has the name");
            if let Some(group) = found.usable.first() {
                shelf.disk.vanish(group.members().next().unwrap().1);
                heal(&shelf.disk, group, 0..group.columns).unwrap();
            }
            shelf.assert_whole(&format!("seed {seed}, crash {after} while forming"));
            if formed.is_ok() {
                assert_eq!(found.usable.len(), 1);
                break;
            }
        }
    }
}

/// Guards a group's other packs when the collector takes one away, at any crash; and a pack that
/// is damaged itself, or whose parity is, when it leaves.
#[test]
fn a_pack_leaves_its_group_and_the_others_still_heal() {
    for harm in 0..3 {
        for after in 0.. {
            let mut shelf = Shelf::new(9, 4, 4, 2);
            let members: Vec<_> = shelf.group.members().collect();
            let (leaving, stays) = (members[1].1, members[3].1);
            match harm {
                0 => {}
                1 => shelf.flip(leaving.into(), 3),
                _ => shelf.flip(shelf.group.file(), shelf.group.parity_at(0)),
            }
            shelf.disk.plan(after, Fault::Crash);
            let left = before_retire(&shelf.disk, shelf.vault, leaving);
            shelf.disk.crash();
            sweep(&shelf.disk).unwrap();
            if left.is_ok() {
                shelf.disk.vanish(leaving);
                shelf.content.retain(|(file, _)| *file != leaving.into());
            }
            // The leaving pack's own damage is nobody's concern any more.
            shelf
                .content
                .retain(|(file, _)| file.kind == FileKind::Pack && *file != leaving.into());
            let groups = groups(&shelf.disk, shelf.vault, None).unwrap().usable;
            assert_eq!(groups.len(), 1);
            assert_eq!(
                groups[0].slot(leaving).is_none(),
                left.is_ok() || groups[0].occupied() == 3
            );
            shelf.disk.vanish(stays);
            let healed = heal(&shelf.disk, &groups[0], 0..groups[0].columns).unwrap();
            assert!(
                healed.beyond.is_empty(),
                "harm {harm}, crash {after}: {healed:?}"
            );
            shelf.assert_whole(&format!("harm {harm}, crash {after}"));
            if left.is_ok() {
                break;
            }
        }
    }
    let shelf = Shelf::new(1, 2, 2, 1);
    for (_, pack, _) in shelf.group.members() {
        before_retire(&shelf.disk, shelf.vault, pack).unwrap();
        shelf.disk.vanish(pack);
    }
    assert!(
        groups(&shelf.disk, shelf.vault, None)
            .unwrap()
            .usable
            .is_empty()
    );
}

/// Guards the parity itself: it must not be remade from what is damaged.
#[test]
fn a_pack_does_not_leave_while_that_would_lose_another() {
    let shelf = Shelf::new(3, 3, 3, 1);
    let members: Vec<_> = shelf.group.members().collect();
    shelf.flip(members[0].1.into(), 0);
    shelf.flip(members[1].1.into(), 0);
    let parity = shelf.read(shelf.group.file()).unwrap();
    assert!(before_retire(&shelf.disk, shelf.vault, members[1].1).is_err());
    assert!(shelf.read(shelf.group.file()).unwrap() == parity);
}

/// Guards parity against its own damage: either copy of header and table is enough.
#[test]
fn one_copy_of_header_and_checksums_is_enough() {
    let shelf = Shelf::new(4, 3, 3, 1);
    let group = &shelf.group;
    let places = [
        (0, group.row_at(0)),
        (
            layout::SECOND_COPY + 70,
            group.second_row_at(1.min(group.columns - 1)),
        ),
    ];
    for (header, row) in places {
        shelf.flip(group.file(), header);
        shelf.flip(group.file(), row);
        shelf.flip(group.members().next().unwrap().1.into(), 0);
        let found = groups(&shelf.disk, shelf.vault, None).unwrap();
        let healed = heal(&shelf.disk, &found.usable[0], 0..1).unwrap();
        assert!(healed.restored > 0);
        heal(&shelf.disk, &found.usable[0], 0..group.columns).unwrap();
        shelf.assert_whole("healed");
    }
    shelf.flip(group.file(), 20);
    shelf.flip(group.file(), layout::SECOND_COPY + 20);
    let found = groups(&shelf.disk, shelf.vault, None).unwrap();
    assert_eq!((found.usable.len(), found.lost.len()), (0, 1));
}

/// Guards packs against being left without parity, or in two groups for ever.
#[test]
fn packs_are_put_together_oldest_first_and_small_groups_dissolve() {
    let (vault, tenant) = (VaultId::random(), TenantId::random());
    let closed = |numbers: std::ops::RangeInclusive<u32>, waited| -> Vec<Closed> {
        let one = |pack| Closed {
            member: Member { pack, length: 9 },
            waited,
        };
        numbers.map(one).collect()
    };
    let packs = |group: &Group| group.members().map(|m| m.1.number).collect::<Vec<_>>();
    let mut existing = Groups::default();
    let plan = Plan::of(vault, tenant, &closed(1..=3, false), &existing, (4, 2));
    assert_eq!(plan, Plan::default(), "three wait for a fourth");
    let plan = Plan::of(vault, tenant, &closed(1..=2, true), &existing, (4, 2));
    assert_eq!(packs(&plan.form[0]), [1, 2], "but not for ever");
    existing.usable.clone_from(&plan.form);
    existing.highest.insert(tenant, 1);
    let plan = Plan::of(vault, tenant, &closed(1..=3, false), &existing, (4, 2));
    assert_eq!(plan, Plan::default());
    let plan = Plan::of(vault, tenant, &closed(1..=5, false), &existing, (4, 2));
    assert_eq!(packs(&plan.form[0]), [1, 2, 3, 4]);
    assert_eq!((plan.form[0].number, plan.form.len()), (2, 1));
    assert_eq!(plan.drop, existing.usable);
}
