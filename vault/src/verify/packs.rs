//! Reads every pack, hashes every body, and compares with the catalogue.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use relevo_wire::ChunkId;

use super::{Damage, Lost, Report, bar};
use crate::catalogue::Catalogue;
use crate::directory::Directory;
use crate::error::{StoreError, VaultError};
use crate::ledger::open_pack_header;
use crate::pack::FIRST_ENTRY;
use crate::record::Record;
use crate::scan::{Found, Gap, scan};
use crate::volume::{PackId, Volume, read_salvaging};

/// Remedy of damage within a pack.
pub(super) const BACK_UP_AGAIN: &str =
    "back up the servers again: what they still have is sent again and heals older points too";
const BRING_BACK: &str = "bring the pack back from a copy, or run 'relevo-vault rebuild' to go on without it and back up again";
const REBUILD: &str = "run 'relevo-vault rebuild'";

/// What reading one pack gave.
#[derive(Default)]
struct PackCheck {
    bytes: u64,
    chunks: u64,
    damage: Vec<Damage>,
    notices: Vec<String>,
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
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(pack, scanned)) = known.get(at) else {
                        break;
                    };
                    let checked = match &opened {
                        Ok((catalogue, _)) => check_pack(directory, catalogue, pack, scanned),
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
    unknown_packs(directory, &known, report)?;
    compare_counts(catalogue, &known, &counted, report)?;
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

fn check_pack(
    directory: &Directory,
    catalogue: &Catalogue,
    pack: PackId,
    scanned: u64,
) -> Result<PackCheck, StoreError> {
    let volume = directory.volume();
    let whole = |reason: String| -> Result<PackCheck, StoreError> {
        let mut check = PackCheck::default();
        check.damage.push(Damage {
            place: pack,
            pack: pack.to_string(),
            offset: 0,
            length: scanned,
            chunks: catalogue.chunks_within(pack, 0..u64::MAX)?,
            reason,
            remedy: BRING_BACK,
        });
        Ok(check)
    };
    let header = match open_pack_header(&volume, directory.file().vault, pack)? {
        Ok(header) => header,
        Err(reason) => return whole(reason),
    };
    let length = scanned.saturating_sub(FIRST_ENTRY) as usize;
    let (bytes, lost) = match read_salvaging(&volume, pack, FIRST_ENTRY, length) {
        Ok(read) => read,
        Err(error) => return whole(format!("it cannot be read whole: {error}")),
    };
    let scan = scan(&bytes, FIRST_ENTRY, &header.salt);
    let mut check = PackCheck {
        bytes: scanned,
        ..PackCheck::default()
    };
    if lost > 0 {
        let notice = format!("pack {pack}: the disk cannot read {lost} bytes: replace it");
        check.notices.push(notice);
    }
    for gap in &scan.gaps {
        check_gap(catalogue, pack, gap, &mut check)?;
    }
    compare(catalogue, pack, &scan.entries, &mut check)?;
    Ok(check)
}

/// A gap is damage, unless the chunk that it was is stored elsewhere by now.
fn check_gap(
    catalogue: &Catalogue,
    pack: PackId,
    gap: &Gap,
    check: &mut PackCheck,
) -> Result<(), StoreError> {
    let end = gap.offset + gap.length;
    let mut chunks = catalogue.chunks_within(pack, gap.offset..end)?;
    if let Some(id) = gap.id {
        let elsewhere = catalogue.locate(pack.tenant, &[id])?.into_iter().flatten();
        let healed = elsewhere
            .filter(|at| (at.pack, at.offset) != (pack.number, gap.offset))
            .count();
        if healed > 0 && chunks.is_empty() {
            check.notices.push(format!(
                "pack {pack}: {} damaged bytes at {} are of chunk {id}, which was stored again since",
                gap.length, gap.offset
            ));
            return Ok(());
        }
        if !chunks.contains(&id) {
            chunks.push(id);
        }
    }
    check.damage.push(Damage {
        place: pack,
        pack: pack.to_string(),
        offset: gap.offset,
        length: gap.length,
        chunks,
        reason: gap.reason.clone(),
        remedy: BACK_UP_AGAIN,
    });
    Ok(())
}

/// Each intact entry must be in the catalogue, but for points that were deleted.
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
            match located {
                Some(at) if (at.pack, at.offset) == (pack.number, offset) => check.chunks += 1,
                Some(_) => {}
                None => unlisted += 1,
            }
        }
    }
    if unlisted > 0 {
        check.damage.push(Damage {
            place: pack,
            pack: pack.to_string(),
            offset: 0,
            length: 0,
            chunks: Vec::new(),
            reason: format!("{unlisted} intact entries are not in the catalogue"),
            remedy: REBUILD,
        });
    }
    Ok(())
}

/// Packs that the catalogue never took in since their headers are lost.
fn unknown_packs(
    directory: &Directory,
    known: &[(PackId, u64)],
    report: &mut Report,
) -> Result<(), VaultError> {
    let volume = directory.volume();
    let known: HashSet<PackId> = known.iter().map(|(pack, _)| *pack).collect();
    let packs = volume
        .list()
        .map_err(|e| VaultError::io(directory.path().join("packs"), e))?;
    for pack in packs.into_iter().filter(|pack| !known.contains(pack)) {
        let length = volume.length(pack).unwrap_or(0);
        if let Err(reason) = open_pack_header(&volume, directory.file().vault, pack)?
            && length > FIRST_ENTRY
        {
            report.damage.push(Damage {
                place: pack,
                pack: pack.to_string(),
                offset: 0,
                length,
                chunks: Vec::new(),
                reason,
                remedy: BRING_BACK,
            });
        }
    }
    Ok(())
}

/// What the catalogue names must be what was found: no row may point at anything else.
fn compare_counts(
    catalogue: &Catalogue,
    known: &[(PackId, u64)],
    counted: &[Option<u64>],
    report: &mut Report,
) -> Result<(), VaultError> {
    let rows = catalogue.chunk_counts(known)?;
    for (((pack, _), found), rows) in known.iter().zip(counted).zip(rows) {
        if found.is_some_and(|found| found != rows) {
            report.damage.push(Damage {
                place: *pack,
                pack: pack.to_string(),
                offset: 0,
                length: 0,
                chunks: Vec::new(),
                reason: format!(
                    "the catalogue names {rows} chunks in it, {} are there",
                    found.unwrap_or(0)
                ),
                remedy: REBUILD,
            });
        }
    }
    Ok(())
}
