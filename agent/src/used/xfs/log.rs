//! The log: what in it may not be at home.

use super::super::volume::Volume;
use super::super::whole::{Seen, Whole, be32, be64, demand};
use super::Superblock;
use super::replay::{Logged, Record};

/// The log is counted in these, whatever blocks and sectors are.
const BLOCK: u64 = 512;
const MAGIC: u32 = 0xfeed_babe;
/// In the header of an operation: the file system was unmounted.
const UNMOUNTED: u8 = 0x20;
/// Longest record: 256 KiB and its headers.
const LONGEST: u64 = 512 + 16;

/// What in the log may not be at home: nothing when its last record tells of an unmounting.
pub fn read(volume: &Volume<'_>, s: &Superblock) -> Seen<Logged> {
    let (start, length) = s.log;
    let log = Log {
        volume,
        start,
        blocks: length / BLOCK,
    };
    log.read(s.checked)
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

    fn read(&self, checked: bool) -> Seen<Logged> {
        let mut logged = Logged::default();
        let (first, last) = (self.cycle(0)?, self.cycle(self.blocks - 1)?);
        if first == 0 {
            demand(last == 0, "the log makes no sense")?;
            return Ok(logged);
        }
        let head = match last {
            0 => self.first(|cycle| cycle == 0)?,
            _ if first == last => 0,
            _ => self.first(|cycle| cycle == last)?,
        };
        let (newest, unmounted) = self.newest(head)?;
        if unmounted {
            return Ok(logged);
        }
        demand(
            checked,
            "the file system is mounted or was not unmounted: its log is not empty",
        )?;
        // From the record before which all is at home to where the log goes on.
        let tail = be64(&newest, 24);
        let (mut cycle, mut at) = ((tail >> 32) as u32, tail & 0xffff_ffff);
        demand(at < self.blocks, "the log makes no sense")?;
        let mut left = match (head + self.blocks - at) % self.blocks {
            0 => self.blocks,
            left => left,
        };
        while left > 0 {
            let mut headers = self.block(at)?;
            let (own, body) = sizes(&headers);
            let sound = be32(&headers, 0) == MAGIC
                && be64(&headers, 16) == u64::from(cycle) << 32 | at
                && own + body <= left
                && own + body <= LONGEST;
            demand(sound, "the log is being written")?;
            for extended in 1..own {
                headers.extend(self.block(at + extended)?);
            }
            let mut data = Vec::new();
            for block in 0..body {
                data.extend(self.block(at + own + block)?);
            }
            Record { headers, data }.replay(&mut logged)?;
            left -= own + body;
            at += own + body;
            if at >= self.blocks {
                at -= self.blocks;
                cycle += 1;
            }
        }
        Ok(logged)
    }

    /// The header of the record that ends at `head`, and whether it tells of an unmounting.
    fn newest(&self, head: u64) -> Seen<(Vec<u8>, bool)> {
        for back in 1..=LONGEST.min(self.blocks) {
            let at = (head + self.blocks - back) % self.blocks;
            let block = self.block(at)?;
            if be32(&block, 0) != MAGIC {
                continue;
            }
            let (own, body) = sizes(&block);
            demand(own + body == back, "the log is being written")?;
            let unmounted = be32(&block, 40) == 1 && self.block(at + own)?[9] & UNMOUNTED != 0;
            return Ok((block, unmounted));
        }
        Err(Whole::new("the log makes no sense"))
    }
}

/// Blocks of a record's headers, and of its data.
fn sizes(header: &[u8]) -> (u64, u64) {
    let (version, size) = (be32(header, 8), u64::from(be32(header, 320)));
    let own = match version & 2 {
        0 => 1,
        _ => size.div_ceil(32 << 10).clamp(1, 8),
    };
    (own, u64::from(be32(header, 12)).div_ceil(BLOCK))
}
