//! What tests of packs and catalogue have in common: a directory, a manifest, and a walk through
//! a recovery point that believes nothing.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use relevo_wire::chunk::CheckedChunk;
use relevo_wire::index::ChunkRef;
use relevo_wire::key::OpeningKeys;
use relevo_wire::manifest::{
    Consistency, DiskImage, MANIFEST_VERSION, ManifestBody, PublicManifest, RunTotals,
    SealedManifest, SealedRef,
};
use relevo_wire::{ChunkId, PointId, ServerId, TenantId, Timestamp};

use crate::catalogue::Located;
use crate::completeness::Shelf;
use crate::error::StoreError;
use crate::store::Store;
use crate::volume::Volume;

/// A directory in memory, where there is one.
pub fn memory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let dir = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    dir.unwrap()
}

/// Takes away all that is in a directory: of a vault on a simulated disk the catalogue.
pub fn clear(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => std::fs::remove_dir_all(path).unwrap(),
            false => std::fs::remove_file(path).unwrap(),
        }
    }
}

/// The manifest of a new recovery point: of one disk of this size when there is a root.
pub fn manifest(
    keys: &OpeningKeys,
    server: ServerId,
    taken: Timestamp,
    disk: Option<(u64, ChunkRef)>,
) -> SealedManifest {
    let public = PublicManifest {
        version: MANIFEST_VERSION,
        server,
        point: PointId::random(),
        taken,
        roots: vec![],
        inventory: vec![],
        totals: RunTotals {
            disk: disk.map_or(0, |(size, _)| size),
            ..RunTotals::default()
        },
    };
    let image = |(size, root)| DiskImage {
        name: "sda".into(),
        size,
        root: Some(SealedRef::node(root)),
        sector: 512,
        serial: None,
        faults: None,
    };
    let body = ManifestBody {
        disks: disk.into_iter().map(image).collect(),
        inventory: vec![],
        consistency: Consistency::Offline,
        chunker: 1,
        agent: "test".into(),
        started: taken,
        finished: taken,
        held: None,
    };
    SealedManifest::seal(&keys.sealing, public, &body).unwrap()
}

/// Reads everything, whatever the catalogue says of completeness.
pub struct Walk<'a, V> {
    /// What is walked through.
    pub store: &'a Store<V>,
    /// Whose it is.
    pub tenant: TenantId,
}

impl<V: Volume> Shelf for Walk<'_, V> {
    fn locate(&mut self, ids: &[ChunkId]) -> Result<Vec<Option<Located>>, StoreError> {
        let found = self.store.read(|c| c.locate(self.tenant, ids))?;
        for (id, at) in ids.iter().zip(&found) {
            if let Some(at) = at {
                self.store.read_chunk(self.tenant, *id, *at)?;
            }
        }
        Ok(found)
    }
    fn read(&mut self, id: ChunkId, at: Located) -> Result<Option<CheckedChunk>, StoreError> {
        self.store.read_chunk(self.tenant, id, at).map(Some)
    }
    fn is_complete(&self, _: ChunkId, _: &Located) -> bool {
        false
    }
    fn set_complete(&mut self, _: ChunkId) {}
}
