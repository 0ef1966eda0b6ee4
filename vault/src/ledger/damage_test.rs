//! What is taken for unfinished and what for damage: nothing that was ever acknowledged is cut
//! off or covered, and nothing is written behind what may come back.
#![allow(clippy::unwrap_used)]

use relevo_wire::chunk::CheckedChunk;
use relevo_wire::{ChunkId, TenantId};

use super::catch_up_test::Packs;
use super::{Finding, Ledger};
use crate::pack::{ENTRY_HEADER, FIRST_ENTRY, entry_size};
use crate::record::Record;
use crate::volume::simulated::{Fault, SimulatedDisk};
use crate::volume::{PackId, Volume};

fn chunk(byte: u8, length: usize) -> (ChunkId, Record) {
    let chunk = CheckedChunk::of(vec![byte; length].into());
    (chunk.id(), Record::Chunk(chunk))
}

fn append(
    ledger: &mut Ledger<SimulatedDisk>,
    tenant: TenantId,
    byte: u8,
    length: usize,
) -> ChunkId {
    let (id, record) = chunk(byte, length);
    ledger.append(tenant, &[&[record]]).unwrap();
    id
}

fn is_readable(packs: &Packs, ledger: &Ledger<SimulatedDisk>, id: ChunkId) -> bool {
    let found = ledger.catalogue().locate(packs.tenant, &[id]).unwrap();
    found[0].is_some_and(|at| crate::store::read_chunk(&*packs.disk, packs.tenant, id, at).is_ok())
}

fn assert_damage_only(findings: &[Finding]) {
    assert!(!findings.is_empty());
    for finding in findings {
        assert!(finding.is_damage(), "{finding}");
    }
}

/// As the file system's copy of another day: its second entry and its end are not as written.
fn harm(packs: &Packs, pack: PackId, mut content: Vec<u8>) -> Vec<u8> {
    content[FIRST_ENTRY as usize + 1072 + 64] ^= 1;
    let length = content.len();
    content[length - 700] ^= 1;
    packs.disk.create(pack).unwrap();
    packs.disk.write_at(pack, 0, &content).unwrap();
    content
}

/// Guards what stands in a pack that was brought back after others were written: the catalogue
/// never read it, and yet its damage is no unfinished write.
#[test]
fn damage_of_an_older_pack_that_is_back_is_left() {
    for number in [2, 5] {
        let packs = Packs::new();
        let pack = packs.pack(number);
        let content = packs.disk.content(pack).unwrap();
        packs.disk.vanish(pack);
        // Of a pack that was the last one nobody knows, until another is missed beside it.
        let (mut ledger, _) = packs.open("second").unwrap();
        if number == 5 {
            let noted = ledger.catalogue().note_loss(pack, 0, 0, None);
            noted.unwrap();
        }
        append(&mut ledger, packs.tenant, 100, 20_000);
        drop(ledger);
        if number == 5 {
            packs.disk.vanish(pack);
        }
        let content = harm(&packs, pack, content);
        let (ledger, findings) = packs.open("second").unwrap();
        assert_damage_only(&findings);
        assert_eq!(packs.disk.content(pack).unwrap(), content, "it is left");
        assert!(packs.found(&ledger) >= 38 - 8);
        drop(ledger);
        assert!(packs.open("second").unwrap().1.is_empty(), "known by now");
    }
}

/// Guards what is left of a last pack that was cut short: its end is no unfinished write, and
/// what comes next stands in a pack of its own, so that what was cut off can come back.
#[test]
fn the_end_of_a_pack_that_was_cut_short_is_left_and_nothing_follows_it() {
    let packs = Packs::new();
    let pack = packs.pack(5);
    let cut = packs.disk.length(pack).unwrap() - 500;
    packs.disk.truncate(pack, cut).unwrap();
    let (mut ledger, findings) = packs.open("first").unwrap();
    assert_damage_only(&findings);
    let id = append(&mut ledger, packs.tenant, 100, 1000);
    assert_eq!(packs.disk.length(pack).unwrap(), cut);
    drop(ledger);
    let (mut ledger, findings) = packs.open("first").unwrap();
    assert!(findings.is_empty(), "{findings:?}");
    append(&mut ledger, packs.tenant, 101, 1000);
    assert_eq!(packs.disk.length(pack).unwrap(), cut);
    assert!(is_readable(&packs, &ledger, id));
}

/// Guards what was written where damage was cut off: an older catalogue that comes back knows
/// other entries there, and must not take those that stand there now for unfinished ones.
#[test]
fn an_older_catalogue_covers_nothing_that_was_written_since() {
    let lengths = [(400, false), (1000, true), (3000, false)];
    let cases = lengths.map(|case| [(case, true), (case, false)]);
    for ((length, aligned), keeps_ends) in cases.into_iter().flatten() {
        let packs = Packs::new();
        let (mut ledger, _) = packs.open("first").unwrap();
        append(&mut ledger, packs.tenant, 100, 1000);
        drop(ledger);
        let pack = packs.pack(5);
        let end = packs.disk.length(pack).unwrap();
        // The last entry is damaged, and the catalogue lost.
        let last = end - entry_size(1000);
        packs
            .disk
            .write_at(pack, last + ENTRY_HEADER as u64, &[7])
            .unwrap();
        let (mut ledger, findings) = packs.open("second").unwrap();
        assert!(
            matches!(findings[..], [Finding::TornTail { .. }]),
            "{findings:?}"
        );
        let written: Vec<ChunkId> = (150..154u8)
            .map(|byte| append(&mut ledger, packs.tenant, byte, length))
            .collect();
        assert_eq!(aligned, last + entry_size(length) == end);
        drop(ledger);
        let before = packs.disk.content(pack).unwrap();
        if !keeps_ends {
            packs.alter("first", "DROP TABLE ends");
        }
        let (ledger, _) = packs.open("first").unwrap();
        for id in written {
            assert!(is_readable(&packs, &ledger, id), "chunks of {length} bytes");
        }
        assert_eq!(packs.disk.content(pack).unwrap(), before);
        assert_eq!(packs.found(&ledger), 40);
    }
}

/// Guards the same when the pack is shorter than the older catalogue knew it, and was given its
/// length back: what is left is read again.
#[test]
fn an_older_catalogue_finds_what_was_written_in_a_pack_that_is_shorter_since() {
    let packs = Packs::new();
    let (mut ledger, _) = packs.open("first").unwrap();
    let pack = packs.pack(5);
    let first = packs.disk.length(pack).unwrap();
    append(&mut ledger, packs.tenant, 100, 5000);
    append(&mut ledger, packs.tenant, 102, 1000);
    drop(ledger);
    let end = packs.disk.length(pack).unwrap();
    for damaged in [first, end - entry_size(1000)] {
        packs.disk.write_at(pack, damaged, &[7]).unwrap();
    }
    let (mut ledger, _) = packs.open("second").unwrap();
    // Ends before what the first catalogue knows last.
    let id = append(&mut ledger, packs.tenant, 101, 900);
    drop(ledger);
    let length = packs.disk.length(pack).unwrap();
    assert!(length < end);
    // As when a vault is opened.
    packs.disk.write_at(pack, end - 1, &[0]).unwrap();
    let (catalogue, _) =
        crate::catalogue::Catalogue::open(&packs.dir.path().join("first")).unwrap();
    catalogue
        .note_loss(pack, length, end - length, None)
        .unwrap();
    drop(catalogue);
    for _ in 0..2 {
        let (ledger, findings) = packs.open("first").unwrap();
        assert!(findings.is_empty(), "{findings:?}");
        assert!(is_readable(&packs, &ledger, id));
        assert_eq!(packs.found(&ledger), 40);
    }
}

/// Guards what the catalogue knows when the last entry that it knows rots, or was healed: that
/// is no sign of an older catalogue.
#[test]
fn damage_of_the_last_entry_costs_no_more_than_it() {
    for healed in [false, true] {
        let packs = Packs::new();
        let pack = packs.pack(5);
        let end = packs.disk.length(pack).unwrap();
        let last = end - entry_size(1000);
        let (mut ledger, _) = packs.open("first").unwrap();
        let epoch = ledger.catalogue().epoch().unwrap();
        packs.disk.write_at(pack, last, &[7; 50]).unwrap();
        if healed {
            let cover = super::Cover {
                pack,
                offset: last,
                length: entry_size(1000),
                id: None,
            };
            assert!(ledger.cover_damage(cover).unwrap());
        }
        drop(ledger);
        let (ledger, findings) = packs.open("first").unwrap();
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!(ledger.catalogue().epoch().unwrap(), epoch);
        assert_eq!(packs.found(&ledger), 40);
    }
}

/// Guards the opening of a vault against an end of a pack of which no byte can be read: it is
/// named, all else is served, and what comes next is written elsewhere.
#[test]
fn a_vault_opens_though_none_of_what_is_to_be_read_can_be() {
    let packs = Packs::new();
    let pack = packs.pack(5);
    let known = packs.disk.length(pack).unwrap();
    let (mut ledger, _) = packs.open("other").unwrap();
    let id = append(&mut ledger, packs.tenant, 100, 3000);
    drop(ledger);
    // "first" does not know what came last.
    let length = packs.disk.length(pack).unwrap();
    packs.disk.lose(pack, known..length);
    let (mut ledger, findings) = packs.open("first").unwrap();
    assert!(
        matches!(findings[..], [Finding::Damaged(at, _)] if at == pack),
        "{findings:?}"
    );
    assert_eq!(packs.found(&ledger), 40);
    let losses = ledger.catalogue().losses(packs.tenant).unwrap();
    assert_eq!((losses[0].pack, losses[0].offset), (5, known));
    let again = append(&mut ledger, packs.tenant, 101, 1000);
    assert_eq!(packs.disk.length(pack).unwrap(), length);
    drop(ledger);
    // Read again by then, it is taken in when it is healed.
    packs.disk.mend();
    let (mut ledger, findings) = packs.open("first").unwrap();
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!(ledger.take_back_in(pack).unwrap(), 1);
    assert!(is_readable(&packs, &ledger, id) && is_readable(&packs, &ledger, again));
}

/// Guards full packs: one is on the disk before the next one begins, whatever a power cut leaves
/// of that; else a lost catalogue makes damage of what was unfinished.
#[test]
fn a_crash_leaves_nothing_unfinished_below_the_last_pack() {
    for seed in 0..60u64 {
        let packs = Packs::with_disk(seed);
        let (mut ledger, _) = packs.open("first").unwrap();
        ledger.set_roll_at(16 * 1024);
        let batch: Vec<Record> = (0..40u8).map(|n| chunk(100 + n, 1500).1).collect();
        packs.disk.plan(seed % 24, Fault::Crash);
        let done = ledger.append(packs.tenant, &[&batch]);
        drop(ledger);
        packs.disk.crash();
        let (ledger, findings) = packs.open("lost").unwrap();
        for finding in findings {
            assert!(!finding.is_damage(), "seed {seed}: {finding}");
        }
        let ids: Vec<ChunkId> = (0..40u8).map(|n| chunk(100 + n, 1500).0).collect();
        let there = ids.iter().filter(|id| is_readable(&packs, &ledger, **id));
        assert!(done.is_err() || there.count() == 40, "seed {seed}");
    }
}
