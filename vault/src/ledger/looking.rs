//! Looks which packs are there, and decides what of them is to be read, and what bytes that are
//! no entries are taken for.
//!
//! A crash leaves unfinished bytes in one place only: at the end of the tenant's last pack, for a
//! full pack is synced before the next one begins. And only what the catalogue never knew can be
//! unfinished: not what lies in a pack below the newest that it knew, nor in one of which
//! something was noted to be lost. All else that is no entry is damage, and left as it is.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use relevo_wire::{TenantId, VaultId};

use super::finding::Finding;
use super::{Active, Ledger};
use crate::catalogue::{End, Loss};
use crate::error::StoreError;
use crate::pack::{
    ALIGN, ENTRY_HEADER, EntryHeader, EntryKind, FIRST_ENTRY, PACK_VERSION, PackHeader, entry_size,
};
use crate::scan::{Gap, Scan, scan};
use crate::volume::{PackId, Volume, read_exact, read_salvaging};

/// When the catalogue is made anew, so many bytes of each tenant's newest packs are written again:
/// more than one round of the writer, of which a sync may have failed.
const AGAIN: u64 = 128 * 1024 * 1024;

/// A pack to read, from where.
pub(super) struct Unread {
    pub pack: PackId,
    pub header: PackHeader,
    pub from: u64,
    pub length: u64,
    /// The catalogue was told of what lies below, or of something: what is no entry there was
    /// damaged.
    pub told: u64,
    /// Everything from there on is newer than all that the catalogue was told of.
    pub newer: bool,
    /// A crash may have left unfinished bytes at its end.
    pub unfinished: bool,
    /// What lies behind this was perhaps never on the disk, though reads show it.
    pub unsynced: u64,
    /// Bytes of which it is known already that they are lost.
    pub noted: Vec<Range<u64>>,
}

impl Unread {
    /// Whether it is known already that these bytes are lost.
    pub fn is_noted(&self, gap: &Gap) -> bool {
        let end = gap.offset + gap.length;
        let mut noted = self.noted.iter();
        noted.any(|lost| lost.start <= gap.offset && end <= lost.end)
    }

    /// True when an entry stands across where the catalogue knew that one ends: it is of other
    /// packs, see [`Ledger::rewritten`].
    pub fn was_rewritten(&self, scanned: &Scan) -> bool {
        scanned.entries.iter().any(|entry| {
            let behind = entry.offset + entry_size(entry.length as usize);
            self.newer && entry.offset < self.told && self.told < behind
        })
    }
}

/// What the catalogue knew of the packs before they are looked at.
pub(super) struct Known {
    /// It never knew all packs.
    pub fresh: bool,
    /// How far each pack was read.
    pub packs: HashMap<PackId, u64>,
    /// Packs that are gone on purpose.
    pub retired: HashSet<PackId>,
    newest: HashMap<TenantId, u32>,
    losses: HashMap<PackId, Vec<Loss>>,
    /// The last entries that it knew. They are kept when all else is forgotten.
    pub ends: HashMap<PackId, End>,
}

impl Known {
    /// True for bytes of which the catalogue was told once, or may have been: what is no entry
    /// among them was damaged.
    fn is_old(&self, pack: PackId) -> bool {
        let known = self.packs.get(&pack).copied().unwrap_or(0);
        let mut losses = self.losses.get(&pack).into_iter().flatten();
        let newest = self.newest.get(&pack.tenant).copied().unwrap_or(0);
        pack.number < newest || losses.any(|l| l.offset == 0 || l.offset >= known)
    }

    /// True when the catalogue read the pack before it kept the last entry of each, so that it
    /// cannot be told whether it is the pack that was read. Only a tenant's newest is ever cut
    /// and written anew, or one that the catalogue has not read to its end.
    fn cannot_be_told(&self, pack: PackId, length: u64) -> bool {
        let known = self.packs.get(&pack).copied().unwrap_or(0);
        let newest = self.newest.get(&pack.tenant) == Some(&pack.number);
        let read = !self.fresh && known > FIRST_ENTRY && known <= length;
        read && !self.ends.contains_key(&pack) && (newest || known < length)
    }

    /// True when nothing may follow what ends there: it is lost, and perhaps comes back.
    fn ends_in_a_loss(&self, pack: PackId, length: u64) -> bool {
        let mut losses = self.losses.get(&pack).into_iter().flatten();
        losses.any(|l| l.offset > 0 && l.offset + l.length + ALIGN as u64 > length)
    }
}

impl<V: Volume> Ledger<V> {
    /// What the catalogue knows.
    pub(super) fn known(&self, fresh: bool) -> Result<Known, StoreError> {
        let mut known = Known {
            fresh,
            packs: self.catalogue.packs()?.into_iter().collect(),
            retired: self.catalogue.retired()?.into_iter().collect(),
            newest: HashMap::new(),
            losses: HashMap::new(),
            ends: self.catalogue.ends()?,
        };
        let ends = known.ends.keys().filter(|_| fresh);
        for pack in known.packs.keys().chain(ends) {
            let newest = known.newest.entry(pack.tenant).or_default();
            *newest = pack.number.max(*newest);
        }
        for tenant in self.catalogue.tenants()? {
            for loss in self.catalogue.losses(tenant)? {
                let number = loss.pack;
                let pack = PackId { tenant, number };
                known.losses.entry(pack).or_default().push(loss);
            }
        }
        Ok(known)
    }

    /// Looks at all packs; those to be read, in order.
    pub(super) fn look_at_all(
        &mut self,
        packs: &[PackId],
        known: &Known,
        findings: &mut Vec<Finding>,
    ) -> Result<Vec<Unread>, StoreError> {
        self.highest.clear();
        self.active.clear();
        let ends = known.ends.keys().filter(|_| known.fresh);
        for pack in known.packs.keys().chain(&known.retired).chain(ends) {
            self.reserve_number(*pack);
        }
        // In order: the last one of each stays.
        let top: HashMap<_, _> = packs.iter().map(|p| (p.tenant, p.number)).collect();
        let mut unread = Vec::new();
        let mut last: HashMap<TenantId, u32> = HashMap::new();
        for &pack in packs.iter().filter(|pack| !known.retired.contains(pack)) {
            let length = self
                .volume
                .length(pack)
                .map_err(|e| StoreError::io(format_args!("measure pack {pack}"), &e))?;
            if length > FIRST_ENTRY {
                last.insert(pack.tenant, pack.number);
            }
            let top = top.get(&pack.tenant) == Some(&pack.number);
            unread.extend(self.look_at(pack, length, top, known, findings)?);
        }
        for unread in &mut unread {
            let pack = unread.pack;
            unread.unfinished &= last.get(&pack.tenant) == Some(&pack.number);
        }
        // Only the last pack grows, or what is unfinished could stand in another.
        let highest = &self.highest;
        self.active
            .retain(|tenant, active| highest.get(tenant) == Some(&active.header.pack.number));
        Ok(unread)
    }

    /// Decides what of a pack is to be read. `top`: no file of the tenant has a higher number.
    fn look_at(
        &mut self,
        pack: PackId,
        length: u64,
        top: bool,
        known: &Known,
        findings: &mut Vec<Finding>,
    ) -> Result<Option<Unread>, StoreError> {
        let scanned = known.packs.get(&pack).copied();
        let header = match open_pack_header(&*self.volume, self.vault, pack)? {
            Ok(_) if length < FIRST_ENTRY => Err("its header is cut short".into()),
            other => other,
        };
        let header = match header {
            Ok(header) => header,
            // A pack whose making failed or was cut short, which nobody was told of. The next
            // one would have taken its number: one that has another above it was made.
            Err(_)
                if length <= FIRST_ENTRY
                    && top
                    && self.highest.get(&pack.tenant) < Some(&pack.number)
                    && !known.is_old(pack) =>
            {
                if length > 0 {
                    self.cut(pack, 0)?;
                    findings.push(Finding::TornTail {
                        pack,
                        at: 0,
                        length,
                    });
                }
                return Ok(None);
            }
            Err(reason) => {
                findings.push(Finding::Unreadable(pack, reason));
                self.reserve_number(pack);
                self.catalogue.note_loss(pack, 0, 0, None)?;
                if scanned.is_some_and(|scanned| scanned > length) {
                    self.catalogue
                        .transaction(|catalogue| catalogue.forget_pack(pack))?;
                }
                return Ok(None);
            }
        };
        self.reserve_number(pack);
        let mut from = scanned.unwrap_or(0);
        let mut old = known.is_old(pack);
        if from > length {
            findings.push(Finding::Shrunk(pack));
            self.catalogue.transaction(|catalogue| {
                catalogue.forget_pack(pack)?;
                catalogue.note_loss(pack, length, from - length, None)
            })?;
            from = 0;
            old = true;
        } else if !known.ends_in_a_loss(pack, length)
            && (from < length || length.is_multiple_of(ALIGN as u64))
        {
            // Packs come in order: the last one stays.
            self.active.insert(pack.tenant, Active { header, length });
        }
        let mut told = from;
        if known.fresh
            && !old
            && let Some(end) = known.ends.get(&pack)
        {
            told = end.offset + ALIGN as u64;
            if told > length {
                findings.push(Finding::Shrunk(pack));
                self.catalogue
                    .note_loss(pack, length, told - length, None)?;
            }
        }
        let mut again = true;
        if from == length && self.was_cut(pack, length, known) {
            (from, old) = (0, true);
        } else if known.cannot_be_told(pack, length) {
            from = 0;
        } else if from == length {
            self.catalogue.clear_loss(pack, 0)?;
            return Ok(None);
        } else {
            again = false;
        }
        let mut noted = Vec::new();
        if again {
            let losses = known.losses.get(&pack).into_iter().flatten();
            noted.extend(losses.map(|l| l.offset..l.offset + l.length));
        }
        let newer = !known.fresh && !old;
        if old {
            told = 0;
        }
        Ok(Some(Unread {
            pack,
            header,
            from: from.max(FIRST_ENTRY),
            length,
            told,
            newer,
            unfinished: !old,
            unsynced: match newer {
                true => told,
                false => length,
            },
            noted,
        }))
    }

    /// True for a pack that was cut short below what the catalogue knew, and has got its length
    /// back without its bytes. An older catalogue knows no entry that was written there between:
    /// so all of it is read again.
    fn was_cut(&self, pack: PackId, length: u64, known: &Known) -> bool {
        known.ends_in_a_loss(pack, length)
            && known.ends.get(&pack).is_none_or(|end| {
                read_exact(&*self.volume, pack, end.offset, ENTRY_HEADER)
                    .is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 0))
            })
    }

    fn reserve_number(&mut self, pack: PackId) {
        let highest = self.highest.entry(pack.tenant).or_default();
        *highest = pack.number.max(*highest);
    }

    /// Of which packs the catalogue is not: where the last entry stood that it knows of a tenant's
    /// newest pack there is another. The end of that pack was taken for unfinished and
    /// cut off since, and others were written there; so what lies behind the offset that the
    /// catalogue recorded need not begin with an entry.
    pub(super) fn rewritten(&self, known: &Known) -> Result<Vec<PackId>, StoreError> {
        let mut rewritten = Vec::new();
        for (&pack, end) in &known.ends {
            let newest = known.newest.get(&pack.tenant) == Some(&pack.number);
            if newest && self.was_rewritten(pack, end, known)? {
                rewritten.push(pack);
            }
        }
        Ok(rewritten)
    }

    fn was_rewritten(&self, pack: PackId, end: &End, known: &Known) -> Result<bool, StoreError> {
        let scanned = known.packs.get(&pack).copied().unwrap_or(0);
        let Ok(length) = self.volume.length(pack) else {
            return Ok(false);
        };
        let Ok(header) = open_pack_header(&*self.volume, self.vault, pack)? else {
            return Ok(false);
        };
        if length < scanned || end.offset >= scanned {
            return Ok(false);
        }
        if let Ok(bytes) = read_exact(&*self.volume, pack, end.offset, ENTRY_HEADER) {
            if End::of(end.offset, &bytes) == Some(*end) {
                return Ok(false);
            }
            if let Some(entry) = EntryHeader::decode(&bytes, &header.salt, end.offset) {
                // Healing covers what was damaged, in its place.
                let covered = entry.kind == EntryKind::Void as u8
                    && end.offset + entry_size(entry.length as usize) <= scanned;
                return Ok(!covered);
            }
        }
        // No entry begins there: it was damaged, or lies within one that was written since.
        let behind_header = (length - FIRST_ENTRY) as usize;
        let read = read_salvaging(&*self.volume, pack, FIRST_ENTRY, behind_header);
        let Ok((bytes, _)) = read else {
            return Ok(false);
        };
        let found = scan(&bytes, FIRST_ENTRY, &header.salt);
        Ok(found.entries.iter().any(|entry| {
            let behind = entry.offset + entry_size(entry.length as usize);
            // A void lies where healing covered several.
            entry.record.is_some() && (entry.offset + 1..behind).contains(&end.offset)
        }))
    }
}

/// Of packs from the newest to the oldest, the last bytes of each tenant are taken for unsynced.
pub(super) fn doubt_newest(unread: &mut [Unread]) {
    let mut left: HashMap<TenantId, u64> = HashMap::new();
    for pack in unread {
        let left = left.entry(pack.pack.tenant).or_insert(AGAIN);
        let doubted = pack.length.min(*left);
        pack.unsynced = pack.length - doubted;
        *left -= doubted;
    }
}

/// Reads a pack's header. The inner error says in words why the pack cannot be used.
pub fn open_pack_header<V: Volume + ?Sized>(
    volume: &V,
    vault: VaultId,
    pack: PackId,
) -> Result<Result<PackHeader, String>, StoreError> {
    let mut bytes = vec![0; FIRST_ENTRY as usize];
    let read = match volume.read_at(pack, 0, &mut bytes) {
        Ok(filled) => {
            bytes.truncate(filled);
            Ok(bytes.into())
        }
        // A bad sector under one copy must not take the other along.
        Err(_) => read_salvaging(volume, pack, 0, FIRST_ENTRY as usize).map(|(bytes, _)| bytes),
    };
    let bytes: bytes::Bytes = match read {
        Ok(bytes) => bytes,
        Err(error) => return Ok(Err(format!("it cannot be read: {error}"))),
    };
    let Some((header, both)) = PackHeader::decode(&bytes) else {
        return Ok(Err("both copies of its header are damaged".into()));
    };
    if header.version > PACK_VERSION {
        return Err(StoreError::Newer {
            found: header.version,
            known: PACK_VERSION,
        });
    }
    if header.vault != vault {
        return Ok(Err(format!("it is of vault {}", header.vault)));
    }
    if header.pack != pack {
        return Ok(Err(format!("its header names it {}", header.pack)));
    }
    if !both {
        tracing::warn!(%pack, "one copy of the pack's header is damaged");
    }
    Ok(Ok(header))
}
