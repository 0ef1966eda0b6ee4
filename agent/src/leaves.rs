//! The leaves of one disk's index, until the tree above them is built: a span may be read again
//! before that. In a file, since there are as many as the disk has spans.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use relevo_wire::ChunkId;
use relevo_wire::index::ChunkRef;
use relevo_wire::key::ChunkKey;

/// Bytes of a leaf's reference: id and key. All zeros: the span is.
const LENGTH: usize = 64;
/// References that are read at once.
const BATCH: u64 = 1024;

/// References by the numbers of spans.
pub struct Leaves {
    file: File,
    count: u64,
}

impl Leaves {
    /// Of `count` spans of zeros, in a file that is gone when this is dropped.
    pub fn new(scratch: &Path, count: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(scratch)?;
        std::fs::remove_file(scratch)?;
        file.set_len(count * LENGTH as u64)?;
        Ok(Self { file, count })
    }

    /// Sets the leaf of a span.
    pub fn set(&self, span: u64, leaf: Option<ChunkRef>) -> io::Result<()> {
        let mut bytes = [0; LENGTH];
        if let Some(leaf) = leaf {
            bytes[..32].copy_from_slice(leaf.id.as_bytes());
            bytes[32..].copy_from_slice(leaf.key.as_bytes());
        }
        self.file.write_all_at(&bytes, span * LENGTH as u64)
    }

    /// Gives all of them to `each` in order.
    pub fn each<E: From<io::Error>>(
        &self,
        mut each: impl FnMut(Option<ChunkRef>) -> Result<(), E>,
    ) -> Result<(), E> {
        for first in (0..self.count).step_by(BATCH as usize) {
            let mut bytes = vec![0; BATCH.min(self.count - first) as usize * LENGTH];
            self.file.read_exact_at(&mut bytes, first * LENGTH as u64)?;
            for bytes in bytes.as_chunks::<LENGTH>().0 {
                let [mut id, mut key] = [[0; 32]; 2];
                id.copy_from_slice(&bytes[..32]);
                key.copy_from_slice(&bytes[32..]);
                let leaf = ChunkRef {
                    id: ChunkId::from_bytes(id),
                    key: ChunkKey::from_bytes(key),
                };
                each((bytes != &[0; LENGTH]).then_some(leaf))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn leaves_come_back_in_order_and_leave_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let leaves = Leaves::new(&dir.path().join("leaves"), 2500).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let leaf = |n: u8| ChunkRef {
            id: ChunkId::from_bytes([n; 32]),
            key: ChunkKey::from_bytes([n + 1; 32]),
        };
        leaves.set(2499, Some(leaf(1))).unwrap();
        leaves.set(3, Some(leaf(2))).unwrap();
        leaves.set(7, Some(leaf(3))).unwrap();
        leaves.set(7, None).unwrap();
        let mut found = Vec::new();
        let keep = |leaf| {
            found.push(leaf);
            Ok::<_, io::Error>(())
        };
        leaves.each(keep).unwrap();
        let set: Vec<_> = (0..).zip(&found).filter(|(_, l)| l.is_some()).collect();
        assert_eq!(found.len(), 2500);
        assert_eq!(set, [(3, &Some(leaf(2))), (2499, &Some(leaf(1)))]);
    }
}
