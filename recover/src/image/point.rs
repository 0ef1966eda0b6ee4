//! A recovery point, opened: what was imaged, when and how.

use std::sync::Arc;

use relevo_wire::PointId;
use relevo_wire::inventory::Inventory;
use relevo_wire::key::OpeningKeys;
use relevo_wire::manifest::{DiskImage, ManifestBody, PublicManifest};

use super::disk::PointDisk;
use super::soundness;
use super::source::Source;
use super::store::{ChunkStore, DEFAULT_CACHE};
use crate::failure::Failure;

/// Most bytes of inventory: far more than any server's.
const MAX_INVENTORY: u64 = 64 << 20;

/// An opened recovery point.
pub struct RecoveryPoint {
    store: Arc<ChunkStore>,
    manifest: PublicManifest,
    body: ManifestBody,
    inventory: Inventory,
}

impl RecoveryPoint {
    /// Fetches and opens the manifest and the inventory.
    pub fn open(source: &Arc<Source>, keys: &OpeningKeys, point: PointId) -> Result<Self, Failure> {
        Self::open_with_cache(source, keys, point, DEFAULT_CACHE)
    }

    /// The same, keeping up to `cache` bytes of plaintext in memory.
    pub fn open_with_cache(
        source: &Arc<Source>,
        keys: &OpeningKeys,
        point: PointId,
        cache: usize,
    ) -> Result<Self, Failure> {
        let (manifest, body) = source.manifest(point)?.open(keys)?;
        if manifest.point != point {
            return Err(Failure::new(
                format!("recovery point {} was given for {point}", manifest.point),
                "run 'relevo-vault verify'",
            ));
        }
        for fault in body.disks.iter().flat_map(soundness::faults) {
            tracing::warn!("recovery point {point}: {fault}");
        }
        let store = ChunkStore::new(source.clone(), cache);
        let inventory = read_inventory(&store, &body)?;
        Ok(Self {
            store,
            manifest,
            body,
            inventory,
        })
    }

    /// Its id.
    pub fn id(&self) -> PointId {
        self.manifest.point
    }

    /// The clear part of the manifest.
    pub fn manifest(&self) -> &PublicManifest {
        &self.manifest
    }

    /// The sealed part.
    pub fn body(&self) -> &ManifestBody {
        &self.body
    }

    /// The server as its agent saw it.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The disks in the server's order.
    pub fn disks(&self) -> &[DiskImage] {
        &self.body.disks
    }

    /// The disk of this name; without a name, the only one.
    pub fn find_disk(&self, name: Option<&str>) -> Result<&DiskImage, Failure> {
        let names = || {
            let names: Vec<_> = self.body.disks.iter().map(|d| d.name.as_str()).collect();
            names.join(", ")
        };
        match (name, self.body.disks.as_slice()) {
            (_, []) => Err(Failure::new(
                "the recovery point has no disk",
                "choose another recovery point",
            )),
            (None, [one]) => Ok(one),
            (None, several) => Err(Failure::new(
                format!("the recovery point has {} disks", several.len()),
                format!("name one with --disk: {}", names()),
            )),
            (Some(name), disks) => disks.iter().find(|d| d.name == name).ok_or_else(|| {
                Failure::new(
                    format!("the recovery point has no disk named '{name}'"),
                    format!("name one of: {}", names()),
                )
            }),
        }
    }

    /// A disk, to be read.
    pub fn disk(&self, image: &DiskImage) -> PointDisk {
        PointDisk::new(
            self.store.clone(),
            image.root.map(|root| root.chunk()),
            image.size,
        )
    }
}

fn read_inventory(store: &Arc<ChunkStore>, body: &ManifestBody) -> Result<Inventory, Failure> {
    let parts: Vec<_> = body
        .inventory
        .iter()
        .map(|part| (part.chunk(), part.length as usize))
        .collect();
    if parts.is_empty() {
        return Ok(Inventory::default());
    }
    let damaged = |reason: String| {
        Failure::new(
            format!("the recovery point's inventory: {reason}"),
            "run 'relevo-vault verify'; choose an older recovery point",
        )
    };
    let total: u64 = parts.iter().map(|(_, length)| *length as u64).sum();
    if total > MAX_INVENTORY {
        return Err(damaged(format!("it claims {total} bytes")));
    }
    let from = store.clone();
    let chunks = store
        .source()
        .wait_for(async move { from.chunks(&parts).await })?
        .map_err(|e| damaged(e.to_string()))?;
    serde_json::from_slice(&chunks.concat()).map_err(|e| damaged(e.to_string()))
}
