//! What the first reading of the packs makes of damage.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use relevo_wire::chunk::CheckedChunk;
use relevo_wire::{ChunkId, TenantId, VaultId};

use super::{Finding, Ledger};
use crate::catalogue::Catalogue;
use crate::error::StoreError;
use crate::record::Record;
use crate::volume::simulated::{Fault, SimulatedDisk};
use crate::volume::{PackId, Volume};

pub(super) struct Packs {
    pub(super) disk: Arc<SimulatedDisk>,
    pub(super) vault: VaultId,
    pub(super) tenant: TenantId,
    ids: Vec<ChunkId>,
    pub(super) dir: tempfile::TempDir,
}

impl Packs {
    /// Five packs of eight chunks of 1000 bytes.
    pub(super) fn new() -> Self {
        Self::with_disk(1)
    }

    pub(super) fn with_disk(seed: u64) -> Self {
        let mut this = Self {
            disk: Arc::new(SimulatedDisk::new(seed)),
            vault: VaultId::random(),
            tenant: TenantId::random(),
            ids: Vec::new(),
            dir: tempfile::tempdir().unwrap(),
        };
        let (mut ledger, _) = this.open("first").unwrap();
        ledger.set_roll_at(16 * 1024);
        for number in 0..40u8 {
            let chunk = CheckedChunk::of(vec![1 + number; 1000].into());
            this.ids.push(chunk.id());
            let records = [Record::Chunk(chunk)];
            ledger.append(this.tenant, &[&records]).unwrap();
        }
        this
    }

    pub(super) fn open(
        &self,
        catalogue: &str,
    ) -> Result<(Ledger<SimulatedDisk>, Vec<Finding>), StoreError> {
        let path: &Path = self.dir.path();
        let (catalogue, fresh) = Catalogue::open(&path.join(catalogue))?;
        Ledger::open(self.disk.clone(), self.vault, catalogue, fresh)
    }

    /// Changes a catalogue behind its back.
    pub(super) fn alter(&self, catalogue: &str, sql: &str) {
        let db = rusqlite::Connection::open(self.dir.path().join(catalogue)).unwrap();
        db.execute_batch(sql).unwrap();
    }

    pub(super) fn pack(&self, number: u32) -> PackId {
        let tenant = self.tenant;
        PackId { tenant, number }
    }

    pub(super) fn found(&self, ledger: &Ledger<SimulatedDisk>) -> usize {
        let found = ledger.catalogue().locate(self.tenant, &self.ids).unwrap();
        found.iter().flatten().count()
    }
}

/// Guards the evidence: a catalogue that is lost, and a crash while it is made anew, must not
/// turn damage into "unfinished bytes" that are overwritten.
#[test]
fn damage_stays_damage_when_the_first_reading_is_cut_short() {
    let packs = Packs::new();
    for number in 1..=5 {
        let second_body = 8192 + 1072 + 64;
        let write = packs.disk.write_at(packs.pack(number), second_body, &[0]);
        write.unwrap();
    }
    packs.disk.plan(2, Fault::Crash);
    assert!(packs.open("second").is_err());
    packs.disk.kill();
    let (ledger, findings) = packs.open("second").unwrap();
    assert!(!findings.is_empty());
    for finding in &findings {
        assert!(matches!(finding, Finding::Damaged(..)), "{finding}");
    }
    assert_eq!(packs.found(&ledger), 35);
    drop(ledger);
    assert!(packs.open("second").unwrap().1.is_empty());
}

/// Guards all other entries against a sector that the disk cannot read any more: it must not
/// keep the vault closed, nor be cut off, nor be written behind.
#[test]
fn an_unreadable_sector_costs_the_entries_in_it() {
    for number in [2, 5] {
        let packs = Packs::new();
        let length = packs.disk.length(packs.pack(number)).unwrap();
        packs.disk.lose(packs.pack(number), length - 1000..length);
        let (mut ledger, findings) = packs.open("second").unwrap();
        assert!(!findings.is_empty());
        for finding in &findings {
            assert!(matches!(finding, Finding::Damaged(..)), "{finding}");
        }
        let found = packs.found(&ledger);
        assert!((35..40).contains(&found), "{found}");
        let again = [Record::Chunk(CheckedChunk::of(vec![40; 1000].into()))];
        ledger.append(packs.tenant, &[&again]).unwrap();
        assert_eq!(packs.disk.length(packs.pack(number)).unwrap(), length);
    }
}

/// Guards against a kernel that takes pages for written after a sync that failed: when cutting
/// them off fails too, and only the process is started anew, a later sync of them says nothing.
#[test]
fn what_a_failed_sync_left_is_written_again_before_it_counts() {
    for known in ["first", "second"] {
        for seed in 0..20u8 {
            let packs = Packs::new();
            let (mut ledger, _) = packs.open("first").unwrap();
            let chunk = CheckedChunk::of(vec![200 + seed; 3000].into());
            let id = chunk.id();
            // The write is done; its sync fails, and so does all that follows.
            packs.disk.plan(1, Fault::Failing);
            let records = [Record::Chunk(chunk)];
            ledger.append(packs.tenant, &[&records]).unwrap_err();
            drop(ledger);
            packs.disk.kill();
            let (ledger, _) = packs.open(known).unwrap();
            let found = ledger.catalogue().locate(packs.tenant, &[id]).unwrap();
            assert!(found[0].is_some(), "it is shown, and taken in");
            drop(ledger);
            packs.disk.crash();
            let (ledger, findings) = packs.open(known).unwrap();
            assert!(findings.is_empty(), "{known}: {findings:?}");
            let at = ledger.catalogue().locate(packs.tenant, &[id]).unwrap()[0].unwrap();
            crate::store::read_chunk(&*packs.disk, packs.tenant, id, at).unwrap();
        }
    }
}

/// Guards points made over chunks of a pack that cannot be used: they count as stored no more
/// until the pack is back, though their places are kept for that.
#[test]
fn chunks_of_a_pack_that_cannot_be_used_are_not_known() {
    for lost in [false, true] {
        let packs = Packs::new();
        let pack = packs.pack(2);
        let header = packs.disk.content(pack).unwrap();
        let epoch = {
            let (ledger, _) = packs.open("first").unwrap();
            ledger.catalogue().epoch().unwrap()
        };
        match lost {
            true => packs.disk.vanish(pack),
            false => packs.disk.write_at(pack, 0, &[0; 8192]).unwrap(),
        }
        let usable = |ledger: &Ledger<SimulatedDisk>| {
            let found = ledger.catalogue().locate_usable(packs.tenant, &packs.ids);
            found.unwrap().iter().flatten().count()
        };
        let (mut ledger, findings) = packs.open("first").unwrap();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!((packs.found(&ledger), usable(&ledger)), (40, 32));
        let began = ledger.catalogue().epoch().unwrap();
        assert_eq!(began, epoch, "the pack may be healed");
        // Sent again, they are stored again.
        let again: Vec<Record> = (8..10u8)
            .map(|number| Record::Chunk(CheckedChunk::of(vec![1 + number; 1000].into())))
            .collect();
        let appended = ledger.append(packs.tenant, &[&again]).unwrap();
        assert!(appended[0].bytes > 2000);
        assert_eq!(usable(&ledger), 34);
        drop(ledger);
        if lost {
            packs.disk.create(pack).unwrap();
        }
        packs.disk.write_at(pack, 0, &header).unwrap();
        let (ledger, findings) = packs.open("first").unwrap();
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!(usable(&ledger), 40);
    }
}
