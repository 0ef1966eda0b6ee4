//! Partition tables: GPT (UEFI specification 2.10, section 5.3) and MBR with logical partitions.

use super::checksum::crc32;
use super::volume::{Volume, disjoint};
use super::whole::{Seen, Whole, demand, le16, le32, le64};

/// The partition type of a protective MBR: a GPT follows.
const PROTECTIVE: u8 = 0xee;
/// Most entries of a GPT that are read; every tool writes 128.
const MAX_ENTRIES: u32 = 4096;
/// Largest entry that is read; every tool writes 128 bytes.
const MAX_ENTRY: u32 = 4096;
/// Most logical partitions followed in an extended one.
const MAX_LOGICAL: u32 = 128;

/// A partition table as it is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// `gpt` or `mbr`.
    pub kind: &'static str,
    /// In the table's order, extended ones before those in them.
    pub partitions: Vec<Partition>,
}

/// A partition as its table has it: nothing says that it lies within the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// As systems count.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// Type: a GUID in lower case, or `0x83` and the like.
    pub kind: String,
    /// Its own GUID.
    pub uuid: Option<String>,
    /// Its name.
    pub label: Option<String>,
    /// Whether others lie within it.
    pub extended: bool,
}

/// The table of a volume, if it has one that can be read.
pub fn read(volume: &Volume<'_>) -> Option<Table> {
    let master = sector(volume, 0)?;
    match entries(&master) {
        Some(entries) if entries.iter().any(|e| e.kind == PROTECTIVE) => {
            let (partitions, _) = gpt(volume)?;
            let kind = "gpt";
            Some(Table { kind, partitions })
        }
        Some(entries) => mbr(volume, &entries),
        // A GPT whose protective MBR was overwritten is still one.
        None => {
            let (partitions, _) = gpt(volume)?;
            let kind = "gpt";
            Some(Table { kind, partitions })
        }
    }
}

impl Table {
    /// Partitions that hold something, extended ones not among them, when the table makes sense:
    /// all lie within the volume and apart from each other, and every copy of the table says the
    /// same.
    pub fn sound(&self, volume: &Volume<'_>) -> Seen<Vec<&Partition>> {
        let holding = self.partitions.iter().filter(|p| !p.extended);
        let mut found: Vec<_> = holding.filter(|p| p.size > 0).collect();
        let mut runs = Vec::new();
        for partition in &found {
            let end = partition.start.checked_add(partition.size);
            let within = end.filter(|end| *end <= volume.size() && partition.start > 0);
            let end = within.ok_or(Whole::new("a partition does not lie within the disk"))?;
            runs.push((partition.start, end));
        }
        demand(disjoint(&mut runs), "two partitions overlap")?;
        if self.kind == "gpt" {
            let agree = gpt(volume).is_some_and(|(_, agree)| agree);
            demand(agree, "the two copies of the GPT differ")?;
            // A table for other systems beside the GPT must not say anything else.
            let master = sector(volume, 0).and_then(|sector| entries(&sector));
            for entry in master.iter().flatten() {
                let other = entry.partition(0, 0, u64::from(volume.sector()));
                let known = |p: &&Partition| (p.start, p.size) == (other.start, other.size);
                demand(
                    matches!(entry.kind, 0 | PROTECTIVE) || found.iter().any(known),
                    "the MBR beside the GPT has other partitions",
                )?;
            }
        }
        found.sort_by_key(|p| p.start);
        Ok(found)
    }
}

fn sector(volume: &Volume<'_>, offset: u64) -> Option<[u8; 512]> {
    let mut bytes = [0; 512];
    volume.read_at(offset, &mut bytes).ok()?;
    Some(bytes)
}

/// The partitions of the first copy that is whole, and whether no other whole copy differs.
fn gpt(volume: &Volume<'_>) -> Option<(Vec<Partition>, bool)> {
    let own = u64::from(volume.sector());
    let blocks = [own, 512, 4096];
    blocks.into_iter().find_map(|block| {
        if block < 512 {
            return None;
        }
        let last = (volume.size() / block).checked_sub(1)?;
        let first = gpt_copy(volume, block, 1);
        // On a disk that has grown since, the other copy is where the first one says.
        let other = first.as_ref().map_or(last, |copy| copy.alternate);
        let second = gpt_copy(volume, block, other);
        match (first, second) {
            (Some(first), second) => {
                let agree = second.is_none_or(|s| s.partitions == first.partitions);
                Some((first.partitions, agree))
            }
            (None, second) => Some((second?.partitions, true)),
        }
    })
}

struct GptCopy {
    alternate: u64,
    partitions: Vec<Partition>,
}

fn gpt_copy(volume: &Volume<'_>, block: u64, number: u64) -> Option<GptCopy> {
    let header = sector(volume, number.checked_mul(block)?)?;
    let size = le32(&header, 12) as usize;
    if !header.starts_with(b"EFI PART") || !(92..=512).contains(&size) {
        return None;
    }
    let mut blank = header;
    blank[16..20].fill(0);
    if !crc32(!0, &blank[..size]) != le32(&header, 16) || le64(&header, 24) != number {
        return None;
    }
    let (count, length) = (le32(&header, 80), le32(&header, 84));
    if count > MAX_ENTRIES || !(128..=MAX_ENTRY).contains(&length) {
        tracing::warn!("a partition table of {count} entries of {length} bytes is not read");
        return None;
    }
    let table = le64(&header, 72).checked_mul(block)?;
    let bytes = volume.bytes(table, count as usize * length as usize).ok()?;
    if !crc32(!0, &bytes) != le32(&header, 88) {
        return None;
    }
    let entries = (1..).zip(bytes.chunks_exact(length as usize));
    let partitions = entries.filter(|(_, entry)| entry[..16] != [0; 16]);
    Some(GptCopy {
        alternate: le64(&header, 32),
        partitions: partitions
            .map(|(number, entry)| gpt_partition(number, entry, block))
            .collect(),
    })
}

fn gpt_partition(number: u32, entry: &[u8], block: u64) -> Partition {
    let (first, last) = (le64(entry, 32), le64(entry, 40));
    let name: Vec<_> = entry[56..128]
        .chunks_exact(2)
        .map(|unit| le16(unit, 0))
        .take_while(|unit| *unit != 0)
        .collect();
    let name = String::from_utf16_lossy(&name);
    Partition {
        number,
        start: first.saturating_mul(block),
        size: last
            .saturating_add(1)
            .saturating_sub(first)
            .saturating_mul(block),
        kind: guid(&entry[..16]),
        uuid: Some(guid(&entry[16..32])),
        label: (!name.is_empty()).then_some(name),
        extended: false,
    }
}

/// A GUID as text: its first three fields are little endian.
fn guid(bytes: &[u8]) -> String {
    let tail: String = bytes[10..16].iter().map(|b| format!("{b:02x}")).collect();
    format!(
        "{:08x}-{:04x}-{:04x}-{:02x}{:02x}-{tail}",
        le32(bytes, 0),
        le16(bytes, 4),
        le16(bytes, 6),
        bytes[8],
        bytes[9]
    )
}

fn mbr(volume: &Volume<'_>, entries: &[MbrEntry; 4]) -> Option<Table> {
    let unit = u64::from(volume.sector());
    // A boot sector of a file system has the signature too; its "entries" make no sense.
    if !entries.iter().all(|e| matches!(e.status, 0 | 0x80)) {
        return None;
    }
    let mut partitions = Vec::new();
    for (number, entry) in (1..).zip(entries) {
        if entry.kind == 0 {
            continue;
        }
        partitions.push(entry.partition(number, 0, unit));
        if entry.is_extended() {
            logical(volume, u64::from(entry.first), &mut partitions);
        }
    }
    let kind = "mbr";
    Some(Table { kind, partitions })
}

fn logical(volume: &Volume<'_>, base: u64, found: &mut Vec<Partition>) {
    let unit = u64::from(volume.sector());
    let mut at = base;
    for number in 5..5 + MAX_LOGICAL {
        let sector = sector(volume, at * unit);
        let Some([logical, next, ..]) = sector.and_then(|sector| entries(&sector)) else {
            break;
        };
        if logical.kind != 0 {
            found.push(logical.partition(number, at, unit));
        }
        // A chain must go forward, or it would never end.
        let following = base + u64::from(next.first);
        if !next.is_extended() || following <= at {
            break;
        }
        at = following;
    }
}

#[derive(Clone, Copy)]
struct MbrEntry {
    status: u8,
    kind: u8,
    first: u32,
    count: u32,
}

impl MbrEntry {
    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    fn partition(&self, number: u32, base: u64, unit: u64) -> Partition {
        Partition {
            number,
            start: (base + u64::from(self.first)) * unit,
            size: u64::from(self.count) * unit,
            kind: format!("0x{:02x}", self.kind),
            uuid: None,
            label: None,
            extended: self.is_extended(),
        }
    }
}

fn entries(sector: &[u8; 512]) -> Option<[MbrEntry; 4]> {
    if sector[510..] != [0x55, 0xaa] {
        return None;
    }
    Some(std::array::from_fn(|i| {
        let entry = &sector[446 + 16 * i..446 + 16 * (i + 1)];
        MbrEntry {
            status: entry[0],
            kind: entry[4],
            first: le32(entry, 8),
            count: le32(entry, 12),
        }
    }))
}
