//! Chunks: which logical addresses are where on the device.

use super::super::volume::disjoint;
use super::super::whole::{Seen, Whole, demand, le16, le64};
use super::superblock::{Superblock, places};
use super::tree::Key;

pub const CHUNK_ITEM: u8 = 228;
/// Most chunks: 64 TiB of 1 GiB each.
pub const MOST: usize = 1 << 16;
/// The same bytes twice on the device.
const DUPLICATED: u64 = 0x20;
/// Data, system and metadata: one copy.
const KINDS: u64 = 0x7;
/// Data and nothing else.
const DATA: u64 = 0x1;

/// All chunks, by logical address.
pub struct Chunks(Vec<Chunk>);

struct Chunk {
    start: u64,
    end: u64,
    /// Where its copies begin on the device.
    copies: Vec<u64>,
    /// What is in it, and how often.
    kind: u64,
}

impl Chunks {
    /// Those that the superblock itself has: enough to read the tree of all.
    pub fn first(s: &Superblock) -> Seen<Self> {
        let senseless = || Whole::new("the superblock's chunks make no sense");
        let mut rest = s.system.as_slice();
        let mut items = Vec::new();
        while !rest.is_empty() {
            let (key, item) = rest.split_at_checked(17).ok_or_else(senseless)?;
            let length = 48 + 32 * usize::from(le16(item, 44));
            let (item, behind) = item.split_at_checked(length).ok_or_else(senseless)?;
            let key = Key::read(key);
            if key.kind != CHUNK_ITEM {
                return Err(senseless());
            }
            items.push((key.offset, item.to_vec()));
            rest = behind;
        }
        Self::all(s, &items)
    }

    /// From the items of their tree.
    pub fn all(s: &Superblock, items: &[(u64, Vec<u8>)]) -> Seen<Self> {
        let mut chunks = Vec::new();
        let (mut logical, mut physical) = (Vec::new(), Vec::new());
        for (start, item) in items {
            let (length, kind) = (le64(item, 0), le64(item, 24));
            let copies = match kind & !KINDS {
                0 => 1,
                DUPLICATED => 2,
                _ => return Err(Whole::new("it is striped or mirrored over several disks")),
            };
            let mut places = Vec::new();
            for stripe in 0..copies {
                let at = 48 + 32 * stripe;
                demand(
                    le64(item, at) == s.device,
                    "the file system is spread over several disks",
                )?;
                places.push(le64(item, at + 8));
            }
            let end = start.checked_add(length);
            let sane = usize::from(le16(item, 44)) == copies
                && item.len() == 48 + 32 * copies
                && length > 0;
            demand(sane, "a chunk makes no sense")?;
            let end = end.ok_or(Whole::new("a chunk makes no sense"))?;
            for place in &places {
                let stop = place
                    .checked_add(length)
                    .filter(|stop| *stop <= s.device_bytes);
                let stop = stop.ok_or(Whole::new("a chunk lies beyond the device's end"))?;
                physical.push((*place, stop));
            }
            logical.push((*start, end));
            let copies = places;
            chunks.push(Chunk {
                start: *start,
                end,
                copies,
                kind,
            });
        }
        demand(
            disjoint(&mut logical) && disjoint(&mut physical),
            "two chunks overlap",
        )?;
        chunks.sort_by_key(|chunk| chunk.start);
        Ok(Self(chunks))
    }

    /// Logical addresses of a chunk: first and end.
    pub fn logical(&self, number: usize) -> Option<(u64, u64)> {
        self.0.get(number).map(|chunk| (chunk.start, chunk.end))
    }

    /// Logical addresses of the chunks that hold one copy of data, and nothing else.
    pub fn single_data(&self) -> impl Iterator<Item = (u64, u64)> {
        let data = self.0.iter().filter(|chunk| chunk.kind == DATA);
        data.map(|chunk| (chunk.start, chunk.end))
    }

    /// Where the copies of logical addresses from `start` to `end` are on the device.
    pub fn locate(&self, start: u64, end: u64, tell: &mut dyn FnMut(u64, u64)) {
        let first = self.0.partition_point(|chunk| chunk.end <= start);
        for chunk in self.0[first..].iter().take_while(|chunk| chunk.start < end) {
            let from = start.max(chunk.start) - chunk.start;
            let to = end.min(chunk.end) - chunk.start;
            for copy in &chunk.copies {
                tell(copy + from, copy + to);
            }
        }
    }

    /// What of the device no chunk has.
    pub fn unallocated(&self, s: &Superblock) -> Seen<Vec<(u64, u64)>> {
        let mut taken: Vec<_> = places().to_vec();
        for chunk in &self.0 {
            let length = chunk.end - chunk.start;
            taken.extend(chunk.copies.iter().map(|copy| (*copy, copy + length)));
        }
        taken.sort_unstable();
        let (mut at, mut free) = (0, Vec::new());
        for (start, end) in taken {
            if start.min(s.device_bytes) > at {
                free.push((at, start.min(s.device_bytes)));
            }
            at = at.max(end);
        }
        if at < s.device_bytes {
            free.push((at, s.device_bytes));
        }
        Ok(free)
    }
}
