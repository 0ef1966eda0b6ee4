//! What is kept of a catalogue that is made anew, or that knew less than one of today: what it was
//! told of is not taken for what a crash left.
#![allow(clippy::unwrap_used)]

use relevo_wire::Timestamp;
use relevo_wire::chunk::CheckedChunk;

use super::catch_up_test::Packs;
use super::{Finding, Ledger};
use crate::catalogue::Catalogue;
use crate::pack::{ENTRY_HEADER, FIRST_ENTRY, entry_size};
use crate::rebuild::prepare_packs;
use crate::record::{Record, RetiredRecord};
use crate::volume::Volume;
use crate::volume::simulated::{Fault, SimulatedDisk};

fn append(ledger: &mut Ledger<SimulatedDisk>, packs: &Packs, byte: u8) {
    let record = Record::Chunk(CheckedChunk::of(vec![byte; 1000].into()));
    ledger.append(packs.tenant, &[&[record]]).unwrap();
}

fn catalogue(packs: &Packs, name: &str) -> Catalogue {
    Catalogue::open(&packs.dir.path().join(name)).unwrap().0
}

fn losses(ledger: &Ledger<SimulatedDisk>, packs: &Packs) -> Vec<(u32, u64)> {
    let losses = ledger.catalogue().losses(packs.tenant).unwrap();
    losses.iter().map(|loss| (loss.pack, loss.offset)).collect()
}

/// Guards what is damaged while the writer brings the catalogue up again, and fails, after it had
/// begun it anew: a catalogue that is empty by then is no witness that all is new.
#[test]
fn a_reading_anew_that_failed_makes_nothing_unfinished() {
    let packs = Packs::new();
    let pack = packs.pack(5);
    let (mut ledger, _) = packs.open("first").unwrap();
    ledger.catalogue.begin_anew().unwrap();
    ledger.behind = true;
    let second = FIRST_ENTRY + entry_size(1000);
    packs.disk.write_at(pack, second, &[7; 100]).unwrap();
    let before = packs.disk.content(pack).unwrap();
    append(&mut ledger, &packs, 100);
    let after = packs.disk.content(pack).unwrap();
    assert_eq!(after[..before.len()], before, "nothing is covered");
    assert_eq!(losses(&ledger, &packs), [(5, second)]);
    assert_eq!(packs.found(&ledger), 39);
}

/// Guards the end of the newest pack when only the index is damaged, or the catalogue older than
/// the packs: which entry was the last is still known, so its damage is no torn tail.
#[test]
fn damage_of_the_end_is_no_torn_tail_when_the_index_is_made_anew() {
    for at in [0, ENTRY_HEADER as u64] {
        let packs = Packs::new();
        let pack = packs.pack(5);
        let length = packs.disk.length(pack).unwrap();
        let last = length - entry_size(1000);
        packs.disk.write_at(pack, last + at, &[7; 20]).unwrap();
        catalogue(&packs, "first").abandon_index().unwrap();
        let (mut ledger, findings) = packs.open("first").unwrap();
        assert!(
            matches!(&findings[..], [Finding::Damaged(found, gap)] if *found == pack && gap.offset == last),
            "{findings:?}"
        );
        append(&mut ledger, &packs, 100);
        assert_eq!(packs.disk.length(pack).unwrap(), length, "nothing follows");
        assert_eq!(losses(&ledger, &packs), [(5, last)]);
        drop(ledger);
        // Once more: by then it stands on the list.
        catalogue(&packs, "first").abandon_index().unwrap();
        let (_, findings) = packs.open("first").unwrap();
        assert!(findings.iter().all(Finding::is_damage), "{findings:?}");
        assert_eq!(packs.disk.length(pack).unwrap(), length);
    }
}

/// Guards the other side: what a crash left behind the last entry that was known is cut off.
#[test]
fn what_a_crash_left_is_cut_off_when_the_index_is_made_anew() {
    let packs = Packs::new();
    let pack = packs.pack(5);
    let length = packs.disk.length(pack).unwrap();
    packs.disk.write_at(pack, length, &[7; 500]).unwrap();
    catalogue(&packs, "first").abandon_index().unwrap();
    let (_, findings) = packs.open("first").unwrap();
    assert!(
        matches!(findings[..], [Finding::TornTail { at, .. }] if at == length),
        "{findings:?}"
    );
    assert_eq!(packs.disk.length(pack).unwrap(), length);
}

/// Guards the newest pack when it is gone, or cut short, and the index with it: it is missed, and
/// neither its number nor what is left of it takes anything new.
#[test]
fn the_newest_pack_is_missed_when_the_index_is_made_anew() {
    for left in [
        None,
        Some(0),
        Some(FIRST_ENTRY),
        Some(FIRST_ENTRY + entry_size(1000)),
    ] {
        let packs = Packs::new();
        let pack = packs.pack(5);
        match left {
            None => packs.disk.vanish(pack),
            Some(length) => packs.disk.truncate(pack, length).unwrap(),
        }
        catalogue(&packs, "first").abandon_index().unwrap();
        let (mut ledger, findings) = packs.open("first").unwrap();
        assert_eq!(findings.len(), 1, "{left:?}: {findings:?}");
        assert!(findings[0].is_damage(), "{left:?}: {findings:?}");
        append(&mut ledger, &packs, 100);
        assert_eq!(packs.disk.length(pack).ok(), left);
        assert!(packs.disk.length(packs.pack(6)).unwrap() > FIRST_ENTRY);
        assert_eq!(losses(&ledger, &packs).len(), 1, "{left:?}");
    }
}

/// Guards a pack without a header that has others above it: it was made, or they were not; only
/// the newest may be one whose making failed.
#[test]
fn a_pack_below_others_was_made_though_it_is_empty() {
    for (number, length) in [(3, 0), (3, 100), (5, 0), (5, 100)] {
        let packs = Packs::new();
        let pack = packs.pack(number);
        packs.disk.truncate(pack, length).unwrap();
        let (ledger, findings) = packs.open("second").unwrap();
        if number == 5 {
            assert!(findings.iter().all(|f| !f.is_damage()), "{findings:?}");
            assert_eq!(losses(&ledger, &packs), []);
            continue;
        }
        assert!(
            matches!(findings[..], [Finding::Unreadable(found, _)] if found == pack),
            "{findings:?}"
        );
        assert_eq!(losses(&ledger, &packs), [(3, 0)]);
        assert_eq!(packs.disk.length(pack).unwrap(), length, "it is left");
    }
}

/// Guards a missing pack against hiding behind many that are gone on purpose.
#[test]
fn a_missing_pack_is_named_however_many_were_retired_before_it() {
    let packs = Packs::new();
    let (mut ledger, _) = packs.open("first").unwrap();
    ledger.active.clear();
    ledger.highest.insert(packs.tenant, 1107);
    let retired: Vec<Record> = (6..1107)
        .map(|pack| {
            let retired = Timestamp::now();
            Record::Retired(RetiredRecord { pack, retired })
        })
        .collect();
    ledger.append(packs.tenant, &[&retired]).unwrap();
    drop(ledger);
    let (_, findings) = packs.open("second").unwrap();
    assert_eq!(findings, [Finding::Missing(packs.pack(1107))]);
}

/// Guards the note of what a cut pack lost: once the pack has its length back, nothing else tells
/// of it.
#[test]
fn what_a_cut_pack_lost_is_noted_before_it_is_filled_up() {
    let packs = Packs::new();
    let pack = packs.pack(5);
    let cut = packs.disk.length(pack).unwrap() - 500;
    packs.disk.truncate(pack, cut).unwrap();
    let catalogue = catalogue(&packs, "first");
    let durable = || {
        let db = rusqlite::Connection::open(packs.dir.path().join("first")).unwrap();
        let value = "SELECT value FROM meta WHERE name = 'durable'";
        db.query_row(value, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let before = durable();
    // Behind the sync of the names.
    packs.disk.plan(1, Fault::Failing);
    prepare_packs(&*packs.disk, packs.vault, Some(&catalogue)).unwrap_err();
    packs.disk.kill();
    let losses = catalogue.losses(packs.tenant).unwrap();
    assert_eq!((losses.len(), losses[0].pack), (1, 5));
    assert!(durable() > before);
}

/// Guards entries that were acknowledged before catalogues kept which was the last: their damage
/// in a pack that is read again is left, and what a crash left behind them is not.
#[test]
fn without_a_last_entry_what_was_known_is_damaged_and_what_is_behind_it_unfinished() {
    let packs = Packs::new();
    let pack = packs.pack(5);
    let length = packs.disk.length(pack).unwrap();
    packs.alter("first", "DROP TABLE ends");
    // Who only reads makes no table: the disk may be full.
    assert!(catalogue(&packs, "first").ends().unwrap().is_empty());
    let second = FIRST_ENTRY + entry_size(1000);
    packs.disk.write_at(pack, second, &[7; 100]).unwrap();
    packs.disk.write_at(pack, length, &[7; 500]).unwrap();
    let before = packs.disk.content(pack).unwrap();
    let (mut ledger, findings) = packs.open("first").unwrap();
    assert!(
        matches!(&findings[..], [Finding::TornTail { at, .. }, Finding::Damaged(_, gap)]
            if *at == length && gap.offset == second),
        "{findings:?}"
    );
    let after = packs.disk.content(pack).unwrap();
    assert_eq!(after, before[..length as usize]);
    assert!(ledger.catalogue().ends().unwrap().contains_key(&pack));
    append(&mut ledger, &packs, 100);
    drop(ledger);
    assert!(packs.open("first").unwrap().1.is_empty(), "read once");
    // The last entry itself.
    packs.alter("first", "DELETE FROM ends");
    let length = packs.disk.length(pack).unwrap();
    let last = length - entry_size(1000);
    packs.disk.write_at(pack, last, &[7; 100]).unwrap();
    packs.disk.write_at(pack, length, &[7; 500]).unwrap();
    let (_, findings) = packs.open("first").unwrap();
    assert!(findings.iter().all(Finding::is_damage), "{findings:?}");
    assert_eq!(packs.disk.length(pack).unwrap(), length + 500);
}

/// Guards the opening of a vault whose user's quota is used up: that is a full disk.
#[test]
fn a_quota_that_is_used_up_is_a_full_disk() {
    const EDQUOT: i32 = 122;
    const ENOSPC: i32 = 28;
    const EIO: i32 = 5;
    let full = [EDQUOT, ENOSPC, EIO]
        .map(|number| super::catch_up::is_full(&std::io::Error::from_raw_os_error(number)));
    assert_eq!(full, [true, true, false]);
}
