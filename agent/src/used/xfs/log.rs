//! The log: whether everything in it is at home.

use super::super::volume::Volume;
use super::super::whole::{Seen, Whole, be32, demand};

/// The log is counted in these, whatever blocks and sectors are.
const BLOCK: u64 = 512;
const MAGIC: u32 = 0xfeed_babe;
/// In the header of an operation: the file system was unmounted.
const UNMOUNTED: u8 = 0x20;
/// Longest record: 256 KiB and its headers.
const LONGEST: u64 = 512 + 16;

/// Where the log goes on, and in which cycle; an error unless its last record tells of an
/// unmounting, behind which nothing was written.
pub fn clean(volume: &Volume<'_>, (start, length): (u64, u64)) -> Seen<(u64, u32)> {
    let log = Log {
        volume,
        start,
        blocks: length / BLOCK,
    };
    log.clean()
}

struct Log<'a> {
    volume: &'a Volume<'a>,
    start: u64,
    blocks: u64,
}

impl Log<'_> {
    fn block(&self, number: u64) -> Seen<Vec<u8>> {
        self.volume
            .bytes(self.start + number % self.blocks * BLOCK, BLOCK as usize)
    }

    /// The cycle in which a block was written: the first word of every block, but of a record's
    /// header the second.
    fn cycle(&self, number: u64) -> Seen<u32> {
        let block = self.block(number)?;
        Ok(match be32(&block, 0) {
            MAGIC => be32(&block, 4),
            cycle => cycle,
        })
    }

    /// The first block in `from..to` of which `holds` is true; it is so of all behind it.
    fn first(&self, holds: impl Fn(u32) -> bool) -> Seen<u64> {
        let (mut from, mut to) = (0, self.blocks);
        while from < to {
            let middle = from + (to - from) / 2;
            if holds(self.cycle(middle)?) {
                to = middle;
            } else {
                from = middle + 1;
            }
        }
        Ok(from)
    }

    fn clean(&self) -> Seen<(u64, u32)> {
        let (first, last) = (self.cycle(0)?, self.cycle(self.blocks - 1)?);
        if first == 0 {
            demand(last == 0, "the log makes no sense")?;
            return Ok((0, 0));
        }
        let head = match last {
            0 => self.first(|cycle| cycle == 0)?,
            _ if first == last => 0,
            _ => self.first(|cycle| cycle == last)?,
        };
        // The record that ends where the log goes on.
        let behind = if head == 0 { self.blocks } else { head };
        for back in 1..=LONGEST.min(behind) {
            let at = behind - back;
            let block = self.block(at)?;
            if be32(&block, 0) != MAGIC {
                continue;
            }
            let (version, size) = (be32(&block, 8), u64::from(be32(&block, 320)));
            let headers = match version & 2 {
                0 => 1,
                _ => size.div_ceil(32 << 10).clamp(1, 8),
            };
            let body = u64::from(be32(&block, 12)).div_ceil(BLOCK);
            let unmounted = at + headers + body == behind
                && be32(&block, 40) == 1
                && self.block(at + headers)?[9] & UNMOUNTED != 0;
            if unmounted {
                return Ok((head, be32(&block, 4)));
            }
            break;
        }
        Err(Whole::new(
            "the file system is mounted or was not unmounted: its log is not clean",
        ))
    }
}
