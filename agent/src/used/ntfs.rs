//! NTFS: the bitmap of clusters, file 6 of the master file table (the layout is that of ntfs-3g's
//! `include/ntfs-3g/layout.h`).
//!
//! There are no checksums. Demanded are: a volume that is not dirty, with a log that was closed;
//! the first four records of the table like their mirror; the marks at the end of every sector of
//! a record; and that the table, the log and the bitmap itself are in use.

use super::area::Found;
use super::map::{FreeRuns, UsedMap};
use super::volume::Volume;
use super::whole::{Seen, Whole, demand, le16, le32, le64};

const LOG_FILE: u64 = 2;
const VOLUME: u64 = 3;
const BITMAP: u64 = 6;

const VOLUME_INFORMATION: u32 = 0x70;
const DATA: u32 = 0x80;
const END: u32 = 0xffff_ffff;

/// Bytes of the bitmap that are looked at together.
const PIECE: u64 = 64 << 10;
/// Most runs of a file that are kept.
const MOST: usize = 65_536;

fn senseless() -> Whole {
    Whole::new("the file system's structures make no sense")
}

struct Shape {
    cluster: u64,
    clusters: u64,
    record: u64,
    table: u64,
    mirror: u64,
}

/// Frees clusters that the bitmap has free.
pub fn survey(volume: &Volume<'_>, free: &mut FreeRuns) -> Seen<Found> {
    let shape = Shape::read(volume)?;
    let table = shape.runs(&shape.record(volume, &[], 0)?)?;
    for number in 0..4 {
        let used = shape.record(volume, &table.runs, number)?;
        let mirror = shape
            .mirror
            .checked_mul(shape.cluster)
            .ok_or_else(senseless)?;
        let other = shape.fixed(volume, mirror + number * shape.record, number)?;
        let length = (le32(&used, 24) as usize).min(used.len());
        demand(
            used[..length] == other[..length],
            "the master file table and its mirror differ",
        )?;
    }
    let information = shape.record(volume, &table.runs, VOLUME)?;
    let flags = resident(&information, VOLUME_INFORMATION).map(|value| le16(value, 10));
    demand(flags? & 1 == 0, "the file system is dirty")?;
    let log = shape.runs(&shape.record(volume, &table.runs, LOG_FILE)?)?;
    log_closed(volume, &shape, &log)?;
    let bitmap = shape.runs(&shape.record(volume, &table.runs, BITMAP)?)?;
    let length = shape.clusters.div_ceil(8);
    demand(
        bitmap.size >= length && bitmap.initialized >= length,
        "the bitmap of clusters is too short",
    )?;
    let mut done = 0;
    while done < length {
        let piece = PIECE.min(length - done);
        let mut bits = vec![0; piece as usize];
        bitmap.read(volume, &shape, done, &mut bits)?;
        let first = done * 8;
        let left = (shape.clusters - first).min(piece * 8);
        for (from, to) in super::ext::clear_runs(&bits, left) {
            let at = |cluster: u64| (first + cluster) * shape.cluster;
            free.push(at(from), at(to));
        }
        done += piece;
    }
    let map = UsedMap::from(free.clone());
    for (start, length) in [&table, &log, &bitmap].into_iter().flat_map(|f| &f.runs) {
        let (start, end) = (start * shape.cluster, (start + length) * shape.cluster);
        demand(
            map.next_used(start, end) == Some((start, end)),
            "the bitmap of clusters has the system's own files free",
        )?;
    }
    demand(
        map.next_used(0, shape.cluster) == Some((0, shape.cluster)),
        "the bitmap of clusters has the boot sector free",
    )?;
    Ok(Found::default())
}

impl Shape {
    fn read(volume: &Volume<'_>) -> Seen<Self> {
        let boot = volume.bytes(0, 512)?;
        let sector = u64::from(le16(&boot, 11));
        // Clusters of more than 128 sectors are written as a negative power of two.
        let sectors = match boot[13] {
            many @ 0x81.. => 1u64.checked_shl(256 - u32::from(many)).unwrap_or(0),
            few => few.into(),
        };
        let cluster = sector.checked_mul(sectors).ok_or_else(senseless)?;
        let record = match boot[64] as i8 {
            clusters @ 1.. => cluster.saturating_mul(clusters as u64),
            power => 1u64
                .checked_shl(u32::from(power.unsigned_abs()))
                .unwrap_or(0),
        };
        let sane = boot[3..11] == *b"NTFS    "
            && sector.is_power_of_two()
            && (256..=4096).contains(&sector)
            && cluster.is_power_of_two()
            && (512..=2 << 20).contains(&cluster)
            && record.is_power_of_two()
            && (1024..=65_536).contains(&record);
        demand(sane, "the boot sector makes no sense")?;
        let size = le64(&boot, 40).checked_mul(sector);
        let size = size
            .filter(|size| *size <= volume.size())
            .ok_or_else(senseless)?;
        Ok(Self {
            cluster,
            clusters: size / cluster,
            record,
            table: le64(&boot, 48),
            mirror: le64(&boot, 56),
        })
    }

    /// A record of the master file table. Before the runs of the table are known, the first.
    fn record(&self, volume: &Volume<'_>, table: &[(u64, u64)], number: u64) -> Seen<Vec<u8>> {
        let mut at = number * self.record;
        if table.is_empty() {
            let start = self.table.checked_mul(self.cluster).ok_or_else(senseless)?;
            return self.fixed(volume, start, number);
        }
        for (start, length) in table {
            if at + self.record <= length * self.cluster {
                return self.fixed(volume, start * self.cluster + at, number);
            }
            at = at
                .checked_sub(length * self.cluster)
                .ok_or_else(senseless)?;
        }
        Err(senseless())
    }

    /// A record with the ends of its sectors put back.
    fn fixed(&self, volume: &Volume<'_>, at: u64, number: u64) -> Seen<Vec<u8>> {
        let mut bytes = volume.bytes(at, self.record as usize)?;
        let (marks, count) = (usize::from(le16(&bytes, 4)), usize::from(le16(&bytes, 6)));
        let own = le16(&bytes, 4) < 48 || u64::from(le32(&bytes, 44)) == number;
        let sound = bytes.starts_with(b"FILE")
            && count == bytes.len() / 512 + 1
            && marks + 2 * count <= 510
            && le16(&bytes, 22) & 1 != 0
            && own;
        demand(sound, "a record of the master file table is damaged")?;
        let mark = le16(&bytes, marks);
        for sector in 1..count {
            let end = sector * 512 - 2;
            demand(
                le16(&bytes, end) == mark,
                "a record of the master file table was not written whole",
            )?;
            let kept = [bytes[marks + 2 * sector], bytes[marks + 2 * sector + 1]];
            bytes[end..end + 2].copy_from_slice(&kept);
        }
        Ok(bytes)
    }

    /// Where the contents of a record's file are.
    fn runs(&self, record: &[u8]) -> Seen<File> {
        let attribute = attribute(record, DATA)?;
        demand(
            attribute.get(8) == Some(&1) && le64(attribute, 16) == 0 && le16(attribute, 12) == 0,
            "a file of the system is not laid out as it should be",
        )?;
        let file = File {
            runs: self.decode(attribute.get(usize::from(le16(attribute, 32))..))?,
            size: le64(attribute, 48),
            initialized: le64(attribute, 56),
        };
        let clusters: u64 = file.runs.iter().map(|(_, length)| length).sum();
        let whole = file.size <= clusters * self.cluster;
        demand(whole, "a file of the system is not described in one place")?;
        Ok(file)
    }

    fn decode(&self, pairs: Option<&[u8]>) -> Seen<Vec<(u64, u64)>> {
        let mut pairs = pairs.ok_or_else(senseless)?;
        let (mut runs, mut start, mut total) = (Vec::new(), 0i64, 0u64);
        loop {
            let (head, rest) = pairs.split_first().ok_or_else(senseless)?;
            let (lengths, offsets) = (usize::from(head & 0xf), usize::from(head >> 4));
            if *head == 0 {
                return Ok(runs);
            }
            // Without an offset it would be a hole.
            if !(1..=8).contains(&lengths) || !(1..=8).contains(&offsets) || runs.len() >= MOST {
                return Err(senseless());
            }
            let (length, rest) = rest.split_at_checked(lengths).ok_or_else(senseless)?;
            let (offset, rest) = rest.split_at_checked(offsets).ok_or_else(senseless)?;
            pairs = rest;
            start = start.checked_add(signed(offset)).ok_or_else(senseless)?;
            let first = u64::try_from(start).map_err(|_| senseless())?;
            let length = u64::try_from(signed(length)).map_err(|_| senseless())?;
            let end = first.checked_add(length);
            total = total.checked_add(length).ok_or_else(senseless)?;
            if length == 0 || end.is_none_or(|end| end > self.clusters) || total > self.clusters {
                return Err(senseless());
            }
            runs.push((first, length));
        }
    }
}

/// A file's contents: runs of clusters, and bytes.
struct File {
    runs: Vec<(u64, u64)>,
    size: u64,
    initialized: u64,
}

impl File {
    fn read(&self, volume: &Volume<'_>, shape: &Shape, from: u64, bytes: &mut [u8]) -> Seen<()> {
        let (mut begin, mut done) = (0, 0);
        for (start, length) in &self.runs {
            let end = begin + length * shape.cluster;
            let at = from + done as u64;
            if at < end && done < bytes.len() {
                let part = (end - at).min((bytes.len() - done) as u64) as usize;
                let place = start * shape.cluster + (at - begin);
                volume.read_at(place, &mut bytes[done..done + part])?;
                done += part;
            }
            begin = end;
        }
        demand(done == bytes.len(), "a file of the system is too short")
    }
}

/// A number of up to eight bytes, little endian, with its sign.
fn signed(bytes: &[u8]) -> i64 {
    let negative = bytes.last().is_some_and(|byte| *byte >= 0x80);
    let mut all = [if negative { 0xff } else { 0 }; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(all)
}

/// The only attribute of a kind without a name.
fn attribute(record: &[u8], kind: u32) -> Seen<&[u8]> {
    let mut rest = record
        .get(usize::from(le16(record, 20))..)
        .unwrap_or_default();
    loop {
        let (found, length) = (le32(rest, 0), le32(rest, 4) as usize);
        if found == END || length < 16 || length > rest.len() {
            return Err(senseless());
        }
        if found == kind && rest[9] == 0 {
            return Ok(&rest[..length]);
        }
        rest = &rest[length..];
    }
}

fn resident(record: &[u8], kind: u32) -> Seen<&[u8]> {
    let attribute = attribute(record, kind)?;
    let (start, length) = (
        usize::from(le16(attribute, 20)),
        le32(attribute, 16) as usize,
    );
    let value = attribute.get(start..).and_then(|rest| rest.get(..length));
    match value {
        Some(value) if attribute[8] == 0 && length >= 12 => Ok(value),
        _ => Err(senseless()),
    }
}

/// Demands that the log is empty, or that its user ended well.
fn log_closed(volume: &Volume<'_>, shape: &Shape, log: &File) -> Seen<()> {
    let mut pages = vec![0; 8192];
    log.read(volume, shape, 0, &mut pages)?;
    for page in pages.chunks(4096) {
        if page.iter().all(|byte| *byte == 0xff) {
            continue;
        }
        let area = usize::from(le16(page, 0x18));
        let closed = le16(page, area + 12) == 0xffff || le16(page, area + 14) & 2 != 0;
        demand(
            page.starts_with(b"RSTR") && closed,
            "the file system's log is not closed: it is mounted, or its system sleeps",
        )?;
    }
    Ok(())
}
