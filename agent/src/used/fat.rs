//! FAT12, FAT16 and FAT32: clusters whose entry in the table is zero (Microsoft, "FAT: General
//! Overview of On-Disk Format", 1.03).
//!
//! There are no checksums. Demanded are two copies of the table that are the same, and that no
//! cluster's successor is free or beyond the end.

use super::area::Found;
use super::map::FreeRuns;
use super::volume::Volume;
use super::whole::{Seen, Whole, demand, le16, le32};

/// Bytes of the table that are looked at together: a multiple of 3, so that no entry is cut.
const PIECE: u64 = 3 * 16 * 1024;
/// Most clusters: their bits take 16 MiB.
const MAX_CLUSTERS: u64 = 1 << 27;

/// Whether a volume begins as FAT file systems do.
pub fn detect(head: &[u8]) -> bool {
    let jump = matches!(head.first(), Some(0xeb | 0xe9));
    let block = u64::from(le16(head, 11));
    let cluster = head.get(13).copied().unwrap_or(0);
    jump && le16(head, 510) == 0xaa55
        && block.is_power_of_two()
        && (512..=4096).contains(&block)
        && cluster.is_power_of_two()
        && le16(head, 14) > 0
        && matches!(head[16], 1..=4)
        && matches!(head[21], 0xf0 | 0xf8..)
}

/// The shape of a file system.
struct Shape {
    /// First byte of each table.
    tables: [u64; 2],
    /// Bits of an entry.
    bits: u64,
    /// First byte of cluster 2.
    data: u64,
    cluster: u64,
    /// Number behind that of the last cluster.
    end: u64,
    media: u8,
}

impl Shape {
    fn read(volume: &Volume<'_>) -> Seen<Self> {
        let boot = volume.bytes(0, 512)?;
        demand(detect(&boot), "the boot sector makes no sense")?;
        let (short, word) = (
            |at| u64::from(le16(&boot, at)),
            |at| u64::from(le32(&boot, at)),
        );
        let block = short(11);
        let either = |short: u64, long: u64| if short != 0 { short } else { long };
        let (total, table) = (either(short(19), word(32)), either(short(22), word(36)));
        demand(boot[16] == 2, "there are not two copies of the table")?;
        let root = (short(17) * 32).div_ceil(block);
        let data = short(14) + 2 * table + root;
        let clusters = total.saturating_sub(data) / u64::from(boot[13]);
        let bits = match clusters {
            _ if short(22) == 0 => 32,
            ..4085 => 12,
            _ => 16,
        };
        if bits == 32 {
            demand(
                short(40) & 0x80 == 0 && short(42) == 0,
                "the copies of the table are not kept the same",
            )?;
        }
        // Systems differ about what the count makes of it: then nobody knows.
        let named = match bits {
            32 => clusters >= 65_525 || boot[82..90] == *b"FAT32   ",
            16 => boot[54..62] != *b"FAT12   " && clusters < 65_525,
            _ => boot[54..62] != *b"FAT16   ",
        };
        let sane = named
            && (1..MAX_CLUSTERS).contains(&clusters)
            && (clusters + 2) * bits <= table * block * 8
            && total * block <= volume.size();
        demand(sane, "the boot sector makes no sense")?;
        let first = short(14) * block;
        Ok(Self {
            tables: [first, first + table * block],
            bits,
            data: data * block,
            cluster: u64::from(boot[13]) * block,
            end: clusters + 2,
            media: boot[21],
        })
    }

    /// Calls `each` with every cluster's number and entry, in order.
    fn entries(&self, volume: &Volume<'_>, mut each: impl FnMut(u64, u64) -> Seen<()>) -> Seen<()> {
        let length = (self.end * self.bits).div_ceil(8);
        let mut done = 0;
        while done < length {
            let piece = PIECE.min(length - done);
            let bytes = volume.bytes(self.tables[0] + done, piece as usize)?;
            let copy = volume.bytes(self.tables[1] + done, piece as usize)?;
            demand(bytes == copy, "the two copies of the table differ")?;
            let first = done * 8 / self.bits;
            let last = (first + piece * 8 / self.bits).min(self.end);
            for number in first..last {
                let at = ((number - first) * self.bits / 8) as usize;
                let entry = match self.bits {
                    32 => u64::from(le32(&bytes, at) & 0x0fff_ffff),
                    16 => u64::from(le16(&bytes, at)),
                    _ => u64::from(le16(&bytes, at) >> (4 * (number % 2)) & 0xfff),
                };
                each(number, entry)?;
            }
            done += piece;
        }
        Ok(())
    }

    /// Whether an entry names a following cluster, and not an end or a bad one.
    fn names_next(&self, entry: u64) -> bool {
        let top = 1 << self.bits.min(28);
        entry != 0 && entry < top - 9
    }
}

/// Frees what the table has free.
pub fn survey(volume: &Volume<'_>, free: &mut FreeRuns) -> Seen<Found> {
    let shape = Shape::read(volume)?;
    let mut used = vec![0u8; shape.end.div_ceil(8) as usize];
    shape.entries(volume, |number, entry| {
        match number {
            0 => demand(
                entry & 0xff == u64::from(shape.media),
                "the table does not begin as tables do",
            )?,
            1 => demand(entry != 0, "the table does not begin as tables do")?,
            _ => {}
        }
        if entry != 0 {
            used[(number / 8) as usize] |= 1 << (number % 8);
        }
        Ok(())
    })?;
    let is_used = |number: u64| used[(number / 8) as usize] >> (number % 8) & 1 != 0;
    shape.entries(volume, |number, entry| {
        let sound = number < 2
            || !shape.names_next(entry)
            || ((2..shape.end).contains(&entry) && is_used(entry));
        demand(sound, "a file's clusters go on where none can be")
    })?;
    let clusters = super::ext::clear_runs(&used, shape.end);
    for (first, end) in clusters {
        let at = |number: u64| shape.data + (number - 2) * shape.cluster;
        if first < 2 {
            return Err(Whole::new("the table does not begin as tables do"));
        }
        free.push(at(first), at(end));
    }
    Ok(Found::default())
}
