//! Members of software RAID: a mirror's member holds the whole array, so that it is looked into
//! (`drivers/md/md.c` and `include/uapi/linux/raid/md_p.h` of Linux).

use super::volume::Volume;
use super::whole::{Seen, demand, le16, le32, le64};

const MAGIC: u32 = 0xa92b_4efc;
/// The only feature under which a member's data area is as it always was: a write-intent bitmap.
const BITMAP: u32 = 1;

/// Where a mirror's data are on a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataArea {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
}

/// The data area of a member; none when this is no member at all, an error when it is one that
/// cannot be looked into. Superblocks of all versions are looked for: those at the end lie behind
/// what looks like a file system and is not, in arrays other than mirrors.
pub fn detect(volume: &Volume<'_>) -> Seen<Option<DataArea>> {
    let size = volume.size();
    if size < 128 << 10 {
        return Ok(None);
    }
    // Version 1.0: at least 8 KiB from the end, at a multiple of 4 KiB; 1.1 and 1.2: in front.
    let last = (size / 512 - 16) & !7;
    for at in [0, 4096, last * 512] {
        let head = volume.bytes(at, 4096)?;
        if le32(&head, 0) == MAGIC && le32(&head, 4) == 1 {
            return version_1(volume, &head, at).map(Some);
        }
    }
    // Version 0.90: in the last 64 KiB but those that do not fill 64 KiB.
    let at = (size & !0xffff) - 0x1_0000;
    let head = volume.bytes(at, 4096)?;
    if le32(&head, 0) == MAGIC {
        return version_0(&head, at).map(Some);
    }
    demand(
        le32(&head, 0) != MAGIC.swap_bytes(),
        "it is a member of a RAID of another byte order",
    )?;
    Ok(None)
}

fn version_1(volume: &Volume<'_>, head: &[u8], at: u64) -> Seen<DataArea> {
    let roles = le32(head, 220) as usize;
    let length = 256 + 2 * roles;
    demand(
        roles <= 1920 && length <= head.len(),
        "the RAID superblock is damaged",
    )?;
    let mut sum = 0u64;
    for (number, word) in head[..length].chunks(4).enumerate() {
        sum += match number {
            54 => 0,
            _ if word.len() < 4 => u64::from(le16(word, 0)),
            _ => u64::from(le32(word, 0)),
        };
    }
    demand(
        fold(sum) == le32(head, 216) && le64(head, 144).checked_mul(512) == Some(at),
        "the RAID superblock is damaged",
    )?;
    demand(
        le32(head, 72) == 1,
        "it is a member of a RAID other than a mirror",
    )?;
    demand(
        le32(head, 8) & !BITMAP == 0,
        "the RAID is being rebuilt or has features that are not read",
    )?;
    let own = le32(head, 160) as usize;
    let role = head[..length]
        .get(256 + 2 * own..)
        .map_or(0xffff, |r| le16(r, 0));
    demand(
        u32::from(role) < le32(head, 92),
        "it is a spare or faulty member of a RAID",
    )?;
    let (start, sectors) = (le64(head, 128), le64(head, 80));
    area(volume, start, sectors)
}

fn version_0(head: &[u8], at: u64) -> Seen<DataArea> {
    let words = head.chunks_exact(4).map(|word| u64::from(le32(word, 0)));
    let sum = words.sum::<u64>() - u64::from(le32(head, 4 * 38));
    demand(
        fold(sum) == le32(head, 4 * 38) && le32(head, 4) == 0 && le32(head, 8) >= 90,
        "the RAID superblock is damaged",
    )?;
    demand(
        le32(head, 4 * 7) == 1,
        "it is a member of a RAID other than a mirror",
    )?;
    // Number, major, minor, place and state of this member: active (2) and in step (4).
    let (place, state) = (le32(head, 3968 + 12), le32(head, 3968 + 16));
    demand(
        le32(head, 8) == 90 && state & 7 == 6 && place < le32(head, 4 * 10),
        "it is a spare or faulty member of a RAID, or one that changes its shape",
    )?;
    let size = u64::from(le32(head, 4 * 8)) * 1024;
    demand(size > 0 && size <= at, "the RAID superblock is damaged")?;
    Ok(DataArea { start: 0, size })
}

fn area(volume: &Volume<'_>, start: u64, sectors: u64) -> Seen<DataArea> {
    let area = start.checked_mul(512).zip(sectors.checked_mul(512));
    let area = area.map(|(start, size)| DataArea { start, size });
    let area = area.filter(|a| {
        let end = a.start.checked_add(a.size);
        a.size > 0 && end.is_some_and(|end| end <= volume.size())
    });
    area.ok_or(super::whole::Whole::new("the RAID superblock is damaged"))
}

fn fold(sum: u64) -> u32 {
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}
