//! What keeps no vault from opening, and what ends one that serves.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;

use relevo_wire::chunk::CheckedChunk;
use relevo_wire::{ChunkId, TenantId, VaultId};

use super::Store;
use crate::error::StoreError;
use crate::index::layout::BLOCK;
use crate::record::Record;
use crate::volume::simulated::SimulatedDisk;

struct Lab {
    disk: Arc<SimulatedDisk>,
    vault: VaultId,
    tenant: TenantId,
    ids: Vec<ChunkId>,
    dir: tempfile::TempDir,
}

impl Lab {
    /// Chunks enough that most of them are in a segment.
    fn new() -> Self {
        let mut this = Self {
            disk: Arc::new(SimulatedDisk::new(1)),
            vault: VaultId::random(),
            tenant: TenantId::random(),
            ids: Vec::new(),
            dir: tempfile::tempdir().unwrap(),
        };
        let store = this.open();
        for number in 0..90u8 {
            let chunk = CheckedChunk::of(vec![number; 100].into());
            this.ids.push(chunk.id());
            let records = vec![Record::Chunk(chunk)];
            store.append_blocking(this.tenant, records).unwrap();
        }
        store.close();
        assert!(!this.segments().is_empty());
        this
    }

    fn open(&self) -> Store<SimulatedDisk> {
        let catalogue = self.dir.path().join("catalogue.sqlite");
        let (store, findings) = Store::open(self.disk.clone(), self.vault, &catalogue).unwrap();
        assert!(findings.is_empty(), "{findings:?}");
        store
    }

    fn index(&self) -> PathBuf {
        let index = self.dir.path().join("index");
        index.join(self.tenant.to_string())
    }

    fn segments(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.index()).unwrap();
        let paths = files.map(|file| file.unwrap().path());
        paths.filter(|path| path.extension().is_some()).collect()
    }

    /// Waits until the store can go on no more.
    fn failure(&self, store: &Store<SimulatedDisk>) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(store.failed())
    }

    fn found(&self, store: &Store<SimulatedDisk>) -> Result<usize, StoreError> {
        let found = store.read(|c| c.locate(self.tenant, &self.ids))?;
        Ok(found.iter().flatten().count())
    }
}

/// Guards a vault against its own index: all that it says stands in the packs too.
#[test]
fn a_damaged_index_is_made_anew_at_once() {
    let remove = |path: &PathBuf| std::fs::remove_file(path).unwrap();
    let damage_end = |path: &PathBuf| {
        let mut bytes = std::fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let put_directory = |path: &PathBuf| {
        std::fs::remove_file(path).unwrap();
        std::fs::create_dir(path).unwrap();
    };
    let harms: [&dyn Fn(&PathBuf); 3] = [&remove, &damage_end, &put_directory];
    for harm in harms {
        let lab = Lab::new();
        harm(&lab.segments()[0]);
        let store = lab.open();
        assert_eq!(lab.found(&store).unwrap(), lab.ids.len());
        assert!(
            store.has_read_all(),
            "numbers that are missing are packs that are"
        );
        store.close();
        drop(store);
        assert!(!lab.open().has_read_all());
    }
}

/// Guards a vault that runs against damage that only a look-up meets: it says so, ends, and is
/// whole after its next start.
#[test]
fn damage_that_a_look_up_meets_ends_the_store_and_is_mended_at_the_next_start() {
    let lab = Lab::new();
    for path in lab.segments() {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[BLOCK / 2] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let store = lab.open();
    let error = lab.found(&store).unwrap_err();
    assert!(
        matches!(&error, StoreError::Index(text) if text.contains("segment")),
        "{error}"
    );
    assert!(error.remedy().contains("anew"));
    assert!(lab.failure(&store).contains("segment"));
    store.close();
    let store = lab.open();
    assert_eq!(lab.found(&store).unwrap(), lab.ids.len());
}

/// Guards a vault against what somebody laid beside its index, and that against the vault.
#[test]
fn what_is_nothing_of_the_index_is_left_alone() {
    let lab = Lab::new();
    let (kept, inner) = (lab.index().join("notes.txt"), lab.index().join("old"));
    std::fs::write(&kept, "mine").unwrap();
    std::fs::create_dir(&inner).unwrap();
    let beside = lab.dir.path().join("index").join("backup");
    std::fs::create_dir(&beside).unwrap();
    std::fs::write(beside.join("000000000001.segment"), "mine").unwrap();
    let unused = lab.index().join("000000000900.segment");
    std::fs::write(&unused, "").unwrap();
    let store = lab.open();
    assert_eq!(lab.found(&store).unwrap(), lab.ids.len());
    assert!(kept.exists() && inner.exists());
    assert!(beside.join("000000000001.segment").exists());
    assert!(!unused.exists());
}

/// Guards a vault whose writer is gone against looking alive.
#[test]
fn a_panic_of_the_writer_is_told() {
    let lab = Lab::new();
    let store = lab.open();
    let answer = store.in_writer::<()>(|_| panic!("on purpose, for a test"));
    assert_eq!(answer, Err(StoreError::Stopped));
    assert!(lab.failure(&store).contains("panic"));
}
