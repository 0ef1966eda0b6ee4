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

struct Packs {
    disk: Arc<SimulatedDisk>,
    vault: VaultId,
    tenant: TenantId,
    ids: Vec<ChunkId>,
    dir: tempfile::TempDir,
}

impl Packs {
    /// Five packs of eight chunks of 1000 bytes.
    fn new() -> Self {
        let mut this = Self {
            disk: Arc::new(SimulatedDisk::new(1)),
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

    fn open(&self, catalogue: &str) -> Result<(Ledger<SimulatedDisk>, Vec<Finding>), StoreError> {
        let path: &Path = self.dir.path();
        let (catalogue, fresh) = Catalogue::open(&path.join(catalogue))?;
        Ledger::open(self.disk.clone(), self.vault, catalogue, fresh)
    }

    fn pack(&self, number: u32) -> PackId {
        let tenant = self.tenant;
        PackId { tenant, number }
    }

    fn found(&self, ledger: &Ledger<SimulatedDisk>) -> usize {
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
