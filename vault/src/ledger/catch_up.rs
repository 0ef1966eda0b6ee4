//! Brings the catalogue up to the packs: after a crash a tail, after its loss everything.

use std::collections::{HashMap, HashSet};
use std::fmt;

use relevo_wire::{TenantId, VaultId};

use super::doubt::JustRead;
use super::reading::in_order;
use super::rewrite::take_away;
use super::{Active, Ledger};
use crate::catalogue::Placed;
use crate::error::StoreError;
use crate::pack::{ENTRY_HEADER, EntryHeader, EntryKind, FIRST_ENTRY, PACK_VERSION, PackHeader};
use crate::record::Record;
use crate::scan::{Gap, Scan};
use crate::volume::{PackId, Volume, read_exact, read_salvaging};

/// Missing packs of one tenant that are named after all packs were read.
const MISSING_NAMED: usize = 1000;

/// Something in the packs that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Bytes at the end of the newest pack that a crash left; cut off. Nobody was told of them.
    TornTail {
        /// Which pack.
        pack: PackId,
        /// Where it ends now.
        at: u64,
        /// Bytes cut off.
        length: u64,
    },
    /// Bytes that a crash left between whole entries; covered. Nobody was told of them.
    Covered(PackId, Gap),
    /// Bytes that were damaged.
    Damaged(PackId, Gap),
    /// The pack cannot be read, or is not this vault's.
    Unreadable(PackId, String),
    /// A pack that was there is not, and no entry says that it was retired.
    Missing(PackId),
    /// The pack is shorter than it was; read anew.
    Shrunk(PackId),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TornTail { pack, at, length } => write!(
                f,
                "pack {pack}: {length} unfinished bytes behind {at} were cut off; nothing acknowledged was in them"
            ),
            Self::Covered(pack, gap) => write!(
                f,
                "pack {pack}: {} unfinished bytes at {} were covered; nothing acknowledged was in them",
                gap.length, gap.offset
            ),
            Self::Damaged(pack, gap) => {
                write!(
                    f,
                    "pack {pack}: {} damaged bytes at {}: {}",
                    gap.length, gap.offset, gap.reason
                )
            }
            Self::Unreadable(pack, reason) => write!(f, "pack {pack} cannot be used: {reason}"),
            Self::Missing(pack) => write!(f, "pack {pack} is missing"),
            Self::Shrunk(pack) => write!(f, "pack {pack} is shorter than it was"),
        }
    }
}

impl Finding {
    /// True when something that was acknowledged may be lost.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::TornTail { .. } | Self::Covered(..))
    }
}

/// When the catalogue is made anew, so many bytes of each tenant's newest packs are written again:
/// more than one round of the writer, of which a sync may have failed.
const AGAIN: u64 = 128 * 1024 * 1024;
/// Bytes that are written again at once.
const AGAIN_PIECE: u64 = 4 * 1024 * 1024;

/// A pack to read, from where.
pub(super) struct Unread {
    pub pack: PackId,
    pub header: PackHeader,
    pub from: u64,
    pub length: u64,
    /// Everything from there on is newer than all that the catalogue was told of.
    newer: bool,
    /// What lies behind this was perhaps never on the disk, though reads show it.
    unsynced: u64,
}

impl<V: Volume> Ledger<V> {
    /// Reads what the catalogue does not know yet. `fresh`: it never knew all packs.
    ///
    /// Entries taken in are written once more and synced first, since the catalogue never names
    /// what is not durable.
    /// A tenant's packs are taken in from the newest to the oldest: that a pack was retired
    /// stands in a later one, and then nothing of it is taken in.
    pub(super) fn catch_up(&mut self, fresh: bool) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        let known: HashMap<PackId, u64> = self.catalogue.packs()?.into_iter().collect();
        let mut packs = self
            .volume
            .list()
            .map_err(|e| StoreError::io("list the packs", &e))?;
        packs.sort_unstable();
        self.highest.clear();
        self.active.clear();
        let retired: HashSet<PackId> = self.catalogue.retired()?.into_iter().collect();
        for pack in known.keys().chain(&retired) {
            self.reserve_number(*pack);
        }
        let mut unread = Vec::new();
        for pack in packs.iter().filter(|pack| !retired.contains(pack)) {
            let found = self.look_at(*pack, known.get(pack).copied(), fresh, &mut findings)?;
            unread.extend(found);
        }
        unread.reverse();
        if fresh {
            doubt_newest(&mut unread);
        }
        let volume = self.volume.clone();
        let mut points = Vec::new();
        in_order(&volume, &unread, |at, scanned| {
            let scanned = scanned?;
            if !fresh {
                points.extend(points_of(unread[at].pack, &scanned));
            }
            self.take_in(&unread[at], scanned, &mut findings)
        })?;
        let needed = self.catalogue.transaction(|c| c.settle_retired())?;
        if !fresh && (needed || !self.fits(&points, &known)?) {
            tracing::warn!("the catalogue is older than the packs know it: they are read anew");
            self.catalogue.transaction(|c| c.begin_anew())?;
            findings.extend(self.catch_up(true)?);
            return Ok(findings);
        }
        self.unlink_what_is_retired(&packs)?;
        self.find_missing(&packs, &known, fresh, &mut findings)?;
        if fresh {
            self.catalogue.set_whole()?;
            // What is counted on from now on must not be lost with it.
            self.catalogue.make_durable()?;
        }
        Ok(findings)
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
        known: &HashMap<PackId, u64>,
        fresh: bool,
        findings: &mut Vec<Finding>,
    ) -> Result<(), StoreError> {
        let mut missing: Vec<PackId> = known.keys().copied().collect();
        if fresh {
            for (&tenant, &highest) in &self.highest {
                let pack = |number| PackId { tenant, number };
                let absent = |pack: &PackId| packs.binary_search(pack).is_err();
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

    /// Decides what of a pack is to be read.
    fn look_at(
        &mut self,
        pack: PackId,
        known: Option<u64>,
        fresh: bool,
        findings: &mut Vec<Finding>,
    ) -> Result<Option<Unread>, StoreError> {
        let length = self
            .volume
            .length(pack)
            .map_err(|e| StoreError::io(format_args!("measure pack {pack}"), &e))?;
        let header = match open_pack_header(&*self.volume, self.vault, pack)? {
            Ok(_) if length < FIRST_ENTRY => Err("its header is cut short".into()),
            other => other,
        };
        let header = match header {
            Ok(header) => header,
            // A pack whose making failed or was cut short, which nobody was told of.
            Err(_) if known.is_none() && length <= FIRST_ENTRY => {
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
                if known.is_some_and(|known| known > length) {
                    self.catalogue
                        .transaction(|catalogue| catalogue.forget_pack(pack))?;
                }
                return Ok(None);
            }
        };
        self.reserve_number(pack);
        let mut from = known.unwrap_or(0);
        let mut newer = !fresh;
        if from > length {
            findings.push(Finding::Shrunk(pack));
            self.catalogue.transaction(|catalogue| {
                catalogue.forget_pack(pack)?;
                catalogue.note_loss(pack, length, from - length, None)
            })?;
            from = 0;
            newer = false;
        }
        self.catalogue.clear_loss(pack, 0)?;
        // Packs come in order: the last one stays.
        self.active.insert(pack.tenant, Active { header, length });
        Ok((from < length).then_some(Unread {
            pack,
            header,
            from: from.max(FIRST_ENTRY),
            length,
            newer,
            unsynced: match newer {
                true => from,
                false => length,
            },
        }))
    }

    fn reserve_number(&mut self, pack: PackId) {
        let highest = self.highest.entry(pack.tenant).or_default();
        *highest = pack.number.max(*highest);
    }

    /// Takes in what a scan found.
    ///
    /// With the catalogue there, what lies behind the offset that it recorded is newer than all
    /// that it knows: what is no entry there, a crash left. Without it only the end of the
    /// newest pack is known to be that; the rest may be damage, and is left as it is.
    fn take_in(
        &mut self,
        unread: &Unread,
        scanned: Scan,
        findings: &mut Vec<Finding>,
    ) -> Result<(), StoreError> {
        let pack = unread.pack;
        if self.catalogue.was_retired(pack)? {
            return Ok(());
        }
        let newest = self
            .active
            .get(&pack.tenant)
            .is_some_and(|active| active.header.pack == pack);
        let mut length = unread.length;
        // What cannot be read now is perhaps no waste: it stays, and nothing follows it.
        let newer = unread.newer && !scanned.salvaged;
        if scanned.salvaged {
            if newest {
                self.active.remove(&pack.tenant);
            }
        } else if (newest || newer) && scanned.tail() > 0 {
            findings.push(Finding::TornTail {
                pack,
                at: scanned.end,
                length: scanned.tail(),
            });
            self.cut(pack, scanned.end)?;
            length = scanned.end;
            if let Some(active) = self.active.get_mut(&pack.tenant).filter(|_| newest) {
                active.length = length;
            }
        }
        let mut lost = Vec::new();
        let gaps = scanned
            .gaps
            .iter()
            .filter(|gap| gap.offset < length)
            .cloned();
        for gap in gaps {
            if newer && gap.length >= ENTRY_HEADER as u64 {
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
        self.catalogue.transaction(|catalogue| {
            for gap in &lost {
                catalogue.note_loss(pack, gap.offset, gap.length, gap.id)?;
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
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                    tracing::warn!(%pack, "the disk is full: the pack's end is only synced");
                    return Ok(());
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    fn cut(&self, pack: PackId, length: u64) -> Result<(), StoreError> {
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

/// The recovery points among what was read.
fn points_of(pack: PackId, scanned: &Scan) -> impl Iterator<Item = JustRead> {
    let records = scanned.entries.iter().filter_map(|e| e.record.as_ref());
    records.filter_map(move |record| match record {
        Record::Point(point) => Some((pack.tenant, point.manifest.public().ok()?)),
        _ => None,
    })
}

/// Of packs from the newest to the oldest, the last bytes of each tenant are taken for unsynced.
fn doubt_newest(unread: &mut [Unread]) {
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
