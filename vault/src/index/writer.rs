//! Writes a segment from changes in order.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use relevo_wire::id::random_bytes;
use relevo_wire::{ChunkId, TenantId};

use super::change::Change;
use super::error::IndexError;
use super::filter::FilterMaker;
use super::layout::{
    self, BLOCK, BLOCK_RECORDS, Footer, GROUP_RECORDS, RECORD, Shape, VERSION, fence_of, filter_key,
};
use super::segment::{Segment, segment_path};

/// Bytes given to the kernel at once.
const PIECE: usize = 256 * 1024;
/// Bytes after which the disk must have taken all before them: a merge of gigabytes must not
/// stand before the packs at their next `fdatasync`.
const SYNC_EVERY: u64 = 32 * 1024 * 1024;

/// A segment in the making. Dropped before [`finish`](Self::finish) it leaves nothing.
pub struct SegmentWriter {
    out: Out,
    footer: Footer,
    last: Option<ChunkId>,
    /// Bytes of blocks that were not written yet; the last one may be unfinished.
    blocks: Vec<u8>,
    fences: Vec<u8>,
    filters: Vec<u8>,
    maker: FilterMaker,
    filter_seed: u64,
}

/// The file, and how much was written.
struct Out {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    unsynced: u64,
    finished: bool,
}

impl SegmentWriter {
    /// Begins a segment of this number in an index's directory. The tenant's own is made.
    pub fn create(index: &Path, tenant: TenantId, number: u64) -> Result<Self, IndexError> {
        let path = segment_path(index, tenant, number);
        let temporary = path.with_extension("segment.new");
        if let Some(parent) = path.parent() {
            make_directory(parent)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|e| IndexError::io(&temporary, &e))?;
        Ok(Self {
            out: Out {
                path,
                temporary,
                file,
                unsynced: 0,
                finished: false,
            },
            footer: Footer {
                version: VERSION,
                tenant,
                number,
                records: 0,
                salt: random_bytes(),
                tail: [0; 32],
            },
            last: None,
            blocks: Vec::with_capacity(PIECE),
            fences: Vec::new(),
            filters: Vec::new(),
            maker: FilterMaker::default(),
            filter_seed: u64::from_le_bytes(random_bytes()),
        })
    }

    /// Adds a change. Ids must come in order, each once.
    pub fn push(&mut self, change: &Change) -> Result<(), IndexError> {
        if self.last.is_some_and(|last| last >= change.id) {
            return Err(self.out.unfit("ids do not come in order"));
        }
        let mut record = [0; RECORD];
        layout::encode(change, &mut record).map_err(|e| self.out.unfit(e.to_string()))?;
        if self.footer.records.is_multiple_of(BLOCK_RECORDS as u64) {
            self.end_block()?;
            let fence = fence_of(&change.id).to_be_bytes();
            self.fences.extend_from_slice(&fence);
        }
        if self.footer.records.is_multiple_of(GROUP_RECORDS as u64) {
            self.end_group();
        }
        self.blocks.extend_from_slice(&record);
        self.maker.add(filter_key(&change.id));
        self.footer.records += 1;
        self.last = Some(change.id);
        Ok(())
    }

    /// How many were added.
    pub fn records(&self) -> u64 {
        self.footer.records
    }

    /// Makes the file durable and gives it its name.
    pub fn finish(mut self) -> Result<Segment, IndexError> {
        self.end_block()?;
        self.end_group();
        self.out.write(&self.blocks)?;
        let mut tail = self.fences;
        tail.append(&mut self.filters);
        tail.shrink_to_fit();
        self.footer.tail = *blake3::hash(&tail).as_bytes();
        self.out.write(&tail)?;
        self.out.write(&self.footer.encode())?;
        self.out.publish()?;
        debug_assert_eq!(tail.len() as u64, Shape::new(self.footer.records).tail());
        let file = self.out.file.try_clone();
        let file = file.map_err(|e| IndexError::io(&self.out.path, &e))?;
        Ok(Segment::of_parts(
            self.out.path.clone(),
            file.into(),
            self.footer,
            tail,
        ))
    }

    /// Fills the unfinished block up and seals it.
    fn end_block(&mut self) -> Result<(), IndexError> {
        let begun = self.blocks.len() % BLOCK;
        if begun == 0 {
            return Ok(());
        }
        let start = self.blocks.len() - begun;
        self.blocks.resize(start + BLOCK, 0);
        if let Some(block) = self.blocks.last_chunk_mut::<BLOCK>() {
            let number = (self.footer.records - 1) / BLOCK_RECORDS as u64;
            layout::seal_block(block, &self.footer.salt, number);
        }
        if self.blocks.len() >= PIECE {
            self.out.write(&self.blocks)?;
            self.blocks.clear();
        }
        Ok(())
    }

    /// Writes the filter of the group that ends here.
    fn end_group(&mut self) {
        if !self.maker.is_empty() {
            self.maker.finish(self.filter_seed, &mut self.filters);
        }
    }
}

impl Out {
    fn write(&mut self, bytes: &[u8]) -> Result<(), IndexError> {
        let written = self.file.write_all(bytes);
        written.map_err(|e| IndexError::io(&self.temporary, &e))?;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_EVERY {
            self.unsynced = 0;
            let synced = self.file.sync_data();
            synced.map_err(|e| IndexError::io(&self.temporary, &e))?;
        }
        Ok(())
    }

    /// The order that matters: content, name, directory.
    fn publish(&mut self) -> Result<(), IndexError> {
        let synced = self.file.sync_all();
        synced.map_err(|e| IndexError::io(&self.temporary, &e))?;
        fs::rename(&self.temporary, &self.path).map_err(|e| IndexError::io(&self.path, &e))?;
        self.finished = true;
        match self.path.parent() {
            Some(parent) => sync_directory(parent),
            None => Ok(()),
        }
    }

    fn unfit(&self, reason: impl Into<String>) -> IndexError {
        IndexError::unfit(&self.path, reason)
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if !self.finished {
            // What is left is removed when the index is next opened.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Makes a directory below the index's, and its name durable.
fn make_directory(path: &Path) -> Result<(), IndexError> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(());
    }
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.map_err(|e| IndexError::io(path, &e))?;
    for above in path.ancestors().skip(1).take(2) {
        sync_directory(above)?;
    }
    Ok(())
}

fn sync_directory(path: &Path) -> Result<(), IndexError> {
    // The parent of a relative name without one.
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    let synced: io::Result<()> = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|e| IndexError::io(path, &e))
}
