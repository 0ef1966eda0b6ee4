//! The only writer of packs and of what the catalogue says of them.
//!
//! Each step is a function here, called in this order by [`Ledger::append`]:
//!
//! 1. `write_entries`: entries go to the end of the tenant's newest
//!    pack, or of new ones. A full pack is synced before the next one begins, so that a crash
//!    leaves unfinished bytes in the last pack only.
//! 2. `make_durable`: `fdatasync` of the last pack written. (A new pack's
//!    header and name were made durable when it was begun.)
//! 3. `catalogue_entries`: one transaction, not synced.
//! 4. The caller answers.
//!
//! What a crash leaves, and why nothing answered is lost:
//! * before 2: perhaps entries, whole or torn, that nobody was told of. Whole ones are taken
//!   in (and synced) by `catch_up`, torn ones cut off or covered.
//! * between 2 and 3, or when the unsynced transaction is lost: entries beyond the offset that
//!   the catalogue records. `catch_up` takes them in.
//!
//! The catalogue is never ahead of the packs, so that what it names is there. An answer waits
//! for step 3 only so that who was answered finds what he stored.
//!
//! A write that fails is taken back to the last answered byte. After an `fdatasync` that
//! failed, the kernel may show bytes that are not on the disk: that pack gets no further entry.

mod catch_up;
#[cfg(test)]
mod catch_up_test;
#[cfg(test)]
mod damage_test;
mod deletion;
#[cfg(test)]
mod deletion_test;
mod doubt;
mod evidence;
mod finding;
#[cfg(test)]
mod forgetting_test;
mod looking;
mod mend;
mod reading;
mod rewrite;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use relevo_wire::manifest::PublicManifest;
use relevo_wire::{ChunkId, TenantId, VaultId};

use crate::catalogue::{Catalogue, End, Located, Placed};
use crate::clock::{BootClock, KernelBootClock, VaultClock, VaultTime};
use crate::error::StoreError;
use crate::pack::{FIRST_ENTRY, PackHeader, ROLL_AT, entry_size, push_entry};
use crate::record::Record;
use crate::volume::{PackId, Volume};

pub use deletion::{Deleted, Deletion, Kept, remaining};
pub use finding::Finding;
pub use looking::open_pack_header;
pub use mend::Cover;
pub use rewrite::take_away;

/// Entries are handed to the file system in pieces of about this many bytes.
const WRITE_PIECE: usize = 4 * 1024 * 1024;

/// What a batch added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Bytes of packs; records that were there add none.
    pub bytes: u64,
}

/// The newest pack of a tenant.
#[derive(Clone, Copy)]
struct Active {
    header: PackHeader,
    /// Durable and catalogued bytes.
    length: u64,
}

/// The writer.
pub struct Ledger<V> {
    volume: Arc<V>,
    vault: VaultId,
    catalogue: Catalogue,
    active: HashMap<TenantId, Active>,
    highest: HashMap<TenantId, u32>,
    /// The last transaction failed: packs hold more than the catalogue says.
    behind: bool,
    /// All packs were read, because nothing was known of them, or not any more.
    read_all: bool,
    read_only: Option<String>,
    roll_at: u64,
    clock: Arc<VaultClock>,
}

/// A pack that a batch wrote to.
struct Written<'a> {
    header: PackHeader,
    /// Length before the batch.
    from: u64,
    to: u64,
    records: Vec<Placed<'a>>,
    /// The last of them.
    end: Option<End>,
}

impl<V: Volume> Ledger<V> {
    /// Opens the packs of a vault and brings the catalogue up to them.
    pub fn open(
        volume: Arc<V>,
        vault: VaultId,
        catalogue: Catalogue,
        fresh: bool,
    ) -> Result<(Self, Vec<Finding>), StoreError> {
        catalogue.start_writing()?;
        let mut ledger = Self {
            volume,
            vault,
            catalogue,
            active: HashMap::new(),
            highest: HashMap::new(),
            behind: false,
            read_all: false,
            read_only: None,
            roll_at: ROLL_AT,
            clock: Arc::new(VaultClock::resume(
                VaultTime::default(),
                Arc::new(KernelBootClock),
            )),
        };
        let findings = ledger.catch_up(fresh)?;
        ledger.set_boot_clock(Arc::new(KernelBootClock))?;
        Ok((ledger, findings))
    }

    /// Vault time by another clock, from where the packs say that it was.
    pub fn set_boot_clock(&mut self, source: Arc<dyn BootClock>) -> Result<(), StoreError> {
        let start = self.proven_vault_time()?;
        self.clock = Arc::new(VaultClock::resume(start, source));
        Ok(())
    }

    /// Vault time.
    pub fn clock(&self) -> &Arc<VaultClock> {
        &self.clock
    }

    /// Writes records of one tenant. When this returns, they are durable and can be found; after
    /// an error none of them counts.
    pub fn append(
        &mut self,
        tenant: TenantId,
        batch: &[&[Record]],
    ) -> Result<Vec<Appended>, StoreError> {
        self.make_ready()?;
        for record in batch.iter().copied().flatten() {
            // A copy for a pack that is rewritten; any other comes through `delete`.
            if let Record::Deletion(deletion) = record
                && !self.catalogue.was_deleted(tenant, deletion.point)?
            {
                return Err(StoreError::Storage(format!(
                    "the deletion of {} did not pass the guard",
                    deletion.point
                )));
            }
        }
        self.append_judged(tenant, batch)
    }

    /// Refuses when nothing may be written, and brings the catalogue up to the packs.
    fn make_ready(&mut self) -> Result<(), StoreError> {
        if let Some(reason) = &self.read_only {
            return Err(StoreError::ReadOnly(reason.clone()));
        }
        if self.behind {
            // A reading anew may have failed half-way: then it knows less than it once did.
            let fresh = !self.catalogue.is_whole()?;
            for finding in self.catch_up(fresh)? {
                tracing::warn!("{finding}");
            }
            self.behind = false;
        }
        Ok(())
    }

    /// [`append`](Self::append) of records of which the guard has judged the deletions.
    fn append_judged(
        &mut self,
        tenant: TenantId,
        batch: &[&[Record]],
    ) -> Result<Vec<Appended>, StoreError> {
        let fresh = self.leave_out_known(tenant, batch)?;
        self.append_fresh(tenant, &fresh)
    }

    /// The order of writing: steps 1 to 3.
    fn append_fresh(
        &mut self,
        tenant: TenantId,
        fresh: &[Vec<Encoded<'_>>],
    ) -> Result<Vec<Appended>, StoreError> {
        let answers = fresh
            .iter()
            .map(|records| {
                let bytes = records.iter().map(|(_, _, body)| entry_size(body.len()));
                Appended { bytes: bytes.sum() }
            })
            .collect();
        let mut written = Vec::new();
        let done = self
            .write_entries(tenant, fresh, &mut written)
            .and_then(|()| match written.last() {
                Some(last) => self.make_durable(last),
                None => Ok(()),
            });
        if let Err(error) = done {
            self.take_back(&written);
            return Err(error);
        }
        self.catalogue_entries(tenant, &written)?;
        Ok(answers)
    }

    /// Leaves out chunks that are stored, or come twice. Bodies are encoded once, here.
    fn leave_out_known<'a>(
        &self,
        tenant: TenantId,
        batch: &[&'a [Record]],
    ) -> Result<Vec<Vec<Encoded<'a>>>, StoreError> {
        let mut seen = HashSet::new();
        let mut points = HashMap::new();
        let mut fresh = Vec::with_capacity(batch.len());
        let mut left_out = Vec::new();
        for &records in batch {
            let ids: Vec<ChunkId> = records.iter().filter_map(chunk_id).collect();
            let mut known = self.catalogue.locate_usable(tenant, &ids)?.into_iter();
            let mut keep = Vec::with_capacity(records.len());
            for record in records {
                if let Some(id) = chunk_id(record) {
                    let stored = known.next().flatten().is_some();
                    if stored {
                        left_out.push(id);
                    }
                    if stored || !seen.insert(id) {
                        continue;
                    }
                }
                if let Record::Point(point) = record
                    && let Ok(public) = point.manifest.public()
                {
                    if self.catalogue.was_deleted(tenant, public.point)? {
                        return Err(StoreError::PointTaken(public.point));
                    }
                    let stored = self.catalogue.point(tenant, public.point)?;
                    let earlier = stored.map(|(manifest, _)| manifest);
                    match earlier.or_else(|| points.get(&public.point).cloned()) {
                        Some(earlier) if earlier == point.manifest => continue,
                        Some(_) => return Err(StoreError::PointTaken(public.point)),
                        None => drop(points.insert(public.point, point.manifest.clone())),
                    }
                    self.check_whole(tenant, &public)?;
                }
                let (id, body) = record.encode().map_err(StoreError::Storage)?;
                keep.push((record, id, body));
            }
            fresh.push(keep);
        }
        // Who brought them is told that they are stored: they stay as if they came now.
        let now = relevo_wire::Timestamp::now();
        let free = self.catalogue.unreferenced_of(tenant, now, &left_out)?;
        if !free.is_empty() {
            self.catalogue
                .transaction(|c| c.renew_unreferenced(tenant, &free))?;
        }
        Ok(fresh)
    }

    /// A point comes in only while what it refers to is there and all that is below was found.
    /// Nothing is removed between this and the point's entry: both are the writer's.
    fn check_whole(&self, tenant: TenantId, public: &PublicManifest) -> Result<(), StoreError> {
        for (ids, nodes) in [(&public.roots, true), (&public.inventory, false)] {
            for ids in ids.chunks(1024) {
                let found = self.catalogue.locate_usable(tenant, ids)?;
                let whole = |at: &Option<Located>| at.is_some_and(|at| at.complete || !nodes);
                if !found.iter().all(whole) {
                    return Err(StoreError::NotWhole(public.point));
                }
            }
        }
        Ok(())
    }

    /// Step 1. What was begun stands in `written`, also after an error.
    fn write_entries<'a>(
        &mut self,
        tenant: TenantId,
        fresh: &[Vec<Encoded<'a>>],
        written: &mut Vec<Written<'a>>,
    ) -> Result<(), StoreError> {
        let mut buffer = Vec::new();
        for (record, id, body) in fresh.iter().flatten() {
            let full = written.last().is_some_and(|w| w.to >= self.roll_at);
            if full || written.is_empty() {
                if let Some(last) = written.last() {
                    self.flush(last, &mut buffer)?;
                    self.make_durable(last)?;
                }
                written.push(self.next_pack(tenant, full)?);
            }
            let Some(pack) = written.last_mut() else {
                continue;
            };
            let (base, begin) = (pack.to - buffer.len() as u64, buffer.len());
            pack.records.push(Placed {
                offset: pack.to,
                record,
            });
            push_entry(
                &mut buffer,
                base,
                &pack.header.salt,
                record.kind(),
                *id,
                body,
            );
            pack.end = End::of(pack.to, &buffer[begin..]);
            pack.to = base + buffer.len() as u64;
            if buffer.len() >= WRITE_PIECE {
                self.flush(pack, &mut buffer)?;
            }
        }
        match written.last() {
            Some(last) => self.flush(last, &mut buffer),
            None => Ok(()),
        }
    }

    fn flush(&self, pack: &Written<'_>, buffer: &mut Vec<u8>) -> Result<(), StoreError> {
        let id = pack.header.pack;
        let at = pack.to - buffer.len() as u64;
        self.volume
            .write_at(id, at, buffer)
            .map_err(|e| StoreError::io(format_args!("write to pack {id}"), &e))?;
        buffer.clear();
        Ok(())
    }

    /// The pack that takes the next entry: the newest while it has room, else a new one. A new
    /// one's header is durable before anything follows it, so that a pack longer than its
    /// header has one.
    fn next_pack<'a>(&mut self, tenant: TenantId, full: bool) -> Result<Written<'a>, StoreError> {
        let active = match self.active.get(&tenant) {
            Some(active) if !full && active.length < self.roll_at => *active,
            _ => self.new_pack(tenant)?,
        };
        Ok(Written {
            header: active.header,
            from: active.length,
            to: active.length,
            records: Vec::new(),
            end: None,
        })
    }

    fn new_pack(&mut self, tenant: TenantId) -> Result<Active, StoreError> {
        let highest = self.highest.get(&tenant).copied().unwrap_or(0);
        let number = highest.checked_add(1).ok_or_else(|| {
            StoreError::Storage(format!("tenant {tenant} has a pack of the highest number"))
        })?;
        let header = PackHeader::new(self.vault, PackId { tenant, number });
        let pack = header.pack;
        let made = self
            .volume
            .create(pack)
            .and_then(|()| self.volume.write_at(pack, 0, &header.encode()))
            .and_then(|()| self.volume.sync(pack))
            .and_then(|()| self.volume.sync_directory(tenant));
        if let Err(error) = made {
            // An empty file is passed over and used next; so is half a header.
            let _ = self.volume.truncate(pack, 0);
            return Err(StoreError::io(format_args!("begin pack {pack}"), &error));
        }
        let active = Active {
            header,
            length: FIRST_ENTRY,
        };
        self.highest.insert(tenant, number);
        self.active.insert(tenant, active);
        Ok(active)
    }

    /// Step 2.
    fn make_durable(&mut self, pack: &Written<'_>) -> Result<(), StoreError> {
        let id = pack.header.pack;
        self.volume.sync(id).map_err(|error| {
            // Nothing is known of this pack's pages any more: go on in a new one.
            self.active.remove(&id.tenant);
            StoreError::io(format_args!("sync pack {id}"), &error)
        })
    }

    /// Undoes a batch that failed; when even that fails, the store must not go on.
    fn take_back(&mut self, written: &[Written<'_>]) {
        for pack in written {
            let id = pack.header.pack;
            let cut = self
                .volume
                .truncate(id, pack.from)
                .and_then(|()| self.volume.sync(id));
            if let Err(error) = cut {
                tracing::error!(pack = %id, %error, "entries that failed could not be cut off");
                self.read_only = Some(format!("pack {id} could not be cut back: {error}"));
            }
        }
    }

    /// Step 3.
    fn catalogue_entries(
        &mut self,
        tenant: TenantId,
        written: &[Written<'_>],
    ) -> Result<(), StoreError> {
        let done = self.catalogue.transaction(|catalogue| {
            for pack in written {
                catalogue.take(pack.header.pack, pack.to, &pack.records)?;
                if let Some(end) = pack.end {
                    catalogue.set_end(pack.header.pack, end)?;
                }
            }
            Ok::<_, StoreError>(())
        });
        if let Err(error) = done {
            self.behind = true;
            return Err(error);
        }
        if let Some(last) = written.last() {
            let active = Active {
                header: last.header,
                length: last.to,
            };
            self.active.insert(tenant, active);
        }
        Ok(())
    }

    /// Notes nodes below which everything was found. Saves work only, so that it may be lost.
    pub fn mark_complete(
        &self,
        tenant: TenantId,
        epoch: i64,
        ids: &[ChunkId],
    ) -> Result<(), StoreError> {
        self.catalogue
            .transaction(|catalogue| catalogue.mark_complete(tenant, epoch, ids))
    }

    /// Begins a new pack at this size rather than at [`ROLL_AT`].
    pub fn set_roll_at(&mut self, bytes: u64) {
        self.roll_at = bytes;
    }

    /// True when all packs were read since it was opened: the catalogue knew nothing of them, or
    /// was found not to fit them.
    pub fn has_read_all(&self) -> bool {
        self.read_all
    }

    /// The catalogue's connection of the writer.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }
}

type Encoded<'a> = (&'a Record, [u8; 32], bytes::Bytes);

fn chunk_id(record: &Record) -> Option<ChunkId> {
    match record {
        Record::Chunk(chunk) => Some(chunk.id()),
        _ => None,
    }
}
