//! ext2, ext3 and ext4, read by `ext4-view`.
//!
//! A server that was backed up while it ran leaves its journal unreplayed. `ext4-view` replays
//! it in memory where the journal has checksums of version 3 (the default since e2fsprogs
//! 1.43). For older journals the file system is read as it stands on disk, and
//! [`JournalState`] says so, because files changed in the last seconds may then be stale.

use std::sync::Arc;

use ext4_view::{Ext4, Ext4Error, Ext4Read};
use serde::{Deserialize, Serialize};

use super::window::PartitionReader;
use super::{FileSystem, FsError, Node};
use crate::block::BlockRead;

/// The largest file that is read into memory: no kernel or initramfs comes near it.
const MAX_FILE: u64 = 1 << 30;
const SUPERBLOCK_AT: u64 = 1024;
const INCOMPAT_AT: usize = 0x60;
const RO_COMPAT_AT: usize = 0x64;
const NEEDS_RECOVERY: u32 = 0x4;
const METADATA_CSUM: u32 = 0x400;

/// Whether what is read includes what the journal still holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JournalState {
    /// Unmounted cleanly, or no journal.
    Clean,
    /// The journal was not replayed on disk; it was in memory.
    Replayed,
    /// The journal was not replayed, and its format is not read: the reason.
    Ignored(String),
}

/// An ext2, ext3 or ext4 file system.
pub struct ExtFileSystem {
    ext: Ext4,
    /// State of the journal.
    pub journal: JournalState,
    /// UUID, in lower case.
    pub uuid: String,
    /// Label, if it has one.
    pub label: Option<String>,
}

impl ExtFileSystem {
    /// Opens the file system in the `len` bytes of `disk` from `start`.
    pub fn open(disk: &Arc<dyn BlockRead>, start: u64, len: u64) -> Result<Self, FsError> {
        unharmed("/", || Self::load(disk, start, len))
    }

    fn load(disk: &Arc<dyn BlockRead>, start: u64, len: u64) -> Result<Self, FsError> {
        if len < SUPERBLOCK_AT + 1024 {
            return Err(FsError::Truncated {
                claimed: SUPERBLOCK_AT + 1024,
                actual: len,
            });
        }
        let mut superblock = vec![0u8; 1024];
        disk.read_at(start + SUPERBLOCK_AT, &mut superblock)?;
        check_size(&superblock, len)?;

        let dirty = le32(&superblock, INCOMPAT_AT) & NEEDS_RECOVERY != 0;
        let reader = || PartitionReader::new(Arc::clone(disk), start, len);
        let (ext, journal) = match Ext4::load(Box::new(Patched {
            below: reader(),
            superblock: None,
        })) {
            Ok(ext) if dirty => (ext, JournalState::Replayed),
            Ok(ext) => (ext, JournalState::Clean),
            Err(error @ (Ext4Error::Incompatible(_) | Ext4Error::Corrupt(_))) if dirty => {
                let patched = Patched {
                    below: reader(),
                    superblock: Some(without_recovery(superblock)),
                };
                let ext = Ext4::load(Box::new(patched)).map_err(|e| damaged("/", &e))?;
                (ext, JournalState::Ignored(error.to_string()))
            }
            Err(error) => return Err(damaged("/", &error)),
        };
        let label = ext
            .label()
            .to_str()
            .ok()
            .filter(|l| !l.is_empty())
            .map(str::to_owned);
        Ok(Self {
            uuid: ext.uuid().to_string(),
            label,
            journal,
            ext,
        })
    }
}

impl FileSystem for ExtFileSystem {
    fn node(&self, path: &str) -> Result<Option<Node>, FsError> {
        unharmed(path, || self.node_at(path))
    }

    fn list(&self, path: &str) -> Result<Vec<String>, FsError> {
        unharmed(path, || self.names_in(path))
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, FsError> {
        unharmed(path, || self.content(path))
    }
}

impl ExtFileSystem {
    fn node_at(&self, path: &str) -> Result<Option<Node>, FsError> {
        let meta = match self.ext.symlink_metadata(path) {
            Ok(meta) => meta,
            Err(Ext4Error::NotFound | Ext4Error::NotADirectory) => return Ok(None),
            Err(error) => return Err(damaged(path, &error)),
        };
        let kind = meta.file_type();
        Ok(Some(if kind.is_dir() {
            Node::Directory
        } else if kind.is_symlink() {
            let target = self.ext.read_link(path).map_err(|e| damaged(path, &e))?;
            Node::Symlink(String::from_utf8_lossy(target.as_ref()).into_owned())
        } else if kind.is_regular_file() {
            Node::File(meta.len())
        } else {
            Node::Special
        }))
    }

    fn names_in(&self, path: &str) -> Result<Vec<String>, FsError> {
        let mut names = Vec::new();
        for entry in self.ext.read_dir(path).map_err(|e| damaged(path, &e))? {
            let entry = entry.map_err(|e| damaged(path, &e))?;
            if let Ok(name) = entry.file_name().as_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn content(&self, path: &str) -> Result<Vec<u8>, FsError> {
        let size = self
            .ext
            .metadata(path)
            .map_err(|e| damaged(path, &e))?
            .len();
        if size > MAX_FILE {
            return Err(FsError::TooLarge {
                path: path.into(),
                size,
            });
        }
        self.ext.read(path).map_err(|e| damaged(path, &e))
    }
}

/// The partition, with the superblock replaced where the journal has to be left out.
struct Patched {
    below: PartitionReader,
    superblock: Option<Vec<u8>>,
}

impl Ext4Read for Patched {
    fn read(
        &mut self,
        at: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.below.read(at, dst)?;
        if let Some(superblock) = &self.superblock {
            for (byte, position) in dst.iter_mut().zip(at..) {
                if let Some(patched) = position
                    .checked_sub(SUPERBLOCK_AT)
                    .and_then(|i| superblock.get(i as usize))
                {
                    *byte = *patched;
                }
            }
        }
        Ok(())
    }
}

/// Checks the counts that the reader would allocate by, and that the partition holds it all.
fn check_size(superblock: &[u8], len: u64) -> Result<(), FsError> {
    let absurd = |reason: String| FsError::Damaged {
        path: "/".into(),
        reason,
    };
    let log_size = le32(superblock, 0x18);
    if log_size > 6 {
        return Err(absurd(format!(
            "the superblock claims blocks of 2^{log_size} KiB"
        )));
    }
    let block = 1024u64 << log_size;
    let is_64bit = le32(superblock, INCOMPAT_AT) & 0x80 != 0;
    let high = if is_64bit {
        u64::from(le32(superblock, 0x150))
    } else {
        0
    };
    let blocks = u64::from(le32(superblock, 0x4)) | high << 32;
    let claimed = blocks.saturating_mul(block);
    if claimed > len {
        return Err(FsError::Truncated {
            claimed,
            actual: len,
        });
    }
    // Tools make groups of eight blocks per byte of a block's bitmap. Much smaller ones would
    // only make the reader allocate a descriptor for each.
    let per_group = u64::from(le32(superblock, 0x20));
    if per_group < block {
        return Err(absurd(format!(
            "the superblock claims {per_group} blocks per group"
        )));
    }
    Ok(())
}

/// The superblock as it would be after a replay; its checksum is CRC-32C without final inversion.
fn without_recovery(mut superblock: Vec<u8>) -> Vec<u8> {
    let incompat = le32(&superblock, INCOMPAT_AT) & !NEEDS_RECOVERY;
    superblock[INCOMPAT_AT..INCOMPAT_AT + 4].copy_from_slice(&incompat.to_le_bytes());
    if le32(&superblock, RO_COMPAT_AT) & METADATA_CSUM != 0 {
        let mut crc = !0u32;
        for byte in &superblock[..1020] {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 {
                    crc >> 1 ^ 0x82f6_3b78
                } else {
                    crc >> 1
                };
            }
        }
        superblock[1020..].copy_from_slice(&crc.to_le_bytes());
    }
    superblock
}

/// Runs the reader, which checks its sums by panicking: a hostile file system must not end the
/// program. Nothing of the reader is kept half-changed, since it only reads.
fn unharmed<T>(path: &str, work: impl FnOnce() -> Result<T, FsError>) -> Result<T, FsError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(FsError::Damaged {
            path: path.into(),
            reason: "the file system contradicts itself".into(),
        })
    })
}

fn damaged(path: &str, error: &Ext4Error) -> FsError {
    match error {
        Ext4Error::NotFound | Ext4Error::NotADirectory => FsError::NotFound { path: path.into() },
        other => FsError::Damaged {
            path: path.into(),
            reason: other.to_string(),
        },
    }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the program against a file system that makes its reader panic.
    #[test]
    fn a_reader_that_panics_is_damage() {
        let result = unharmed("/etc", || -> Result<(), FsError> { panic!("on purpose") });
        assert!(matches!(result, Err(FsError::Damaged { .. })), "{result:?}");
    }
}
