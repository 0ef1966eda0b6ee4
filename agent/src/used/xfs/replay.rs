//! What the log holds of headers of groups and blocks of trees that may not be at home yet
//! (`fs/xfs/xfs_log_recover.c` and `xfs_buf_item_recover.c` of Linux).

use std::collections::BTreeMap;

use super::super::checksum::crc32c;
use super::super::whole::{Seen, Whole, be32, be64, demand, le16, le32, le64};

/// Bytes that are logged together.
const CHUNK: usize = 128;
const BUFFER: u16 = 0x123c;
/// The buffer was freed: nothing of it is to be replayed.
const CANCELLED: u16 = 2;
/// Kinds of buffers: a block of a tree, and the header of a group.
const TREE: u16 = 4;
const GROUP: u16 = 5;

const START: u8 = 0x01;
const COMMIT: u8 = 0x02;
const CONTINUES: u8 = 0x04;
const CONTINUED: u8 = 0x08;
const END: u8 = 0x10;
const UNMOUNTED: u8 = 0x20;

/// Most chunks that are remembered: 16 MiB with their keys.
const MOST: usize = 1 << 16;
/// Most bytes of transactions that are not committed yet.
const PENDING: usize = 16 << 20;

/// Logged chunks of blocks.
#[derive(Default)]
pub struct Logged {
    /// By the block's place on the disk, in units of 512 bytes, and the chunk's number in it.
    chunks: BTreeMap<(u64, u32), (u64, [u8; CHUNK])>,
    transactions: BTreeMap<u32, Transaction>,
    pending: usize,
}

/// A transaction that is not committed yet.
struct Transaction {
    /// Of the record in which it began.
    lsn: u64,
    /// Bytes of its own header that were seen.
    header: usize,
    items: Vec<Item>,
}

/// A changed thing: what it is, and its regions.
#[derive(Default)]
struct Item {
    total: usize,
    regions: Vec<Vec<u8>>,
}

impl Logged {
    /// Takes the operations of a record, whose cycle numbers are put back.
    pub fn take(&mut self, lsn: u64, data: &[u8], operations: u32) -> Seen<()> {
        let damaged = || Whole::new("the log cannot be read");
        let mut rest = data;
        for _ in 0..operations {
            let (head, behind) = rest.split_at_checked(12).ok_or_else(damaged)?;
            let length = be32(head, 4) as usize;
            let (region, behind) = behind.split_at_checked(length).ok_or_else(damaged)?;
            self.operation(lsn, be32(head, 0), head[9], region)?;
            rest = behind;
        }
        Ok(())
    }

    fn operation(&mut self, lsn: u64, id: u32, flags: u8, region: &[u8]) -> Seen<()> {
        if flags & START != 0 {
            let items = Vec::new();
            let begun = Transaction {
                lsn,
                header: 0,
                items,
            };
            self.transactions.insert(id, begun);
            return demand(region.is_empty(), "the log cannot be read");
        }
        // What began before the log's tail is at home.
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return Ok(());
        };
        let mut flags = flags & !END;
        if flags & CONTINUED != 0 {
            flags &= !CONTINUES;
        }
        match flags {
            COMMIT => {
                if let Some(done) = self.transactions.remove(&id) {
                    for item in &done.items {
                        self.pending = self.pending.saturating_sub(item.bytes());
                        self.apply(done.lsn, item)?;
                    }
                }
                Ok(())
            }
            UNMOUNTED => Ok(()),
            0 | CONTINUES | CONTINUED => {
                self.pending += transaction.add(flags == CONTINUED, region)?;
                demand(self.pending <= PENDING, "the log holds too much")
            }
            _ => Err(Whole::new("the log cannot be read")),
        }
    }

    fn apply(&mut self, lsn: u64, item: &Item) -> Seen<()> {
        let mut regions = item.regions.iter();
        let Some(format) = regions.next() else {
            return Ok(());
        };
        if !is_wanted(format) {
            return Ok(());
        }
        let place = le64(format, 8);
        let bits = 32 * le32(format, 16).min(64);
        let set = |bit: u32| le32(format, 20 + 4 * (bit / 32) as usize) >> (bit % 32) & 1 != 0;
        let mut bit = 0;
        while bit < bits {
            if !set(bit) {
                bit += 1;
                continue;
            }
            let first = bit;
            while bit < bits && set(bit) {
                bit += 1;
            }
            let region = regions.next().ok_or(Whole::new("the log cannot be read"))?;
            for (number, bytes) in (first..bit).zip(region.as_chunks::<CHUNK>().0) {
                self.chunks.insert((place, number), (lsn, *bytes));
            }
            demand(self.chunks.len() <= MOST, "the log holds too much")?;
        }
        Ok(())
    }

    /// Lays over a block at `place`, last written to its home at `lsn`, what was logged later.
    /// Tells whether anything was.
    pub fn lay_over(&self, place: u64, lsn: u64, block: &mut [u8]) -> bool {
        let mut laid = false;
        for ((_, number), (at, bytes)) in self.chunks.range((place, 0)..=(place, u32::MAX)) {
            let start = *number as usize * CHUNK;
            if *at > lsn
                && let Some(chunk) = block.get_mut(start..start + CHUNK)
            {
                chunk.copy_from_slice(bytes);
                laid = true;
            }
        }
        laid
    }
}

impl Transaction {
    /// Adds a region, or goes on with the last one. Returns the bytes that are kept.
    fn add(&mut self, goes_on: bool, region: &[u8]) -> Seen<usize> {
        // Its own header, in one piece or several: sixteen bytes.
        if self.header < 16 {
            let first = self.header == 0;
            self.header += region.len();
            return demand(
                self.header <= 16 && (!first || le32(region, 0) == 0x5452_414e),
                "the log cannot be read",
            )
            .map(|()| 0);
        }
        if region.is_empty() {
            return Ok(0);
        }
        if goes_on {
            let item = self.items.last_mut();
            let item = item.ok_or(Whole::new("the log cannot be read"))?;
            let kept = item.regions.len() < 2 || item.is_wanted();
            let last = item.regions.last_mut();
            let last = last.ok_or(Whole::new("the log cannot be read"))?;
            if kept {
                last.extend_from_slice(region);
            }
            if item.regions.len() == 1 {
                item.total = le16(&item.regions[0], 2).into();
            }
            return Ok(if kept { region.len() } else { 0 });
        }
        if self.items.last().is_none_or(|i| i.total == i.regions.len()) {
            self.items.push(Item::default());
        }
        let Some(item) = self.items.last_mut() else {
            return Ok(0);
        };
        if item.regions.is_empty() {
            item.total = le16(region, 2).into();
            demand(item.total > 0, "the log cannot be read")?;
        }
        let kept = item.regions.is_empty() || item.is_wanted();
        item.regions
            .push(if kept { region.to_vec() } else { Vec::new() });
        // An empty region and an item cost memory, too.
        Ok(64 + if kept { region.len() } else { 0 })
    }
}

impl Item {
    fn is_wanted(&self) -> bool {
        self.regions.first().is_some_and(|format| is_wanted(format))
    }

    fn bytes(&self) -> usize {
        self.regions.iter().map(|region| 64 + region.len()).sum()
    }
}

/// Whether a buffer's format is that of a tree's block or a group's header, and not freed.
fn is_wanted(format: &[u8]) -> bool {
    let flags = le16(format, 4);
    le16(format, 0) == BUFFER && flags & CANCELLED == 0 && matches!(flags >> 11, TREE | GROUP)
}

/// A record as it is in the log: header blocks, and data.
pub struct Record {
    /// One block of 512 bytes, and more when the data are longer than 32 KiB.
    pub headers: Vec<u8>,
    /// Its data.
    pub data: Vec<u8>,
}

impl Record {
    /// Takes what it holds into `logged`.
    pub fn replay(mut self, logged: &mut Logged) -> Seen<()> {
        let length = be32(&self.headers, 12) as usize;
        let mut sum = crc32c(!0, &self.headers[..32]);
        sum = crc32c(crc32c(sum, &[0; 4]), &self.headers[36..328]);
        for extended in self.headers.chunks(512).skip(1) {
            sum = crc32c(sum, &extended[..260]);
        }
        let data = self
            .data
            .get(..length)
            .ok_or(Whole::new("the log cannot be read"))?;
        demand(
            !crc32c(sum, data) == le32(&self.headers, 32),
            "a record of the log has a wrong checksum",
        )?;
        // The first word of every block was replaced by the cycle.
        for (number, block) in self.data.chunks_mut(512).enumerate() {
            let at = match number / 64 {
                0 => 44 + 4 * number,
                extended => 512 * extended + 4 + 4 * (number % 64),
            };
            if let (Some(kept), Some(word)) = (self.headers.get(at..at + 4), block.get_mut(..4)) {
                word.copy_from_slice(kept);
            }
        }
        let lsn = be64(&self.headers, 16);
        logged.take(lsn, &self.data[..length], be32(&self.headers, 40))
    }
}
