//! Heals what checking found damaged.
//!
//! The work list is the catalogue's table of losses: every place in a pack where something was,
//! and the chunk when it is known. The order, for each tenant:
//!
//! 1. **Parity** makes the bytes themselves anew ([`parity`](mod@crate::parity)). What is
//!    intact then, or was all the time, leaves the list.
//! 2. **Another vault** of the same tenant gives chunks by their ids (`elsewhere`); so does
//!    the **catalogue** recovery points and all other records. They are stored again at the end
//!    of the newest pack, which is their place from then on.
//! 3. Chunks that are still lost are **forgotten**: the epoch ends, and agents that have them
//!    send them at their next run.
//! 4. What is stored elsewhere, read back and hashed, is **covered** by a void in the damaged
//!    place, and leaves the list. A pack of which nothing is missed any more is retired.
//!
//! So each step only adds, until what the next takes away is known to be elsewhere; interrupted
//! anywhere it is done again from the list. Bytes of which nobody can tell what they were (they
//! were damaged before the catalogue read them) stay on the list, and hold the collection of
//! that tenant back, until somebody gives them up; so do packs that are missing, which may come
//! back.

mod covering;
mod elsewhere;
mod report;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};

use relevo_wire::chunk::CheckedChunk;
use relevo_wire::{ChunkId, TenantId, Timestamp, VaultId};

use crate::catalogue::{EntryContent, Loss};
use crate::error::StoreError;
use crate::ledger::{Ledger, open_pack_header, take_away};
use crate::parity::{self, BLOCK};
use crate::record::Record;
use crate::settings::HealFrom;
use crate::store::Store;
use crate::verify::check_pack;
use crate::volume::{PackId, Volume};

pub use report::{Healed, Left, text};

/// All offsets of a pack.
const WHOLE: std::ops::Range<u64> = 0..i64::MAX as u64;
/// Chunks that are fetched and stored again together.
const BATCH: usize = 64;

/// What healing works with.
pub struct Healer<'a, V> {
    /// Packs and catalogue, open.
    pub store: &'a Store<V>,
    /// The vault.
    pub vault: VaultId,
    /// Other vaults.
    pub heal_from: &'a [HealFrom],
    /// Go on without packs that are missing and without bytes of which nobody can tell what
    /// they were.
    pub give_up: bool,
}

impl<V: Volume> Healer<'_, V> {
    /// Works the list off, tenant by tenant.
    pub fn heal(&self) -> Result<Healed, StoreError> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut healed = Healed::default();
        let dropped = self.lost_parity();
        told(dropped, "parity whose header is lost", &mut healed)?;
        for tenant in self.store.read(|c| c.tenants())? {
            let done = self.heal_tenant(tenant, &mut healed);
            told(done, &format!("tenant {tenant}"), &mut healed)?;
        }
        Ok(healed)
    }

    fn heal_tenant(&self, tenant: TenantId, healed: &mut Healed) -> Result<(), StoreError> {
        if self.losses(tenant)?.is_empty() {
            return Ok(());
        }
        let steps = self.take_steps(tenant, healed);
        for loss in self.open(tenant)? {
            let pack = id(tenant, loss.pack);
            healed.left.push(Left {
                pack: pack.to_string(),
                offset: loss.offset,
                length: loss.length,
                chunk: loss.id.map(|id| id.to_string()),
            });
        }
        steps
    }

    /// The order that the module's page gives.
    fn take_steps(&self, tenant: TenantId, healed: &mut Healed) -> Result<(), StoreError> {
        self.by_parity(tenant, healed)?;
        self.look_again(tenant, healed)?;
        self.chunks_from_elsewhere(tenant, healed)?;
        let known = self.records_again(tenant, healed)?;
        self.forget(tenant, healed)?;
        self.cover(tenant, &known, healed)
    }

    /// Only covers what is stored elsewhere by now. Cheap: for every now and then.
    pub fn cover_stored_again(&self) -> Result<Healed, StoreError> {
        let mut healed = Healed::default();
        for tenant in self.store.read(|c| c.tenants())? {
            let covered = self.cover(tenant, &BTreeSet::new(), &mut healed);
            told(covered, &format!("tenant {tenant}"), &mut healed)?;
        }
        Ok(healed)
    }

    fn losses(&self, tenant: TenantId) -> Result<Vec<Loss>, StoreError> {
        self.store.read(|c| c.losses(tenant))
    }

    /// Losses of which something is missed still.
    fn open(&self, tenant: TenantId) -> Result<Vec<Loss>, StoreError> {
        self.store.read(|c| c.open_losses(tenant))
    }

    fn clear(&self, pack: PackId, offset: u64) -> Result<(), StoreError> {
        self.store
            .read(|c| c.transaction(|c| c.clear_loss(pack, offset)))
    }

    /// Parity whose header is lost protects nothing: its packs are to join another group.
    fn lost_parity(&self) -> Result<(), StoreError> {
        let volume = &**self.store.volume();
        for (file, reason) in parity::groups(volume, self.vault, None)?.lost {
            tracing::warn!(%file, reason, "parity is dropped, and will be made anew");
            parity::drop_file(volume, file)?;
        }
        Ok(())
    }

    /// Step 1.
    fn by_parity(&self, tenant: TenantId, healed: &mut Healed) -> Result<(), StoreError> {
        let volume = &**self.store.volume();
        let retired: HashSet<PackId> = self.store.read(|c| c.retired())?.into_iter().collect();
        let losses = self.losses(tenant)?;
        for group in parity::groups(volume, self.vault, Some(tenant))?.usable {
            let columns: Vec<std::ops::Range<u32>> = losses
                .iter()
                .filter(|loss| group.slot(id(tenant, loss.pack)).is_some())
                .map(|loss| match loss.length {
                    0 => 0..group.columns,
                    length => {
                        let block = BLOCK as u64;
                        let column = |at: u64| (at / block).min(group.columns.into()) as u32;
                        let behind = loss.offset.saturating_add(length).saturating_add(block);
                        column(loss.offset)..column(behind)
                    }
                })
                .collect();
            if columns.is_empty() {
                continue;
            }
            for columns in columns {
                let restored = parity::heal(volume, &group, columns)?;
                healed.blocks += restored.restored;
                healed.packs.extend(restored.files);
                for (pack, offset, length) in restored.beyond {
                    let text = format!(
                        "pack {pack}: {length} bytes at {offset} are more than the parity can heal"
                    );
                    if !healed.failures.contains(&text) {
                        healed.failures.push(text);
                    }
                }
            }
            // Its bytes were of use until now: the damage kept it from leaving the group.
            for (_, pack, _) in group.members().filter(|m| retired.contains(&m.1)) {
                if let Err(error) = take_away(volume, self.vault, pack) {
                    healed.failures.push(error.to_string());
                }
            }
        }
        Ok(())
    }

    /// What is intact leaves the list; what is damaged is on it, entry by entry.
    fn look_again(&self, tenant: TenantId, healed: &mut Healed) -> Result<(), StoreError> {
        let mut packs: BTreeMap<u32, Vec<Loss>> = BTreeMap::new();
        for loss in self.losses(tenant)? {
            packs.entry(loss.pack).or_default().push(loss);
        }
        for (number, losses) in packs {
            let pack = id(tenant, number);
            let Some(scanned) = self.store.read(|c| c.pack_scanned(pack))? else {
                if self.store.read(|c| c.was_retired(pack))? {
                    for loss in losses {
                        self.clear(pack, loss.offset)?;
                    }
                } else if open_pack_header(&**self.store.volume(), self.vault, pack)?.is_ok() {
                    // Nobody has read it: what it refers to still looks as if nothing did.
                    healed.failures.push(format!(
                        "pack {pack} is back: restart the vault, which then reads it"
                    ));
                }
                continue;
            };
            let volume = self.store.volume().clone();
            volume.drop_cached(pack);
            if open_pack_header(&*volume, self.vault, pack)?.is_err() {
                let aside = move |ledger: &mut Ledger<V>| {
                    ledger.set_aside(pack);
                    Ok(())
                };
                self.store.in_writer(aside)?;
            }
            // Before the list forgets it: what is on no list may be collected.
            self.store
                .in_writer(move |ledger| ledger.take_back_in(pack))?;
            let check = self
                .store
                .read(|c| check_pack(&*volume, self.vault, c, pack, scanned))?;
            let damaged: Vec<_> = check.damage.iter().flat_map(|d| &d.entries).collect();
            self.store.read(|c| {
                c.transaction(|c| {
                    for loss in &losses {
                        let hit = damaged.iter().any(|e| e.offset == loss.offset);
                        // A chunk that is stored elsewhere is no damage any more, and is still
                        // to be covered.
                        let elsewhere = match loss.id {
                            Some(id) => c
                                .locate(tenant, &[id])?
                                .iter()
                                .flatten()
                                .any(|at| (at.pack, at.offset) != (loss.pack, loss.offset)),
                            None => false,
                        };
                        if !hit && !elsewhere {
                            c.clear_loss(pack, loss.offset)?;
                        }
                    }
                    check.damage.iter().try_for_each(|damage| damage.note(c))?;
                    match check.damage.is_empty() {
                        true => c.set_checked(pack.into(), Some(Timestamp::now())),
                        false => Ok(()),
                    }
                })
            })?;
        }
        Ok(())
    }

    /// Chunks whose place is damaged, or gone while something refers to them; with the loss.
    fn lost_chunks(&self, tenant: TenantId) -> Result<Vec<(Loss, ChunkId)>, StoreError> {
        let mut lost = Vec::new();
        for loss in self.losses(tenant)? {
            let ids: Vec<ChunkId> = match (loss.id, loss.length) {
                (Some(id), _) => vec![id],
                (None, 0) => {
                    let pack = id(tenant, loss.pack);
                    self.store.read(|c| c.chunks_within(pack, 0..u64::MAX))?
                }
                (None, _) => continue,
            };
            let states = self.store.read(|c| c.states(tenant, &ids))?;
            for (id, state) in ids.into_iter().zip(states) {
                let wanted = match state.place {
                    Some(at) => {
                        at.pack == loss.pack && (loss.length == 0 || at.offset == loss.offset)
                    }
                    None => state.refs > 0,
                };
                if wanted {
                    lost.push((loss, id));
                }
            }
        }
        Ok(lost)
    }

    /// Step 2, chunks.
    fn chunks_from_elsewhere(
        &self,
        tenant: TenantId,
        healed: &mut Healed,
    ) -> Result<(), StoreError> {
        if self.heal_from.is_empty() {
            return Ok(());
        }
        let lost = self.lost_chunks(tenant)?;
        let mut wanted: Vec<ChunkId> = lost.into_iter().map(|(_, id)| id).collect();
        for source in self.heal_from {
            for batch in std::mem::take(&mut wanted).chunks(BATCH) {
                let found = match elsewhere::fetch(source, tenant, batch) {
                    Ok(found) => found,
                    Err(reason) => {
                        if !healed.failures.contains(&reason) {
                            healed.failures.push(reason);
                        }
                        Vec::new()
                    }
                };
                let got: HashSet<ChunkId> = found.iter().map(CheckedChunk::id).collect();
                wanted.extend(batch.iter().filter(|id| !got.contains(id)));
                if found.is_empty() {
                    continue;
                }
                healed.fetched += found.len() as u64;
                let records: Vec<Record> = found.into_iter().map(Record::Chunk).collect();
                self.store
                    .in_writer(move |ledger| ledger.store_again(tenant, &records))?;
            }
        }
        Ok(())
    }

    /// Step 2, recovery points and other records. Places of which all is stored elsewhere then.
    fn records_again(
        &self,
        tenant: TenantId,
        healed: &mut Healed,
    ) -> Result<BTreeSet<(u32, u64)>, StoreError> {
        let mut known = BTreeSet::new();
        let mut others = false;
        for loss in self.losses(tenant)?.into_iter().filter(|l| l.id.is_none()) {
            let pack = id(tenant, loss.pack);
            let bytes = match loss.length {
                0 => 0..u64::MAX,
                length => loss.offset..loss.offset + length,
            };
            let entries = self.store.read(|c| c.entries_within(pack, bytes.clone()))?;
            let points: Vec<Record> = entries
                .iter()
                .filter_map(|entry| match &entry.what {
                    EntryContent::Point(point) => Some(Record::Point(point.clone())),
                    EntryContent::Chunk(_) => None,
                })
                .collect();
            let whole = loss.length != 0
                && points.len() == 1
                && entries
                    .iter()
                    .any(|e| (e.offset, e.size) == (loss.offset, loss.length));
            if !points.is_empty() {
                healed.records += points.len() as u64;
                self.store
                    .in_writer(move |ledger| ledger.store_again(tenant, &points))?;
            }
            if whole {
                known.insert((loss.pack, loss.offset));
            } else if self.give_up || !self.store.read(|c| c.is_unsure(pack, bytes))? {
                // The catalogue read these bytes when they were intact, and has what they said.
                others = true;
                known.insert((loss.pack, loss.offset));
            }
        }
        if others {
            let records = self.store.read(|c| c.records_again(tenant))?;
            healed.records += records.len() as u64;
            self.store
                .in_writer(move |ledger| ledger.store_again(tenant, &records))?;
        }
        Ok(known)
    }

    /// Step 3.
    fn forget(&self, tenant: TenantId, healed: &mut Healed) -> Result<(), StoreError> {
        let mut packs: BTreeMap<u32, Vec<ChunkId>> = BTreeMap::new();
        for (loss, chunk) in self.lost_chunks(tenant)? {
            if loss.length != 0 || self.give_up {
                packs.entry(loss.pack).or_default().push(chunk);
            }
        }
        for (number, ids) in packs {
            let pack = id(tenant, number);
            healed.forgotten += self
                .store
                .in_writer(move |ledger| ledger.forget(pack, WHOLE, &ids))?
                as u64;
        }
        Ok(())
    }
}

/// One tenant's trouble is told, and is no other's; unless nothing more can be written.
fn told(done: Result<(), StoreError>, what: &str, healed: &mut Healed) -> Result<(), StoreError> {
    match done {
        Err(error @ (StoreError::Stopped | StoreError::ReadOnly(_))) => Err(error),
        Err(error) => {
            tracing::error!(what, %error, remedy = error.remedy(), "not healed");
            healed.failures.push(format!("{what}: {error}"));
            healed.cut_short = true;
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn id(tenant: TenantId, number: u32) -> PackId {
    PackId { tenant, number }
}
