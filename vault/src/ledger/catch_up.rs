//! Brings the catalogue up to the packs: after a crash a tail, after its loss everything.

use std::collections::HashSet;

use super::Ledger;
use super::doubt::JustRead;
use super::finding::Finding;
use super::looking::{Known, Unread, doubt_newest};
use super::reading::in_order;
use super::rewrite::take_away;
use crate::catalogue::{End, Placed};
use crate::error::StoreError;
use crate::pack::{ENTRY_HEADER, EntryHeader, EntryKind, FIRST_ENTRY};
use crate::record::Record;
use crate::scan::{Gap, Scan};
use crate::volume::{PackId, Volume, read_exact};

/// Missing packs of one tenant that are named after all packs were read.
const MISSING_NAMED: usize = 1000;

/// Bytes that are written again at once.
const AGAIN_PIECE: u64 = 4 * 1024 * 1024;

impl<V: Volume> Ledger<V> {
    /// Reads what the catalogue does not know yet. `fresh`: it never knew all packs.
    ///
    /// Entries taken in are written once more and synced first, since the catalogue never names
    /// what is not durable.
    /// A tenant's packs are taken in from the newest to the oldest: that a pack was retired
    /// stands in a later one, and then nothing of it is taken in.
    pub(super) fn catch_up(&mut self, fresh: bool) -> Result<Vec<Finding>, StoreError> {
        self.read_all |= fresh;
        let known = self.known(fresh)?;
        if !fresh {
            let rewritten = self.rewritten(&known)?;
            if !rewritten.is_empty() {
                return self.read_anew(&rewritten);
            }
        }
        let mut findings = Vec::new();
        let mut packs = self
            .volume
            .list()
            .map_err(|e| StoreError::io("list the packs", &e))?;
        packs.sort_unstable();
        let mut unread = self.look_at_all(&packs, &known, &mut findings)?;
        unread.reverse();
        if fresh {
            doubt_newest(&mut unread);
        }
        let volume = self.volume.clone();
        let (mut points, mut rewritten) = (Vec::new(), Vec::new());
        in_order(&volume, &unread, |at, scanned| {
            let (unread, scanned) = (&unread[at], scanned?);
            if !fresh {
                points.extend(points_of(unread, &scanned));
                if unread.was_rewritten(&scanned) {
                    rewritten.push(unread.pack);
                }
            }
            self.take_in(unread, scanned, &mut findings)
        })?;
        let needed = self.catalogue.transaction(|c| c.settle_retired())?;
        let fits = || self.fits(&points, &known.packs);
        if !fresh && (needed || !rewritten.is_empty() || !fits()?) {
            findings.extend(self.read_anew(&rewritten)?);
            return Ok(findings);
        }
        self.unlink_what_is_retired(&packs)?;
        self.find_missing(&packs, &known, &mut findings)?;
        if fresh {
            self.catalogue.set_whole()?;
            // What is counted on from now on must not be lost with it.
            self.catalogue.make_durable()?;
        }
        Ok(findings)
    }

    /// What the catalogue knew last of these packs is not of them any more.
    fn read_anew(&mut self, rewritten: &[PackId]) -> Result<Vec<Finding>, StoreError> {
        tracing::warn!("the catalogue is older than the packs know it: they are read anew");
        self.catalogue.transaction(|catalogue| {
            for pack in rewritten {
                catalogue.forget_end(*pack)?;
            }
            catalogue.begin_anew()
        })?;
        self.catch_up(true)
    }

    /// A crash came between a pack's retirement and its removal.
    fn unlink_what_is_retired(&self, packs: &[PackId]) -> Result<(), StoreError> {
        for pack in packs {
            if self.catalogue.was_retired(*pack)? {
                // The file is in nobody's way: what else there is must not wait for it.
                if let Err(error) = take_away(&*self.volume, self.vault, *pack) {
                    tracing::error!(%pack, %error, "a retired pack could not be taken away");
                }
            }
        }
        Ok(())
    }

    /// Packs that are not there, and that no entry says were retired. The catalogue knows which
    /// it has read; when it has just read all, each number up to the highest was one.
    fn find_missing(
        &self,
        packs: &[PackId],
        known: &Known,
        findings: &mut Vec<Finding>,
    ) -> Result<(), StoreError> {
        let mut missing: Vec<PackId> = known.packs.keys().copied().collect();
        if known.fresh {
            missing.extend(known.ends.keys());
            let retired: HashSet<PackId> = self.catalogue.retired()?.into_iter().collect();
            for (&tenant, &highest) in &self.highest {
                let pack = |number| PackId { tenant, number };
                let absent =
                    |pack: &PackId| packs.binary_search(pack).is_err() && !retired.contains(pack);
                let numbers = (1..highest).map(pack).filter(absent);
                missing.extend(numbers.take(MISSING_NAMED));
            }
        }
        missing.sort_unstable();
        missing.dedup();
        for pack in missing {
            if packs.binary_search(&pack).is_ok() || self.catalogue.was_retired(pack)? {
                continue;
            }
            // What it held counts as stored no more.
            self.catalogue.note_loss(pack, 0, 0, None)?;
            findings.push(Finding::Missing(pack));
        }
        Ok(())
    }

    /// Takes in what a scan found.
    ///
    /// What a crash left unfinished is cut off at the end of the last pack, and covered between
    /// entries that are newer than all that the catalogue knows. What may have been an entry is
    /// left as it is, and so is what cannot be read now; nothing follows it.
    fn take_in(
        &mut self,
        unread: &Unread,
        scanned: Scan,
        findings: &mut Vec<Finding>,
    ) -> Result<(), StoreError> {
        let pack = unread.pack;
        if self.catalogue.was_retired(pack)? {
            return self.catalogue.clear_loss(pack, 0);
        }
        let mut length = unread.length;
        // What the catalogue was told of does not end there: that was damaged.
        let damaged_end = scanned.end < unread.told;
        let unfinished = unread.unfinished && !scanned.salvaged && !damaged_end;
        if unfinished && scanned.tail() > 0 {
            findings.push(Finding::TornTail {
                pack,
                at: scanned.end,
                length: scanned.tail(),
            });
            self.cut(pack, scanned.end)?;
            length = scanned.end;
        }
        if let Some(active) = self.active.get_mut(&pack.tenant)
            && active.header.pack == pack
        {
            active.length = length;
            if scanned.salvaged || damaged_end || scanned.end < length {
                self.active.remove(&pack.tenant);
            }
        }
        let mut lost = Vec::new();
        let gaps = scanned
            .gaps
            .iter()
            .filter(|gap| gap.offset < length && !unread.is_noted(gap))
            .cloned();
        for gap in gaps {
            let newer = unread.newer && gap.offset >= unread.told;
            if unfinished && newer && gap.length >= ENTRY_HEADER as u64 {
                self.cover(unread, &gap)?;
                findings.push(Finding::Covered(pack, gap));
            } else {
                if gap.length >= ENTRY_HEADER as u64 {
                    lost.push(gap.clone());
                }
                findings.push(Finding::Damaged(pack, gap));
            }
        }
        if !scanned.salvaged {
            self.write_again(pack, unread.unsynced, length)?;
        }
        self.volume
            .sync(pack)
            .and_then(|()| self.volume.sync_directory(pack.tenant))
            .map_err(|e| StoreError::io(format_args!("sync pack {pack}"), &e))?;
        let records: Vec<_> = scanned
            .entries
            .iter()
            .filter_map(|found| {
                let record = found.record.as_ref()?;
                Some(Placed {
                    offset: found.offset,
                    record,
                })
            })
            .collect();
        let end = match scanned.entries.last() {
            Some(last) => read_exact(&*self.volume, pack, last.offset, ENTRY_HEADER)
                .ok()
                .and_then(|header| End::of(last.offset, &header)),
            None => None,
        };
        self.catalogue.transaction(|catalogue| {
            catalogue.clear_loss(pack, 0)?;
            for gap in &lost {
                catalogue.note_loss(pack, gap.offset, gap.length, gap.id)?;
            }
            if let Some(end) = end {
                catalogue.set_end(pack, end)?;
            }
            catalogue.take(pack, length, &records)
        })
    }

    /// Writes bytes over themselves. After a sync that failed the kernel may take pages for
    /// written that are not: then reads show them, and a sync that follows has nothing to do and
    /// succeeds. What is written again it must bring to the disk.
    fn write_again(&self, pack: PackId, from: u64, to: u64) -> Result<(), StoreError> {
        let failed =
            |e: std::io::Error| StoreError::io(format_args!("write pack {pack} again"), &e);
        let mut at = from;
        while at < to {
            let length = match at < FIRST_ENTRY {
                true => FIRST_ENTRY.min(to) - at,
                false => AGAIN_PIECE.min(to - at),
            };
            let Ok(bytes) = read_exact(&*self.volume, pack, at, length as usize) else {
                // One copy of a header that cannot be read: the other one is.
                at += length;
                continue;
            };
            match self.volume.write_at(pack, at, &bytes) {
                Ok(()) => at += length,
                // Some file systems need room to write in place. The vault is to open all the
                // same; that nothing can be read from a full disk would be worse.
                Err(error) if is_full(&error) => {
                    tracing::warn!(%pack, "the disk is full: the pack's end is only synced");
                    return Ok(());
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    pub(super) fn cut(&self, pack: PackId, length: u64) -> Result<(), StoreError> {
        self.volume
            .truncate(pack, length)
            .and_then(|()| self.volume.sync(pack))
            .map_err(|e| StoreError::io(format_args!("cut pack {pack}"), &e))
    }

    /// Makes a void of bytes that a crash left.
    fn cover(&self, unread: &Unread, gap: &Gap) -> Result<(), StoreError> {
        let header = EntryHeader {
            kind: EntryKind::Void as u8,
            length: (gap.length - ENTRY_HEADER as u64) as u32,
            id: [0; 32],
        };
        let bytes = header.encode(&unread.header.salt, gap.offset);
        self.volume
            .write_at(unread.pack, gap.offset, &bytes)
            .map_err(|e| StoreError::io(format_args!("write to pack {}", unread.pack), &e))
    }
}

/// The recovery points among what was read and is newer than what the catalogue knew.
fn points_of(unread: &Unread, scanned: &Scan) -> impl Iterator<Item = JustRead> {
    let (tenant, told) = (unread.pack.tenant, unread.told);
    let newer = scanned.entries.iter().filter(move |e| e.offset >= told);
    let records = newer.filter_map(|e| e.record.as_ref());
    records.filter_map(move |record| match record {
        Record::Point(point) => Some((tenant, point.manifest.public().ok()?)),
        _ => None,
    })
}

/// True when there is no room, on the disk or in what somebody may use of it.
pub(super) fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}
