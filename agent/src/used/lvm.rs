//! LVM2: physical volumes, and the logical volumes on them (`lib/format_text/layout.h` of LVM2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::checksum::crc32;
use super::lvm_text::{Section, Value, parse};
use super::volume::{Segment, Volume, disjoint};
use super::whole::{Seen, Whole, demand, le32, le64};

const SECTOR: u64 = 512;
/// Where every checksum of LVM2 begins.
const SEED: u32 = 0xf597_a6cf;
/// Longest description that is read; a group of a thousand volumes takes half of it.
const LONGEST: u64 = 4 << 20;
/// Most segments of a group that are put together.
const MOST: usize = 65_536;

/// Whether a volume that begins with `head` is a physical volume: the label is in one of the
/// first four sectors.
pub fn is_physical(head: &[u8]) -> bool {
    label(head).is_some()
}

fn label(head: &[u8]) -> Option<usize> {
    (0..4).map(|sector| sector * 512).find(|at| {
        let label = head.get(*at..at + 512);
        label.is_some_and(|l| l.starts_with(b"LABELONE") && l[24..32] == *b"LVM2 001")
    })
}

/// What physical volumes hold.
#[derive(Default)]
pub struct Groups<'a> {
    /// Logical volumes that can be looked into, and their names.
    pub logical: Vec<(String, Arc<Volume<'a>>)>,
    /// Parts of physical volumes that belong to no logical volume: first byte and length.
    pub free: Vec<(Arc<Volume<'a>>, u64, u64)>,
    /// Volumes that are read whole, the logical volume's name, and why.
    pub whole: Vec<(Arc<Volume<'a>>, Option<String>, Whole)>,
}

/// Puts volume groups together from all physical volumes at hand.
pub fn groups<'a>(physical: &[Arc<Volume<'a>>]) -> Groups<'a> {
    let mut found = Groups::default();
    let mut members = BTreeMap::new();
    let mut descriptions: BTreeMap<String, (u64, String, Section)> = BTreeMap::new();
    for volume in physical {
        let header = match Header::read(volume) {
            Ok(header) => header,
            Err(reason) => {
                found.whole.push((volume.clone(), None, reason));
                continue;
            }
        };
        // Two copies of one volume: which of them is the group's?
        if let Some((other, known)) = members.insert(header.id.clone(), (volume.clone(), true)) {
            let reason = Whole::new("two physical volumes have the same identity");
            if known {
                found.whole.push((other, None, reason.clone()));
            }
            found.whole.push((volume.clone(), None, reason));
            members.insert(header.id, (volume.clone(), false));
            continue;
        }
        match header.description(volume) {
            Ok(Some((name, group))) => {
                let identity = group.text("id").map(String::from);
                let newest = identity.and_then(|id| Ok((id, group.number("seqno")?)));
                let Ok((identity, number)) = newest else {
                    continue;
                };
                let kept = descriptions.get(&identity).map(|(number, ..)| *number);
                if kept.is_none_or(|kept| kept < number) {
                    descriptions.insert(identity, (number, name, group));
                }
            }
            Ok(None) => {}
            Err(reason) => {
                members.insert(header.id, (volume.clone(), false));
                found.whole.push((volume.clone(), None, reason));
            }
        }
    }
    members.retain(|_, (_, sound)| *sound);
    let mut members: BTreeMap<_, _> = members.into_iter().map(|(id, (v, _))| (id, v)).collect();
    for (_, name, group) in descriptions.into_values() {
        let mut own = BTreeMap::new();
        for (label, section) in group.sections("physical_volumes") {
            let id = section.text("id").unwrap_or_default().replace('-', "");
            if let Some(volume) = members.remove(&id) {
                own.insert(label, volume);
            }
        }
        if let Err(reason) = put_together(&name, &group, &own, &mut found) {
            for volume in own.into_values() {
                found.whole.push((volume, None, reason.clone()));
            }
        }
    }
    for volume in members.into_values() {
        let reason = Whole::new("no description of its volume group was found");
        found.whole.push((volume, None, reason));
    }
    found
}

/// What a physical volume says of itself.
struct Header {
    id: String,
    /// First bytes and lengths of areas with descriptions.
    metadata: Vec<(u64, u64)>,
}

impl Header {
    fn read(volume: &Volume<'_>) -> Seen<Self> {
        let head = volume.bytes(0, 2048)?;
        let damaged = || Whole::new("the label of the physical volume is damaged");
        let at = label(&head).ok_or_else(damaged)?;
        let label = &head[at..at + 512];
        let sound = le64(label, 8) == at as u64 / SECTOR
            && crc32(SEED, &label[20..]) == le32(label, 16)
            && (32..=400).contains(&le32(label, 20));
        demand(sound, "the label of the physical volume is damaged")?;
        let header = &label[le32(label, 20) as usize..];
        let id = header.get(..32).and_then(|id| std::str::from_utf8(id).ok());
        // Two lists of offset and length, each ended by zeros: data, then descriptions.
        let mut pairs = header[32 + 8..]
            .chunks_exact(16)
            .map(|pair| (le64(pair, 0), le64(pair, 8)));
        let data = pairs
            .by_ref()
            .take_while(|(offset, _)| *offset != 0)
            .count();
        demand(data == 1, "the physical volume has not one area of data")?;
        let metadata = pairs.take_while(|(offset, _)| *offset != 0);
        Ok(Self {
            id: id.ok_or_else(damaged)?.into(),
            metadata: metadata.collect(),
        })
    }

    /// The group's name and its description, from the newest copy here. An error when there are
    /// copies and none can be read.
    fn description(&self, volume: &Volume<'_>) -> Seen<Option<(String, Section)>> {
        let (mut newest, mut reason) = (None, None);
        for (offset, size) in &self.metadata {
            match description(volume, *offset, *size) {
                Ok(Some((name, group))) => {
                    let number = group.number("seqno")?;
                    if newest.as_ref().is_none_or(|(kept, _)| *kept < number) {
                        newest = Some((number, (name, group)));
                    }
                }
                Ok(None) => {}
                Err(damage) => reason = Some(damage),
            }
        }
        // A damaged copy may have been the newest.
        match reason {
            Some(reason) => Err(reason),
            None => Ok(newest.map(|(_, found)| found)),
        }
    }
}

fn description(volume: &Volume<'_>, offset: u64, size: u64) -> Seen<Option<(String, Section)>> {
    let header = volume.bytes(offset, 512)?;
    let sound = crc32(SEED, &header[4..]) == le32(&header, 0)
        && header[4..20] == *b" LVM2 x[5A%r0N*>"
        && le32(&header, 20) == 1
        && le64(&header, 24) == offset
        && le64(&header, 32) == size
        && size > 512;
    demand(
        sound,
        "the header of the volume group's description is damaged",
    )?;
    let (start, length) = (le64(&header, 40), le64(&header, 48));
    let (sum, ignored) = (le32(&header, 56), le32(&header, 60) & 1 != 0);
    if start == 0 || length == 0 || ignored {
        return Ok(None);
    }
    demand(
        (512..size).contains(&start) && length <= LONGEST && length <= size - 512,
        "the volume group's description is not where it can be",
    )?;
    // It goes on behind the header when it reaches the end.
    let first = length.min(size - start);
    let at = offset.checked_add(start);
    let at = at.ok_or(Whole::new("the volume group's description lies nowhere"))?;
    let mut text = volume.bytes(at, first as usize)?;
    text.extend(volume.bytes(offset + 512, (length - first) as usize)?);
    demand(
        crc32(SEED, &text) == sum,
        "the volume group's description has a wrong checksum",
    )?;
    let text = std::str::from_utf8(&text);
    let text = text.map_err(|_| Whole::new("the volume group's description is no text"))?;
    let section = parse(text)?;
    let group = section.all_sections().next();
    Ok(group.map(|(name, group)| (name.to_string(), group.clone())))
}

/// Extents of one physical volume.
struct Extents<'a> {
    volume: Arc<Volume<'a>>,
    /// Where the first one begins, in bytes.
    start: u64,
    count: u64,
    /// First and end of those that logical volumes have.
    taken: Vec<(u64, u64)>,
}

fn put_together<'a>(
    name: &str,
    group: &Section,
    own: &BTreeMap<&str, Arc<Volume<'a>>>,
    found: &mut Groups<'a>,
) -> Seen<()> {
    let sectors = group.number("extent_size")?;
    let extent = sectors.checked_mul(SECTOR);
    let extent = extent.filter(|extent| *extent > 0 && *extent <= 1 << 40);
    let extent = extent.ok_or(Whole::new("the volume group's extents make no sense"))?;
    let mut members = BTreeMap::new();
    for (label, section) in group.sections("physical_volumes") {
        let Some(volume) = own.get(label) else {
            continue;
        };
        let (start, count) = (section.number("pe_start")?, section.number("pe_count")?);
        let start = start.checked_mul(SECTOR);
        let end = start.zip(count.checked_mul(extent));
        let end = end.and_then(|(start, length)| start.checked_add(length));
        let (Some(start), Some(_)) = (start, end.filter(|end| *end <= volume.size())) else {
            return Err(Whole::new(
                "the extents of a physical volume lie beyond its end",
            ));
        };
        let (volume, taken) = (volume.clone(), Vec::new());
        let extents = Extents {
            volume,
            start,
            count,
            taken,
        };
        members.insert(label, extents);
    }
    let named = parts_of_others(group);
    let (mut logical, mut whole) = (Vec::new(), Vec::new());
    let mut left = MOST;
    for (label, section) in group.sections("logical_volumes") {
        let full = format!("{name}/{label}");
        let made = segments(group, section, extent, &mut members, &mut left)?;
        let Some(made) = made else { continue };
        let volume = Arc::new(Volume::Joined(made.segments));
        if made.missing {
            let reason = "a part of it is on a disk that is not imaged in this run";
            whole.push((volume, Some(full), Whole::new(reason)));
        } else if named.contains(label) {
            whole.push((
                volume,
                Some(full),
                Whole::new("another volume is made of it"),
            ));
        } else if !section.flagged("status", "VISIBLE") {
            whole.push((
                volume,
                Some(full),
                Whole::new("it is a part of another volume"),
            ));
        } else {
            logical.push((full, volume));
        }
    }
    for extents in members.values_mut() {
        demand(
            disjoint(&mut extents.taken),
            "two logical volumes have the same extents",
        )?;
    }
    for extents in members.values() {
        let mut at = 0;
        for (first, end) in extents.taken.iter().copied().chain([(extents.count, 0)]) {
            if first > at {
                let start = extents.start + at * extent;
                let free = (extents.volume.clone(), start, (first - at) * extent);
                found.free.push(free);
            }
            at = end;
        }
    }
    found.logical.extend(logical);
    found.whole.extend(whole);
    Ok(())
}

/// Every string in the segments of logical volumes: names of those that others are made of are
/// among them.
fn parts_of_others(group: &Section) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for (_, volume) in group.sections("logical_volumes") {
        for (_, segment) in volume.all_sections() {
            texts(segment, &mut found);
        }
    }
    found
}

fn texts<'s>(section: &'s Section, found: &mut BTreeSet<&'s str>) {
    // The name of a layout is not that of a volume.
    let named = section.0.iter().filter(|(name, _)| *name != "type");
    let mut values: Vec<_> = named.map(|(_, value)| value).collect();
    while let Some(value) = values.pop() {
        match value {
            Value::Text(text) => drop(found.insert(text)),
            Value::List(list) => values.extend(list),
            Value::Section(section) => values.extend(section.0.values()),
            Value::Number(_) => {}
        }
    }
}

/// What of a logical volume is on physical volumes.
struct Made<'a> {
    segments: Vec<Segment<'a>>,
    /// Whether other parts are on physical volumes that are not at hand.
    missing: bool,
}

/// The segments of a logical volume; none when no extents of physical volumes are its own, since
/// it is made of other logical volumes.
fn segments<'a>(
    group: &Section,
    volume: &Section,
    extent: u64,
    members: &mut BTreeMap<&str, Extents<'a>>,
    left: &mut usize,
) -> Seen<Option<Made<'a>>> {
    let senseless = || Whole::new("the description of the volume group makes no sense");
    let mut ordered = Vec::new();
    for (_, segment) in volume.all_sections() {
        ordered.push((segment.number("start_extent")?, segment));
    }
    ordered.sort_by_key(|(start, _)| *start);
    *left = left.saturating_sub(ordered.len());
    if *left == 0 || volume.number("segment_count")? != ordered.len() as u64 {
        return Err(senseless());
    }
    let (mut segments, mut missing, mut made_of_others) = (Vec::new(), false, false);
    let mut at = 0u64;
    for (start, segment) in ordered {
        let count = segment.number("extent_count")?;
        if start != at || count == 0 {
            return Err(senseless());
        }
        at = at.checked_add(count).ok_or_else(senseless)?;
        if segment.text("type")? != "striped" {
            // Whatever its extents mean, nobody else knows that they are taken.
            let mut named = BTreeSet::new();
            texts(segment, &mut named);
            let mut labels = group.sections("physical_volumes");
            demand(
                !labels.any(|(label, _)| named.contains(label)),
                "a volume of the group is being moved or has a layout that is not read",
            )?;
            made_of_others = true;
            continue;
        }
        missing |= !striped(group, segment, extent, count, members, &mut segments)?;
    }
    if made_of_others || segments.is_empty() {
        return Ok(None);
    }
    Ok(Some(Made { segments, missing }))
}

/// Adds a striped or linear segment of `count` extents; of one with legs that are not at hand,
/// those that are, each by itself. Tells whether all are.
fn striped<'a>(
    group: &Section,
    segment: &Section,
    extent: u64,
    count: u64,
    members: &mut BTreeMap<&str, Extents<'a>>,
    segments: &mut Vec<Segment<'a>>,
) -> Seen<bool> {
    let senseless = || Whole::new("the description of a logical volume makes no sense");
    let stripes = segment.list("stripes");
    let width = stripes.len() as u64 / 2;
    if width == 0 || width != segment.number("stripe_count")? || !count.is_multiple_of(width) {
        return Err(senseless());
    }
    let mut legs = Vec::new();
    for pair in stripes.chunks(2) {
        let [Value::Text(label), Value::Number(first)] = pair else {
            return Err(senseless());
        };
        let Some(extents) = members.get_mut(label.as_str()) else {
            let known = group.sections("physical_volumes").any(|(l, _)| l == label);
            demand(known, "a logical volume lies on nothing that the group has")?;
            continue;
        };
        let end = first.checked_add(count / width);
        let end = end
            .filter(|end| *end <= extents.count)
            .ok_or_else(senseless)?;
        extents.taken.push((*first, end));
        legs.push((extents.volume.clone(), extents.start + first * extent));
    }
    let length = (count / width).checked_mul(extent).ok_or_else(senseless)?;
    if (legs.len() as u64) < width {
        segments.extend(legs.into_iter().map(|leg| Segment {
            length,
            stripe: length,
            legs: vec![leg],
        }));
        return Ok(false);
    }
    let stripe = match width {
        1 => length,
        _ => segment.number("stripe_size")?.saturating_mul(SECTOR),
    };
    if stripe == 0 || !length.is_multiple_of(stripe) {
        return Err(senseless());
    }
    let length = length.checked_mul(width).ok_or_else(senseless)?;
    segments.push(Segment {
        length,
        stripe,
        legs,
    });
    Ok(true)
}
