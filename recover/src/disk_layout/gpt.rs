//! GUID partition table, UEFI 2.10 section 5.3.
//!
//! Both headers are checked (signature, CRC of header and entries); either is enough.

use flate2::Crc;

use super::{DiskLayout, LayoutError, Partition, TableKind, le32, le64, refuse_overlaps};
use crate::block::BlockRead;

/// More entries than any tool writes (128 is the rule, 16 MiB of entries is nonsense).
const MAX_ENTRIES: u32 = 4096;

struct Header {
    this_lba: u64,
    other_lba: u64,
    first_usable: u64,
    last_usable: u64,
    disk_guid: String,
    entries_lba: u64,
    entry_count: u32,
    entry_size: u32,
    entries_crc: u32,
}

/// Reads a GPT; `None` if the disk does not claim to have one.
pub(super) fn read(
    disk: &dyn BlockRead,
    boot_sector: &[u8; 512],
) -> Result<Option<DiskLayout>, LayoutError> {
    let protective =
        super::mbr::has_signature(boot_sector) && super::mbr::is_protective(boot_sector);
    let mut sector_size = None;
    for candidate in [512u64, 4096] {
        let mut magic = [0u8; 8];
        if candidate + 8 <= disk.size() {
            disk.read_at(candidate, &mut magic)?;
        }
        if &magic == b"EFI PART" {
            sector_size = Some(candidate);
            break;
        }
    }
    if sector_size.is_none() && !protective {
        return Ok(None);
    }
    // A protective MBR whose GPT was overwritten still has a second header at the end.
    let sector = sector_size.unwrap_or(512);
    let sectors = disk.size() / sector;
    let mut notes = Vec::new();

    let primary = header(disk, sector, 1)?;
    if let Ok(header) = &primary {
        for (what, last) in [
            ("its last usable sector", header.last_usable),
            ("its second header", header.other_lba),
        ] {
            if last >= sectors {
                return Err(LayoutError::Truncated {
                    what: format!("the GPT ({what})"),
                    end: last.saturating_add(1).saturating_mul(sector),
                    size: disk.size(),
                });
            }
        }
    }
    let backup_lba = primary
        .as_ref()
        .map_or(sectors.saturating_sub(1), |h| h.other_lba);
    let backup = header(disk, sector, backup_lba)?;

    let mut chosen = None;
    let mut problems = Vec::new();
    for (which, candidate) in [("first", primary), ("second", backup)] {
        match candidate {
            Err(reason) => problems.push(format!("the {which} header {reason}")),
            Ok(header) => match entries(disk, sector, &header)? {
                Err(reason) => problems.push(format!("the {which} header's entries {reason}")),
                Ok(bytes) if chosen.is_none() => chosen = Some((header, bytes)),
                Ok(_) => {}
            },
        }
    }
    let Some((header, bytes)) = chosen else {
        let mut problems = problems.into_iter();
        return Err(LayoutError::GptDamaged {
            primary: problems.next().unwrap_or_default(),
            backup: problems.next().unwrap_or_default(),
        });
    };
    notes.extend(
        problems
            .into_iter()
            .map(|p| format!("GPT: {p}; the other one is whole and was used")),
    );

    let mut partitions = Vec::new();
    for (index, entry) in bytes.chunks_exact(header.entry_size as usize).enumerate() {
        if let Some(partition) = partition(entry, index as u32 + 1, sector, disk.size(), &header)? {
            partitions.push(partition);
        }
    }
    refuse_overlaps(&partitions)?;
    Ok(Some(DiskLayout {
        table: TableKind::Gpt,
        sector_size: sector as u32,
        disk_id: Some(header.disk_guid),
        partitions,
        notes,
    }))
}

/// Outer error: the disk cannot be read. Inner: this header cannot be believed, and why.
fn header(
    disk: &dyn BlockRead,
    sector: u64,
    lba: u64,
) -> Result<Result<Header, String>, LayoutError> {
    let at = lba.saturating_mul(sector);
    if lba == 0 || at.saturating_add(sector) > disk.size() {
        return Ok(Err("lies outside the image".into()));
    }
    let mut bytes = vec![0u8; sector as usize];
    disk.read_at(at, &mut bytes)?;
    if bytes.get(..8) != Some(b"EFI PART".as_slice()) {
        return Ok(Err("is missing".into()));
    }
    let len = le32(&bytes, 12) as usize;
    if !(92..=bytes.len()).contains(&len) {
        return Ok(Err(format!("claims an impossible length of {len} bytes")));
    }
    let stored = le32(&bytes, 16);
    let mut zeroed = bytes.clone();
    zeroed[16..20].fill(0);
    if crc32(&zeroed[..len]) != stored {
        return Ok(Err("has a wrong checksum".into()));
    }
    let header = Header {
        this_lba: le64(&bytes, 24),
        other_lba: le64(&bytes, 32),
        first_usable: le64(&bytes, 40),
        last_usable: le64(&bytes, 48),
        disk_guid: guid(&bytes[56..72]),
        entries_lba: le64(&bytes, 72),
        entry_count: le32(&bytes, 80),
        entry_size: le32(&bytes, 84),
        entries_crc: le32(&bytes, 88),
    };
    if header.this_lba != lba {
        return Ok(Err(format!(
            "says it belongs to sector {}, not {lba}",
            header.this_lba
        )));
    }
    if header.first_usable > header.last_usable {
        return Ok(Err("has its usable sectors end before they begin".into()));
    }
    if !(128..=4096).contains(&header.entry_size) || !header.entry_size.is_multiple_of(128) {
        return Ok(Err(format!(
            "claims entries of {} bytes",
            header.entry_size
        )));
    }
    if header.entry_count > MAX_ENTRIES {
        return Ok(Err(format!("claims {} entries", header.entry_count)));
    }
    Ok(Ok(header))
}

fn entries(
    disk: &dyn BlockRead,
    sector: u64,
    header: &Header,
) -> Result<Result<Vec<u8>, String>, LayoutError> {
    let len = u64::from(header.entry_count) * u64::from(header.entry_size);
    let at = header.entries_lba.saturating_mul(sector);
    if header.entries_lba < 2 || at.saturating_add(len) > disk.size() {
        return Ok(Err("lie outside the image".into()));
    }
    let mut bytes = vec![0u8; len as usize];
    disk.read_at(at, &mut bytes)?;
    if crc32(&bytes) != header.entries_crc {
        return Ok(Err("have a wrong checksum".into()));
    }
    Ok(Ok(bytes))
}

fn partition(
    entry: &[u8],
    number: u32,
    sector: u64,
    size: u64,
    header: &Header,
) -> Result<Option<Partition>, LayoutError> {
    let Some(type_guid) = entry.get(..16).filter(|t| t.iter().any(|b| *b != 0)) else {
        return Ok(None);
    };
    let (first, last) = (le64(entry, 32), le64(entry, 40));
    if first > last || first < header.first_usable {
        return Err(LayoutError::Absurd {
            reason: format!("partition {number} runs from sector {first} to sector {last}"),
        });
    }
    let end = last.saturating_add(1).saturating_mul(sector);
    if end > size {
        return Err(LayoutError::Truncated {
            what: format!("partition {number}"),
            end,
            size,
        });
    }
    let name: Vec<u16> = entry[56..128]
        .chunks_exact(2)
        .map(|c| u16::from_le_bytes([c[0], c[1]]))
        .take_while(|c| *c != 0)
        .collect();
    Ok(Some(Partition {
        number,
        start: first * sector,
        len: end - first * sector,
        part_uuid: Some(guid(&entry[16..32])),
        kind: guid(type_guid),
        name: (!name.is_empty()).then(|| String::from_utf16_lossy(&name)),
        // Attribute bit 2: legacy BIOS bootable.
        bootable: le64(entry, 48) & 4 != 0,
    }))
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The first three fields are little-endian, the rest is in order (UEFI 2.10, appendix A).
fn guid(b: &[u8]) -> String {
    let tail: String = b
        .iter()
        .skip(10)
        .take(6)
        .map(|x| format!("{x:02x}"))
        .collect();
    format!(
        "{:08x}-{:04x}-{:04x}-{:02x}{:02x}-{tail}",
        le32(b, 0),
        super::le16(b, 4),
        super::le16(b, 6),
        b.get(8).copied().unwrap_or(0),
        b.get(9).copied().unwrap_or(0),
    )
}
