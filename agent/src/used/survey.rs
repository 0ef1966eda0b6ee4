//! From disks to what is in use on them.

use std::sync::Arc;

use super::area::{Area, Found};
use super::evidence::Evidence;
use super::map::{FreeRuns, UsedMap};
use super::md::DataArea;
use super::table::Table;
use super::volume::{Source, Volume};
use super::whole::{Seen, Whole, le16};
use super::{btrfs, ext, fat, lvm, md, ntfs, swap, table, xfs};

/// Deepest nesting of volumes that is looked into: a disk, its partition, a mirror, a volume
/// group's volume, and a guest's partition in it.
const DEEPEST: usize = 6;
/// Most areas that are looked into.
const MOST: usize = 4096;
/// Bytes that hold every signature looked for: btrfs has its own farthest in, at 64 KiB.
const HEAD: u64 = 68 << 10;
/// Gaps between partitions that are worth naming.
const GAP: u64 = 1 << 20;

/// What is known of disks.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Of each disk.
    pub maps: Vec<UsedMap>,
    /// What was found, in the order of disks and places.
    pub areas: Vec<Area>,
    /// What proves that spans are as they were, where that was asked for.
    pub evidence: Evidence,
}

impl Survey {
    /// Says nothing: everything of so many disks is in use.
    pub fn none(disks: usize) -> Self {
        Self {
            maps: vec![UsedMap::default(); disks],
            areas: Vec::new(),
            evidence: Evidence::default(),
        }
    }

    /// Bytes that are not in use, of all disks.
    pub fn free_bytes(&self) -> u64 {
        self.maps.iter().map(UsedMap::free_bytes).sum()
    }
}

/// Looks at disks, given with their names. Volumes over several disks are looked into when all of
/// these are given.
pub fn survey(disks: &[(&str, &dyn Source)]) -> Survey {
    look_at(disks, None)
}

/// The same, and what proves that spans are as they were.
pub fn survey_with_evidence(disks: &[(&str, &dyn Source)]) -> Survey {
    look_at(disks, Some(Evidence::default()))
}

fn look_at(disks: &[(&str, &dyn Source)], evidence: Option<Evidence>) -> Survey {
    let mut surveyor = Surveyor {
        names: disks.iter().map(|(name, _)| *name).collect(),
        free: vec![FreeRuns::default(); disks.len()],
        areas: Vec::new(),
        physical: Vec::new(),
        mirrored: false,
        evidence,
    };
    for (number, (_, source)) in disks.iter().enumerate() {
        source.forget();
        let disk = Arc::new(Volume::Disk(*source, number));
        surveyor.look(&disk, None, 0);
    }
    while !surveyor.physical.is_empty() {
        surveyor.look_into_groups();
    }
    let position = |name: &str| disks.iter().position(|(disk, _)| *disk == name);
    let mut areas = surveyor.areas;
    areas.sort_by_key(|area| (position(&area.disk), area.offset));
    Survey {
        maps: surveyor.free.into_iter().map(UsedMap::from).collect(),
        areas,
        evidence: match surveyor.mirrored {
            true => Evidence::default(),
            false => surveyor.evidence.unwrap_or_default(),
        },
    }
}

/// What fills a volume.
enum Content {
    Table(Table),
    Mirror(DataArea),
    Physical,
    Encrypted,
    Swap(u64),
    Ext,
    Xfs,
    Btrfs,
    Fat,
    Ntfs,
}

impl Content {
    fn name(&self) -> &'static str {
        match self {
            Self::Table(table) => table.kind,
            Self::Mirror(_) => "linux_raid_member",
            Self::Physical => "LVM2_member",
            Self::Encrypted => "crypto_LUKS",
            Self::Swap(_) => "swap",
            Self::Ext => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Fat => "vfat",
            Self::Ntfs => "ntfs",
        }
    }
}

/// What is in a volume; none when nothing is recognised, an error when it is not certain what.
fn recognise(volume: &Volume<'_>) -> Seen<Option<Content>> {
    let mirror = md::detect(volume)?;
    if let Some(area @ DataArea { start: 0, .. }) = mirror {
        return Ok(Some(Content::Mirror(area)));
    }
    let head = volume.bytes(0, volume.size().min(HEAD) as usize)?;
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let mut found: Vec<_> = mirror.into_iter().map(Content::Mirror).collect();
    if lvm::is_physical(&head) {
        found.push(Content::Physical);
    }
    if at(0, b"LUKS\xba\xbe") {
        found.push(Content::Encrypted);
    }
    found.extend(swap::detect(&head)?.map(Content::Swap));
    if le16(&head, 1024 + 56) == 0xef53 {
        found.push(Content::Ext);
    }
    if at(0, b"XFSB") {
        found.push(Content::Xfs);
    }
    if at(0x10040, b"_BHRfS_M") {
        found.push(Content::Btrfs);
    }
    if at(3, b"NTFS    ") {
        found.push(Content::Ntfs);
    } else if fat::detect(&head) {
        found.push(Content::Fat);
    }
    let table = table::read(volume).filter(|t| t.kind == "gpt" || !t.partitions.is_empty());
    found.extend(table.map(Content::Table));
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(one), Some(other)) => Err(Whole::new(format!(
            "it looks like {} and like {}",
            one.name(),
            other.name()
        ))),
        (found, _) => Ok(found),
    }
}

struct Surveyor<'a> {
    names: Vec<&'a str>,
    free: Vec<FreeRuns>,
    areas: Vec<Area>,
    /// Physical volumes that were found and belong to no group yet, and how deep they are.
    physical: Vec<(Arc<Volume<'a>>, usize)>,
    /// There is a member of a mirror: while it is brought up to date, structures in it may be
    /// newer than the data they tell of, so that nothing proves anything.
    mirrored: bool,
    /// Where it is wanted.
    evidence: Option<Evidence>,
}

impl<'a> Surveyor<'a> {
    fn look(&mut self, volume: &Arc<Volume<'a>>, name: Option<&str>, depth: usize) {
        if depth > DEEPEST || self.areas.len() > MOST {
            let reason = Whole::new("volumes are nested too deep, or there are too many");
            return self.report(volume, name, "unknown", Err(reason), 0);
        }
        let content = match recognise(volume) {
            Ok(Some(content)) => content,
            Ok(None) => {
                let reason = Whole::new("nothing in it is recognised");
                return self.report(volume, name, "unknown", Err(reason), 0);
            }
            Err(reason) => return self.report(volume, name, "unknown", Err(reason), 0),
        };
        let what = content.name();
        let mut free = FreeRuns::default();
        let read = match content {
            Content::Table(table) => match self.look_into_table(volume, &table, depth) {
                Ok(()) => return,
                Err(reason) => Err(reason),
            },
            Content::Mirror(area) => {
                self.mirrored = true;
                match Volume::part(volume, area.start, area.size) {
                    Ok(data) => return self.look(&data, name, depth + 1),
                    Err(reason) => Err(reason),
                }
            }
            Content::Physical => {
                self.physical.push((volume.clone(), depth));
                return;
            }
            Content::Encrypted => Err(Whole::new("it is encrypted")),
            Content::Swap(page) => swap::survey(volume, page, &mut free),
            Content::Ext => ext::survey(volume, &mut free),
            Content::Xfs => xfs::survey(volume, &mut free),
            Content::Btrfs => btrfs::survey(volume, &mut free, self.evidence.as_mut()),
            Content::Fat => fat::survey(volume, &mut free),
            Content::Ntfs => ntfs::survey(volume, &mut free),
        };
        let freed = if read.is_ok() {
            self.release(volume, &free)
        } else {
            0
        };
        self.report(volume, name, what, read, freed);
    }

    fn look_into_table(
        &mut self,
        volume: &Arc<Volume<'a>>,
        table: &Table,
        depth: usize,
    ) -> Seen<()> {
        let mut at = 0;
        let mut parts = Vec::new();
        for partition in table.sound(volume)? {
            let part = Volume::part(volume, partition.start, partition.size)?;
            parts.push((at, partition.start, Some(part)));
            at = partition.start + partition.size;
        }
        parts.push((at, volume.size(), None));
        for (from, to, part) in parts {
            if to - from >= GAP {
                let gap = Volume::part(volume, from, to - from)?;
                let reason = Whole::new("it belongs to no partition");
                self.report(&gap, None, "unpartitioned", Err(reason), 0);
            }
            if let Some(part) = part {
                self.look(&part, None, depth + 1);
            }
        }
        Ok(())
    }

    fn look_into_groups(&mut self) {
        let physical = std::mem::take(&mut self.physical);
        let depths: Vec<_> = physical.iter().map(|(_, depth)| *depth).collect();
        let depth = depths.into_iter().max().unwrap_or(0) + 1;
        let volumes: Vec<_> = physical.into_iter().map(|(volume, _)| volume).collect();
        let found = lvm::groups(&volumes);
        for (volume, start, size) in found.free {
            if let Ok(part) = Volume::part(&volume, start, size) {
                let mut free = FreeRuns::default();
                free.push(0, size);
                let freed = self.release(&part, &free);
                self.report(&part, None, "LVM2 free", Ok(Found::default()), freed);
            }
        }
        for (volume, name, reason) in found.whole {
            self.report(&volume, name.as_deref(), "LVM2_member", Err(reason), 0);
        }
        for (name, volume) in found.logical {
            self.look(&volume, Some(&name), depth);
        }
    }

    /// Makes free runs of a volume known to the disks.
    fn release(&mut self, volume: &Volume<'_>, free: &FreeRuns) -> u64 {
        for (start, end) in free.runs() {
            volume.locate(*start, *end, &mut |disk, from, to| {
                if let Some(free) = self.free.get_mut(disk) {
                    free.push(from, to);
                }
            });
        }
        free.bytes()
    }

    fn report(
        &mut self,
        volume: &Volume<'_>,
        name: Option<&str>,
        what: &'static str,
        read: Seen<Found>,
        freed: u64,
    ) {
        let mut place = None;
        volume.locate(0, 1, &mut |disk, from, _| place = Some((disk, from)));
        let (disk, offset) = place.unwrap_or_default();
        let (read_more, read_whole) = match read {
            Ok(found) => (found.read_more, None),
            Err(reason) => (None, Some(reason.to_string())),
        };
        let area = Area {
            disk: self.names.get(disk).copied().unwrap_or_default().into(),
            offset,
            length: volume.size(),
            volume: name.map(String::from),
            what,
            used_bytes: volume.size().saturating_sub(freed),
            read_whole,
            read_more,
        };
        let (disk, length) = (&area.disk, area.length);
        if let Some(reason) = &area.read_whole {
            // What has free space but is read whole costs time that can be saved.
            if matches!(what, "unknown" | "unpartitioned" | "crypto_LUKS") {
                tracing::info!("{disk}: {what}, {length} bytes at {offset}, read whole: {reason}");
            } else {
                tracing::warn!("{disk}: {what}, {length} bytes at {offset}, read whole: {reason}");
            }
        }
        if let Some(reason) = &area.read_more {
            tracing::info!("{disk}: {what} at {offset}: {reason}");
        }
        self.areas.push(area);
    }
}
