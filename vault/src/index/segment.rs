//! Reads segments: look-ups of many ids at once, and all of a file in order.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use relevo_wire::{ChunkId, TenantId};
use rustix::fs::{Advice, fadvise};

use super::change::{Change, Place, State};
use super::error::IndexError;
use super::filter;
use super::layout::{
    self, BLOCK, BLOCK_RECORDS, FOOTER, Footer, GROUP_BLOCKS, RECORD, Shape, VERSION, fence_of,
    filter_key,
};

/// Blocks that a reader in order takes at once.
const READ_BLOCKS: u64 = 64;

/// Where a segment's file is.
pub fn segment_path(index: &Path, tenant: TenantId, number: u64) -> PathBuf {
    index
        .join(tenant.to_string())
        .join(format!("{number:012}.segment"))
}

/// The bytes of a segment.
pub enum Source {
    /// A file.
    File(File),
    /// All of them.
    Memory(Vec<u8>),
}

impl From<File> for Source {
    fn from(file: File) -> Self {
        Self::File(file)
    }
}

impl Source {
    fn length(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            Self::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(into, offset),
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).ok();
                let range = start.and_then(|start| Some(start..start.checked_add(into.len())?));
                let from = range.and_then(|range| bytes.get(range));
                into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}

/// An open segment.
pub struct Segment {
    path: PathBuf,
    source: Source,
    footer: Footer,
    shape: Shape,
    /// Fences, then filters.
    tail: Vec<u8>,
    /// The first fence of each group, apart so that finding a group touches little memory.
    groups: Vec<u64>,
}

impl Segment {
    /// Opens a tenant's segment. Reads its tail, in one go.
    pub fn open(index: &Path, tenant: TenantId, number: u64) -> Result<Self, IndexError> {
        let path = segment_path(index, tenant, number);
        let file = File::open(&path).map_err(|e| IndexError::read(&path, &e))?;
        let segment = Self::read(path, file.into())?;
        if segment.footer.tenant != tenant || segment.footer.number != number {
            let reason = "its footer says that it is another one";
            return Err(IndexError::damaged(&segment.path, reason));
        }
        if let Source::File(file) = &segment.source {
            // Look-ups hit single blocks; readers in order ask for much at once anyway.
            let _ = fadvise(file, 0, None, Advice::Random);
        }
        Ok(segment)
    }

    /// Opens a segment whose bytes are all in memory; `name` stands for it in errors.
    pub fn open_bytes(name: &Path, bytes: Vec<u8>) -> Result<Self, IndexError> {
        Self::read(name.into(), Source::Memory(bytes))
    }

    fn read(path: PathBuf, source: Source) -> Result<Self, IndexError> {
        let failed = |e: io::Error| IndexError::read(&path, &e);
        let length = source.length().map_err(failed)?;
        let footer_at = length
            .checked_sub(FOOTER as u64)
            .ok_or_else(|| IndexError::damaged(&path, "it is cut short"))?;
        let mut bytes = [0; FOOTER];
        source.read_at(footer_at, &mut bytes).map_err(failed)?;
        let footer = Footer::decode(&bytes)
            .ok_or_else(|| IndexError::damaged(&path, "its end is not what was written"))?;
        if footer.version > VERSION {
            return Err(IndexError::Newer {
                path,
                found: footer.version,
                known: VERSION,
            });
        }
        let shape = Shape::new(footer.records);
        if shape.file() != length {
            return Err(IndexError::damaged(
                &path,
                "its length does not fit its records",
            ));
        }
        let mut tail = vec![0; shape.tail() as usize];
        source
            .read_at(footer_at - shape.tail(), &mut tail)
            .map_err(failed)?;
        if *blake3::hash(&tail).as_bytes() != footer.tail {
            return Err(IndexError::damaged(
                &path,
                "its filter is not what was written",
            ));
        }
        Ok(Self::of_parts(path, source, footer, tail))
    }

    pub(super) fn of_parts(path: PathBuf, source: Source, footer: Footer, tail: Vec<u8>) -> Self {
        let mut segment = Self {
            path,
            source,
            shape: Shape::new(footer.records),
            footer,
            tail,
            groups: Vec::new(),
        };
        let groups =
            (0..segment.shape.groups()).map(|group| segment.fence(group * GROUP_BLOCKS as u64));
        segment.groups = groups.collect();
        segment
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.footer.number
    }

    /// Whose it is.
    pub fn tenant(&self) -> TenantId {
        self.footer.tenant
    }

    /// How many changes it holds.
    pub fn records(&self) -> u64 {
        self.footer.records
    }

    /// Bytes of its file.
    pub fn bytes(&self) -> u64 {
        self.shape.file()
    }

    /// Bytes of memory that it takes while it is open.
    pub fn memory(&self) -> usize {
        self.tail.capacity() + self.groups.capacity() * size_of::<u64>()
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `found` with the position and the change of each id that it holds. The ids must be
    /// in order.
    pub fn look_up(
        &self,
        ids: &[ChunkId],
        found: &mut dyn FnMut(usize, Change),
    ) -> Result<(), IndexError> {
        let wanted = ids.iter().enumerate();
        self.look_up_some(wanted.map(|(at, id)| (at, *id)), found)
    }

    fn look_up_some(
        &self,
        ids: impl Iterator<Item = (usize, ChunkId)>,
        found: &mut dyn FnMut(usize, Change),
    ) -> Result<(), IndexError> {
        let mut held = None;
        let mut bytes = [0; BLOCK];
        for (at, id) in ids {
            for block in self.candidates(&id) {
                if held != Some(block) {
                    self.read_block(block, &mut bytes)?;
                    held = Some(block);
                }
                let records = bytes.as_chunks::<RECORD>().0;
                let records = &records[..self.shape.records_of_block(block)];
                let place = records.binary_search_by(|record| record[..32].cmp(id.as_bytes()));
                if let Ok(place) = place {
                    found(at, layout::decode(&records[place]));
                    break;
                }
            }
        }
        Ok(())
    }

    /// The blocks that may hold an id: none or one, unless ids have their first eight bytes in
    /// common.
    fn candidates(&self, id: &ChunkId) -> std::ops::Range<u64> {
        let fence = fence_of(id);
        // A block can hold it when its fence is not above and the next one's not below.
        let last_group = self.groups.partition_point(|&first| first <= fence);
        let Some(last_group) = last_group.checked_sub(1) else {
            return 0..0;
        };
        let group_start = (last_group * GROUP_BLOCKS) as u64;
        let group_end = (group_start + GROUP_BLOCKS as u64).min(self.shape.blocks());
        if self.groups[last_group] == fence {
            // The first id of the group begins like this one, which may stand before it.
            return self.alike(fence, group_end);
        }
        if !filter::may_contain(self.filter(last_group as u64), filter_key(id)) {
            return 0..0;
        }
        let (mut low, mut high) = (group_start + 1, group_end);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.fence(middle) <= fence {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        match self.fence(low - 1) == fence {
            true => self.alike(fence, low),
            false => low - 1..low,
        }
    }

    /// All blocks that may hold an id which begins like a fence.
    fn alike(&self, fence: u64, below: u64) -> std::ops::Range<u64> {
        let mut end = below;
        while end > 0 && self.fence(end - 1) > fence {
            end -= 1;
        }
        let mut start = end;
        while start > 0 && self.fence(start - 1) == fence {
            start -= 1;
        }
        start.saturating_sub(1)..end
    }

    fn fence(&self, block: u64) -> u64 {
        let at = block as usize * 8;
        u64::from_be_bytes(layout::part(&self.tail, at))
    }

    fn filter(&self, group: u64) -> &[u8] {
        let start = self.shape.filter_at(group) as usize;
        let length = filter::bytes_for(self.shape.records_of_group(group));
        &self.tail[start..start + length]
    }

    fn read_block(&self, block: u64, into: &mut [u8; BLOCK]) -> Result<(), IndexError> {
        self.read_at(block, into)?;
        self.check(block, into)
    }

    fn read_at(&self, block: u64, into: &mut [u8]) -> Result<(), IndexError> {
        let read = self.source.read_at(block * BLOCK as u64, into);
        read.map_err(|e| IndexError::read(&self.path, &e))
    }

    fn check(&self, block: u64, bytes: &[u8; BLOCK]) -> Result<(), IndexError> {
        if !layout::block_is_whole(bytes, &self.footer.salt, block) {
            let reason = format!("block {block} is not what was written");
            return Err(IndexError::damaged(&self.path, reason));
        }
        Ok(())
    }

    /// All its changes in order. After an error there are no more.
    pub fn changes(self: &Arc<Self>) -> Changes {
        Changes {
            segment: self.clone(),
            next: 0,
            piece: Vec::new(),
            piece_start: 0,
        }
    }
}

/// The changes of a segment, in order.
pub struct Changes {
    segment: Arc<Segment>,
    /// Record.
    next: u64,
    piece: Vec<u8>,
    /// Block with which the piece begins.
    piece_start: u64,
}

impl Changes {
    fn fill(&mut self, block: u64) -> Result<(), IndexError> {
        let count = READ_BLOCKS.min(self.segment.shape.blocks() - block);
        self.piece.resize(count as usize * BLOCK, 0);
        self.segment.read_at(block, &mut self.piece)?;
        for (number, bytes) in (block..).zip(self.piece.as_chunks::<BLOCK>().0) {
            self.segment.check(number, bytes)?;
        }
        self.piece_start = block;
        Ok(())
    }
}

impl Iterator for Changes {
    type Item = Result<Change, IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.segment.records() {
            return None;
        }
        let block = self.next / BLOCK_RECORDS as u64;
        let in_piece = (block.wrapping_sub(self.piece_start) as usize).wrapping_mul(BLOCK);
        if block < self.piece_start || in_piece >= self.piece.len() {
            if let Err(error) = self.fill(block) {
                self.next = u64::MAX;
                return Some(Err(error));
            }
            return self.next();
        }
        let at = in_piece + (self.next % BLOCK_RECORDS as u64) as usize * RECORD;
        self.next += 1;
        let record = layout::part(&self.piece, at);
        Some(Ok(layout::decode(&record)))
    }
}

/// A tenant's segments, newest first.
#[derive(Clone, Default)]
pub struct Layers(pub Vec<Arc<Segment>>);

impl Layers {
    /// Adds to the states of ids what the segments say of them. The ids must be in order, the
    /// states be as newer layers left them.
    pub fn complete(&self, ids: &[ChunkId], states: &mut [State]) -> Result<(), IndexError> {
        for segment in &self.0 {
            segment.look_up(ids, &mut |at, change| {
                states[at].add_older(change.place, change.refs);
            })?;
        }
        Ok(())
    }

    /// As [`complete`](Self::complete), for who wants to know only where the chunks are: looks
    /// no deeper than that takes, and leaves references half counted.
    pub fn place(&self, ids: &[ChunkId], states: &mut [State]) -> Result<(), IndexError> {
        let mut open: Vec<usize> = (0..ids.len())
            .filter(|&at| states[at].place == Place::Unchanged)
            .collect();
        for segment in &self.0 {
            let wanted = open.iter().map(|&at| (at, ids[at]));
            segment.look_up_some(wanted, &mut |at, change| {
                states[at].add_older(change.place, change.refs);
            })?;
            open.retain(|&at| states[at].place == Place::Unchanged);
        }
        Ok(())
    }
}
