//! Bytes that change, or cannot be read, though nobody wrote: any of them, or as many as parity
//! heals.

use relevo_vault::pack::{PackHeader, entry_size};
use relevo_vault::parity;
use relevo_vault::record::Record;
use relevo_vault::scan::scan;
use relevo_vault::volume::FileId;

use crate::world::World;

/// Where the entries of a pack begin.
const FIRST_ENTRY: u64 = relevo_vault::pack::FIRST_ENTRY;
/// What a disk fails to read at once.
const SECTOR: u64 = 512;

impl World {
    /// Damages a few bytes of a pack, and notes what stood there.
    pub fn rot(&self) {
        let disk = &self.machine.disk;
        let files = disk.files();
        let before: Vec<Vec<u8>> = files
            .iter()
            .map(|(file, _)| disk.content(*file).unwrap_or_default())
            .collect();
        let lost = self.once_in(3);
        let (file, range) = match lost {
            true => {
                let (file, length) = files[self.roll(files.len() as u64) as usize];
                let from = self.roll(length) / SECTOR * SECTOR;
                let range = from..(from + SECTOR).min(length);
                disk.lose(file, range.clone());
                (file, range)
            }
            false => match disk.flip_bit() {
                Some((file, at)) => (file, at..at + 1),
                None => return,
            },
        };
        let place = files.iter().position(|(id, _)| *id == file);
        if let (Some(place), Some(_)) = (place, file.pack()) {
            self.note_hits(&before[place], range.clone());
        }
        self.promises().harm();
        let what = if lost { "cannot be read" } else { "changed" };
        self.note(format_args!(
            "rot: bytes {range:?} of {:?} {} {what}",
            file.kind, file.number
        ));
    }

    /// Damages as much of one group of packs as its parity is to heal: bytes of so many packs, or
    /// all of them, or a piece of the parity itself. False when there is no group.
    pub fn rot_within_parity(&self) -> bool {
        let disk = &self.machine.disk;
        let Ok(found) = parity::groups(&**disk, self.machine.id(), None) else {
            return false;
        };
        let mut groups = found.usable;
        if groups.is_empty() {
            return false;
        }
        let group = groups.swap_remove(self.roll(groups.len() as u64) as usize);
        let mut files: Vec<FileId> = group.members().map(|(_, pack, _)| pack.into()).collect();
        files.push(group.file());
        for _ in 0..1 + self.roll(group.parity as u64) {
            if files.is_empty() {
                break;
            }
            let file = files.swap_remove(self.roll(files.len() as u64) as usize);
            self.harm_file(file);
        }
        true
    }

    /// Harms one file: of parity a bit or a sector, of a pack whatever there is.
    fn harm_file(&self, file: FileId) {
        let disk = &self.machine.disk;
        let before = disk.content(file).unwrap_or_default();
        let length = before.len() as u64;
        let at = self.roll(length);
        let sector = at / SECTOR * SECTOR..(at / SECTOR * SECTOR + SECTOR).min(length);
        let ways = if file.pack().is_some() { 6 } else { 2 };
        let (range, what) = match self.roll(ways) {
            0 => {
                let flipped = before[at as usize] ^ (1 << self.roll(8));
                disk.overwrite(file, at, &[flipped]);
                (at..at + 1, "changed")
            }
            1 => {
                disk.lose(file, sector.clone());
                (sector, "cannot be read")
            }
            2 => {
                let end = (sector.start + SECTOR * (1 + self.roll(40))).min(length);
                disk.lose(file, sector.start..end);
                (sector.start..end, "cannot be read")
            }
            3 => {
                let end = (at + 1 + self.roll(30_000)).min(length);
                disk.overwrite(file, at, &vec![0; (end - at) as usize]);
                (at..end, "are zeros")
            }
            4 => {
                disk.cut_short(file, at);
                (at..length, "are cut off")
            }
            _ => {
                disk.vanish(file);
                (0..length, "are gone with the file")
            }
        };
        if file.pack().is_some() {
            self.note_hits(&before, range.clone());
        }
        self.promises().harm();
        self.note(format_args!(
            "rot: bytes {range:?} of {:?} {} {what}",
            file.kind, file.number
        ));
    }

    /// Which entries of a pack these bytes touch.
    fn note_hits(&self, bytes: &[u8], range: std::ops::Range<u64>) {
        let mut promises = self.promises();
        if range.start < FIRST_ENTRY || bytes.len() as u64 <= FIRST_ENTRY {
            // Its header stands there twice; a second hit may cost the pack.
            promises.hit_more |= promises.damaged;
        }
        // A whole pack goes with its header.
        promises.hit_more |= range.start < FIRST_ENTRY && range.end - range.start > SECTOR;
        let Some((header, _)) = PackHeader::decode(bytes) else {
            promises.hit_more = true;
            return;
        };
        let body = bytes::Bytes::copy_from_slice(&bytes[(FIRST_ENTRY as usize).min(bytes.len())..]);
        for entry in scan(&body, FIRST_ENTRY, &header.salt).entries {
            let end = entry_size(entry.length as usize) + entry.offset;
            if entry.offset >= range.end || range.start >= end {
                continue;
            }
            match entry.record {
                Some(Record::Chunk(chunk)) => drop(promises.hit_chunks.insert(chunk.id())),
                Some(Record::Point(point)) => {
                    let id = point.manifest.public().unwrap().point;
                    promises.hit_points.insert(id);
                }
                _ => promises.hit_more = true,
            }
        }
    }
}
