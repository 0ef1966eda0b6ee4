//! Reads packs, hashes every body, and compares with the catalogue.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use relevo_wire::{ChunkId, VaultId};

use super::{Damage, Lost, Report, bar};
use crate::catalogue::{Catalogue, Entry, EntryContent};
use crate::directory::Directory;
use crate::error::{StoreError, VaultError};
use crate::ledger::open_pack_header;
use crate::pack::FIRST_ENTRY;
use crate::record::Record;
use crate::scan::{Found, Gap, scan};
use crate::volume::{PackId, Volume, read_salvaging};

/// Remedy of damage within a pack.
const BACK_UP_AGAIN: &str =
    "back up the servers again: what they still have is sent again and heals older points too";
const BRING_BACK: &str = "bring the pack back from a copy, or run 'relevo-vault heal --give-up' to go on without it and back up again";
const REBUILD: &str = "run 'relevo-vault rebuild'";

/// What reading one pack gave.
#[derive(Debug, Default)]
pub struct PackCheck {
    /// Bytes of it that are known.
    pub bytes: u64,
    /// Chunks found intact that have their place in it.
    pub chunks: u64,
    /// Damage.
    pub damage: Vec<Damage>,
    /// What costs nothing.
    pub notices: Vec<String>,
}

/// Something that was in a damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostEntry {
    /// Where it begins; 0 for a whole pack.
    pub offset: u64,
    /// Its bytes; 0 for a whole pack.
    pub length: u64,
    /// The chunk; nothing for what is none, or is unknown.
    pub id: Option<ChunkId>,
}

/// Checks all packs; the chunks that are lost.
pub(super) fn check(
    directory: &Directory,
    catalogue: &Catalogue,
    report: &mut Report,
    progress: bool,
) -> Result<Lost, VaultError> {
    let known = catalogue.packs()?;
    let total = known.iter().map(|(_, scanned)| scanned).sum();
    let bar = bar(
        progress,
        total,
        "packs",
        "{bytes}/{total_bytes} {bytes_per_sec}",
    );
    let vault = directory.file().vault;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let mut counted = vec![None; known.len()];
    std::thread::scope(|scope| -> Result<(), VaultError> {
        let (done, results) = mpsc::channel();
        for _ in 0..threads.min(known.len()) {
            let (done, next, known) = (done.clone(), &next, &known);
            let segments = catalogue.segments();
            scope.spawn(move || {
                let opened = Catalogue::open_sharing(&directory.catalogue(), segments);
                let volume = directory.volume();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(pack, scanned)) = known.get(at) else {
                        break;
                    };
                    let checked = match &opened {
                        Ok((catalogue, _)) => check_pack(&volume, vault, catalogue, pack, scanned),
                        Err(error) => Err(error.clone()),
                    };
                    if done.send((at, checked)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(done);
        for (at, checked) in results {
            let checked = checked?;
            bar.inc(known[at].1);
            report.packs += 1;
            report.bytes += checked.bytes;
            report.chunks += checked.chunks;
            if checked.damage.is_empty() {
                counted[at] = Some(checked.chunks);
            }
            report.damage.extend(checked.damage);
            report.notices.extend(checked.notices);
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    unknown_packs(directory, catalogue, &known, report)?;
    compare_counts(directory, catalogue, &known, &counted, report)?;
    report
        .damage
        .sort_by(|a, b| (&a.pack, a.offset).cmp(&(&b.pack, b.offset)));
    let mut lost = Lost::new();
    for damage in &report.damage {
        let tenant = damage.place.tenant;
        lost.entry(tenant).or_default().extend(&damage.chunks);
    }
    Ok(lost)
}

/// Reads one pack up to what the catalogue knows of it. Memory: the pack.
pub fn check_pack<V: Volume>(
    volume: &V,
    vault: VaultId,
    catalogue: &Catalogue,
    pack: PackId,
    scanned: u64,
) -> Result<PackCheck, StoreError> {
    let whole = |reason: String| -> Result<PackCheck, StoreError> {
        let mut check = PackCheck::default();
        // The collector may have taken it away since it was listed.
        if catalogue.pack_scanned(pack)?.is_none() {
            return Ok(check);
        }
        check.damage.push(Damage {
            place: pack,
            pack: pack.to_string(),
            offset: 0,
            length: scanned,
            chunks: catalogue.chunks_within(pack, 0..u64::MAX)?,
            entries: vec![LostEntry {
                offset: 0,
                length: 0,
                id: None,
            }],
            reason,
            remedy: BRING_BACK,
        });
        Ok(check)
    };
    let header = match open_pack_header(volume, vault, pack)? {
        Ok(header) => header,
        Err(reason) => return whole(reason),
    };
    let there = volume.length(pack).unwrap_or(0).min(scanned);
    let length = there.saturating_sub(FIRST_ENTRY) as usize;
    let (bytes, lost) = match read_salvaging(volume, pack, FIRST_ENTRY, length) {
        Ok(read) => read,
        Err(error) => return whole(format!("it cannot be read whole: {error}")),
    };
    let mut scan = scan(&bytes, FIRST_ENTRY, &header.salt);
    let mut check = PackCheck {
        bytes: scanned,
        ..PackCheck::default()
    };
    if lost > 0 {
        let notice = format!("pack {pack}: the disk cannot read {lost} bytes: replace it");
        check.notices.push(notice);
    }
    if there < scanned {
        scan.gaps.retain(|gap| gap.offset < scan.end);
        scan.gaps.push(Gap {
            offset: scan.end,
            length: scanned - scan.end,
            id: None,
            reason: "the pack is cut short".into(),
        });
    }
    if !scan.gaps.is_empty() {
        let known = catalogue.entries_within(pack, 0..scanned)?;
        for gap in &scan.gaps {
            check_gap(catalogue, pack, gap, &known, &mut check)?;
        }
    }
    compare(catalogue, pack, &scan.entries, &mut check)?;
    // The collector may have taken it away while it was read.
    if !check.damage.is_empty() && catalogue.pack_scanned(pack)?.is_none() {
        return Ok(PackCheck::default());
    }
    Ok(check)
}

/// A gap is damage, unless the chunk that it was is stored elsewhere by now.
fn check_gap(
    catalogue: &Catalogue,
    pack: PackId,
    gap: &Gap,
    known: &[Entry],
    check: &mut PackCheck,
) -> Result<(), StoreError> {
    let entries = lost_entries(gap, known);
    let chunks: Vec<ChunkId> = entries.iter().filter_map(|entry| entry.id).collect();
    if let (Some(id), [_]) = (gap.id, &entries[..]) {
        let elsewhere = catalogue.locate(pack.tenant, &[id])?.into_iter().flatten();
        let healed = elsewhere
            .filter(|at| (at.pack, at.offset) != (pack.number, gap.offset))
            .count();
        if healed > 0 {
            check.notices.push(format!(
                "pack {pack}: {} damaged bytes at {} are of chunk {id}, which was stored again since",
                gap.length, gap.offset
            ));
            return Ok(());
        }
    }
    check.damage.push(Damage {
        place: pack,
        pack: pack.to_string(),
        offset: gap.offset,
        length: gap.length,
        chunks,
        entries,
        reason: gap.reason.clone(),
        remedy: BACK_UP_AGAIN,
    });
    Ok(())
}

/// What stood in a gap: entries that the catalogue knows, and the bytes between them.
fn lost_entries(gap: &Gap, known: &[Entry]) -> Vec<LostEntry> {
    if gap.id.is_some() {
        return vec![LostEntry {
            offset: gap.offset,
            length: gap.length,
            id: gap.id,
        }];
    }
    let end = gap.offset + gap.length;
    let mut entries = Vec::new();
    let mut at = gap.offset;
    let unknown = |from: u64, to: u64| LostEntry {
        offset: from,
        length: to - from,
        id: None,
    };
    let inside = |entry: &&Entry| entry.offset >= gap.offset && entry.offset < end;
    for entry in known.iter().filter(inside) {
        if entry.offset > at {
            entries.push(unknown(at, entry.offset));
        }
        let length = entry.size.min(end - entry.offset);
        entries.push(LostEntry {
            offset: entry.offset,
            length,
            id: match &entry.what {
                EntryContent::Chunk(id) => Some(*id),
                EntryContent::Point(_) => None,
            },
        });
        at = entry.offset + length;
    }
    if at < end {
        entries.push(unknown(at, end));
    }
    entries
}

/// Counts the chunks that have their place here. Each intact recovery point must be in the
/// catalogue, unless it was deleted; a chunk that is not was collected.
fn compare(
    catalogue: &Catalogue,
    pack: PackId,
    entries: &[Found],
    check: &mut PackCheck,
) -> Result<(), StoreError> {
    let mut unlisted = 0u64;
    let mut chunks: Vec<(u64, ChunkId)> = Vec::new();
    for found in entries {
        match &found.record {
            Some(Record::Chunk(chunk)) => chunks.push((found.offset, chunk.id())),
            Some(Record::Point(point)) => {
                if let Ok(public) = point.manifest.public()
                    && catalogue.point(pack.tenant, public.point)?.is_none()
                    && !catalogue.was_deleted(pack.tenant, public.point)?
                {
                    unlisted += 1;
                }
            }
            _ => {}
        }
    }
    for part in chunks.chunks(1024) {
        let ids: Vec<_> = part.iter().map(|(_, id)| *id).collect();
        for (&(offset, _), located) in part.iter().zip(catalogue.locate(pack.tenant, &ids)?) {
            if located.is_some_and(|at| (at.pack, at.offset) == (pack.number, offset)) {
                check.chunks += 1;
            }
        }
    }
    if unlisted > 0 {
        let reason = format!("{unlisted} intact recovery points are not in the catalogue");
        check
            .damage
            .push(Damage::of_catalogue(pack, reason, REBUILD));
    }
    Ok(())
}

/// Packs that the catalogue never took in since their headers are lost.
fn unknown_packs(
    directory: &Directory,
    catalogue: &Catalogue,
    known: &[(PackId, u64)],
    report: &mut Report,
) -> Result<(), VaultError> {
    let volume = directory.volume();
    let mut known: HashSet<PackId> = known.iter().map(|(pack, _)| *pack).collect();
    known.extend(catalogue.retired()?);
    let packs = volume
        .list()
        .map_err(|e| VaultError::io(directory.path().join("packs"), e))?;
    for pack in packs.into_iter().filter(|pack| !known.contains(pack)) {
        let length = volume.length(pack).unwrap_or(0);
        if let Err(reason) = open_pack_header(&volume, directory.file().vault, pack)?
            && length > FIRST_ENTRY
        {
            report.damage.push(Damage {
                length,
                ..Damage::of_catalogue(pack, reason, BRING_BACK)
            });
        }
    }
    Ok(())
}

/// What the catalogue names must be what was found: no row may point at anything else. A pack
/// where that is not so is looked at again: sessions and the collector go on meanwhile.
fn compare_counts(
    directory: &Directory,
    catalogue: &Catalogue,
    known: &[(PackId, u64)],
    counted: &[Option<u64>],
    report: &mut Report,
) -> Result<(), VaultError> {
    let vault = directory.file().vault;
    let rows = catalogue.chunk_counts(known)?;
    for ((&(pack, scanned), found), rows) in known.iter().zip(counted).zip(rows) {
        if found.is_none_or(|found| found == rows) {
            continue;
        }
        let again = check_pack(&directory.volume(), vault, catalogue, pack, scanned)?;
        let rows = catalogue.chunk_counts(&[(pack, scanned)])?;
        if rows != [again.chunks] && catalogue.pack_scanned(pack)?.is_some() {
            let reason = format!(
                "the catalogue names {} chunks in it, {} are there",
                rows.iter().sum::<u64>(),
                again.chunks
            );
            report
                .damage
                .push(Damage::of_catalogue(pack, reason, REBUILD));
        }
    }
    Ok(())
}
