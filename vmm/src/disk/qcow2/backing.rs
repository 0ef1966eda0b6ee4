//! The chain of backing files.

use std::io;
use std::path::{Path, PathBuf};

use super::Image;
use super::error::Qcow2Error;
use super::header::{BackingName, MAGIC};
use super::storage::{Identity, Storage, open_locked};

/// Most files in a chain.
const MAX_DEPTH: usize = 32;
/// Most bytes of L1 tables in a chain: all of them stay in memory.
const MAX_L1_BYTES: u64 = 64 << 20;

/// What an image shows where it has nothing of its own. Never written.
pub enum Backing {
    /// The bytes of a file.
    Raw {
        /// The file.
        storage: Box<dyn Storage>,
        /// Its length.
        size: u64,
    },
    /// Another image.
    Qcow2(Box<Image>),
}

impl Backing {
    /// Reads; beyond its end are zeroes.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let size = match self {
            Self::Raw { size, .. } => *size,
            Self::Qcow2(image) => image.size(),
        };
        let there = size.saturating_sub(offset).min(buffer.len() as u64);
        let (there, beyond) = buffer.split_at_mut(there as usize);
        beyond.fill(0);
        if there.is_empty() {
            return Ok(());
        }
        match self {
            Self::Raw { storage, .. } => {
                let count = storage.read_at(there, offset)?;
                there[count..].fill(0);
                Ok(())
            }
            Self::Qcow2(image) => image.read_at(there, offset),
        }
    }
}

/// The files opened so far on the way down a chain.
#[derive(Default)]
pub(super) struct Chain {
    seen: Vec<Identity>,
    l1_bytes: u64,
}

impl Chain {
    pub(super) fn is_backing(&self) -> bool {
        self.seen.len() > 1
    }

    /// Opens the next file.
    pub(super) fn open(
        &mut self,
        path: &Path,
        read_only: bool,
    ) -> Result<std::fs::File, Qcow2Error> {
        // Before the lock: a file that is its own backing file is no file in use.
        if let Ok(facts) = std::fs::metadata(path)
            && self.seen.contains(&Identity::of(&facts))
        {
            let path = path.to_owned();
            return Err(Qcow2Error::Cycle { path });
        }
        if self.seen.len() == MAX_DEPTH {
            let path = path.to_owned();
            return Err(Qcow2Error::Chain { path });
        }
        let (file, identity) = open_locked(path, read_only)?;
        self.seen.push(identity);
        Ok(file)
    }

    /// Takes memory for an L1 table.
    pub(super) fn take(&mut self, l1_bytes: u64, path: &Path) -> Result<(), Qcow2Error> {
        self.l1_bytes += l1_bytes;
        if self.l1_bytes > MAX_L1_BYTES {
            let path = path.to_owned();
            return Err(Qcow2Error::Chain { path });
        }
        Ok(())
    }

    /// Opens the backing file that the image at `path` names.
    pub(super) fn backing(
        &mut self,
        path: &Path,
        named: &BackingName,
    ) -> Result<Backing, Qcow2Error> {
        let backing = resolve(path, named)?;
        let format = named.format.as_deref();
        if format == Some("qcow2") {
            let image = Image::open_in(&backing, true, self)?;
            return Ok(Backing::Qcow2(Box::new(image)));
        }
        if !matches!(format, None | Some("raw")) {
            return Err(Qcow2Error::Unsupported {
                path: path.to_owned(),
                feature: format!("a backing file of format {:?}", format.unwrap_or_default()),
            });
        }
        let failed = |source| Qcow2Error::Open {
            path: backing.clone(),
            source,
        };
        let file = self.open(&backing, true)?;
        let mut magic = [0; 4];
        Storage::read_at(&file, &mut magic, 0).map_err(failed)?;
        // A guest may write such a header to its raw disk, which names any file of the host.
        if format.is_none() && magic == MAGIC {
            let path = path.to_owned();
            return Err(Qcow2Error::BackingFormat { path, backing });
        }
        Ok(Backing::Raw {
            size: file.size().map_err(failed)?,
            storage: Box::new(file),
        })
    }
}

/// A relative path starts from the image's directory.
fn resolve(path: &Path, named: &BackingName) -> Result<PathBuf, Qcow2Error> {
    let name = Path::new(&named.name);
    // QEMU takes what stands before a colon for a protocol ("nbd:", "json:").
    let text = named.name.to_string_lossy();
    let first = text.split('/').next().unwrap_or_default();
    if first.contains(':') {
        return Err(Qcow2Error::BackingName {
            path: path.to_owned(),
            name: named.name.clone(),
        });
    }
    Ok(path.parent().unwrap_or(Path::new("")).join(name))
}
