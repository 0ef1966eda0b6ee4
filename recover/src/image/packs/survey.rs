//! Finds out what is in packs: where chunks are, which servers and recovery points there are.
//!
//! Entries' headers are walked; bodies of chunks are not read before they are wanted. Where a
//! header is damaged, the rest of its pack is searched as a vault does.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use relevo_vault::pack::{ENTRY_HEADER, EntryHeader, EntryKind, FIRST_ENTRY, MAX_BODY, entry_size};
use relevo_vault::record::{PointRecord, Record, ServerRecord};
use relevo_vault::scan::scan;
use relevo_wire::message::PointEntry;
use relevo_wire::{PointId, ServerId};

use super::files::PackFiles;
use super::places::Places;

/// Most bytes of a pack that are searched behind a damage; vaults write 64 MiB and a little.
const MOST_SEARCHED: u64 = 256 << 20;

/// A recovery point, and where its manifest is.
pub struct FoundPoint {
    /// What a vault would list.
    pub entry: PointEntry,
    /// In which pack of the list.
    pub pack: usize,
    /// Where its entry is.
    pub offset: u64,
}

/// All that packs tell without keys.
#[derive(Default)]
pub struct Survey {
    /// Where chunks are.
    pub places: Places,
    /// Recovery points that were not deleted.
    pub points: HashMap<PointId, FoundPoint>,
    /// Servers' latest enrolments.
    pub servers: HashMap<ServerId, ServerRecord>,
    /// What is not as it was written.
    pub damage: Vec<String>,
    /// Recovery points that were deleted.
    deleted: BTreeSet<PointId>,
    /// Numbers of packs whose live entries are in later ones.
    retired: BTreeSet<u32>,
}

impl Survey {
    /// Looks through all packs.
    pub fn of(files: &PackFiles, include_deleted: bool) -> Self {
        let mut survey = Self::default();
        for pack in 0..files.all().len() {
            survey.walk(files, pack);
        }
        survey.places.sort();
        if !include_deleted {
            let (deleted, retired) = (&survey.deleted, &survey.retired);
            // Of a point that lives there is a copy in a later pack, which was taken instead.
            let is_retired = |pack: usize| retired.contains(&files.all()[pack].header.pack.number);
            survey
                .points
                .retain(|point, found| !deleted.contains(point) && !is_retired(found.pack));
        }
        survey
    }

    fn walk(&mut self, files: &PackFiles, pack: usize) {
        let (salt, length) = (files.all()[pack].header.salt, files.all()[pack].length);
        let mut at = FIRST_ENTRY;
        while at < length {
            let header = files
                .read(pack, at, ENTRY_HEADER.min((length - at) as usize))
                .ok()
                .and_then(|bytes| EntryHeader::decode(&bytes, &salt, at))
                .filter(|header| is_whole(header, length - at));
            let Some(header) = header else {
                self.search(files, pack, at);
                return;
            };
            if header.kind == EntryKind::Chunk as u8 {
                self.places.add(&header.id, pack as u32, at);
            } else if header.kind != EntryKind::Void as u8 {
                let body = files.read(pack, at + ENTRY_HEADER as u64, header.length as usize);
                let record = body
                    .map_err(|e| e.to_string())
                    .and_then(|body| decode(&header, body.into()));
                match record {
                    Ok(Some(record)) => self.take(record, pack, at),
                    Ok(None) => {}
                    Err(reason) => self.note(files, pack, at, &reason),
                }
            }
            at += entry_size(header.length as usize);
        }
    }

    /// Looks for entries behind a damage.
    fn search(&mut self, files: &PackFiles, pack: usize, from: u64) {
        let (salt, length) = (files.all()[pack].header.salt, files.all()[pack].length);
        let size = (length - from).min(MOST_SEARCHED) as usize;
        let mut bytes = vec![0; size];
        for (number, sector) in bytes.chunks_mut(4096).enumerate() {
            let at = from + number as u64 * 4096;
            if files.read_at(pack, at, sector).is_err() {
                sector.fill(0);
            }
        }
        let found = scan(&Bytes::from(bytes), from, &salt);
        for gap in &found.gaps {
            let reason = match gap.offset >= found.end {
                true => "no entry: what an interrupted vault left, or damage",
                false => &gap.reason,
            };
            let reason = format!("{} bytes: {reason}", gap.length);
            self.note(files, pack, gap.offset, &reason);
        }
        for entry in found.entries {
            if let Some(record) = entry.record {
                self.take(record, pack, entry.offset);
            }
        }
        if length - from > MOST_SEARCHED {
            self.note(files, pack, from + MOST_SEARCHED, "not searched further");
        }
    }

    fn take(&mut self, record: Record, pack: usize, offset: u64) {
        match record {
            Record::Chunk(chunk) => {
                self.places.add(chunk.id().as_bytes(), pack as u32, offset);
            }
            Record::Point(record) => self.take_point(&record, pack, offset),
            Record::Server(record) => match self.servers.get(&record.id) {
                Some(known) if known.enrolled > record.enrolled => {}
                _ => drop(self.servers.insert(record.id, record)),
            },
            Record::Deletion(record) => drop(self.deleted.insert(record.point)),
            Record::Retired(record) => drop(self.retired.insert(record.pack)),
            // What governs a vault and its people; nothing of an image.
            Record::Site(_)
            | Record::Hold(_)
            | Record::Lock(_)
            | Record::Clock(_)
            | Record::Person(_)
            | Record::Revocation(_) => {}
        }
    }

    fn take_point(&mut self, record: &PointRecord, pack: usize, offset: u64) {
        let Ok(manifest) = record.manifest.public() else {
            self.damage
                .push("a recovery point of a newer release was passed over: update Relevo".into());
            return;
        };
        let entry = PointEntry {
            committed: record.committed,
            stored: record.stored,
            verified: None,
            manifest,
        };
        let point = entry.manifest.point;
        let found = FoundPoint {
            entry,
            pack,
            offset,
        };
        self.points.insert(point, found);
    }

    fn note(&mut self, files: &PackFiles, pack: usize, at: u64, reason: &str) {
        let path = files.all()[pack].path.display();
        self.damage
            .push(format!("pack {path}, offset {at}: {reason}"));
    }
}

/// Whether the entry fits into what is left of its pack.
fn is_whole(header: &EntryHeader, left: u64) -> bool {
    let sane = header.length as usize <= MAX_BODY || header.kind == EntryKind::Void as u8;
    sane && entry_size(header.length as usize) <= left
}

/// The record in an entry; nothing for kinds that this release does not know.
pub fn decode(header: &EntryHeader, body: Bytes) -> Result<Option<Record>, String> {
    match EntryKind::from_number(header.kind) {
        Some(kind) => Record::decode(kind, &header.id, body).map(Some),
        None => Ok(None),
    }
}
