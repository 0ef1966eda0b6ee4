//! Empties a pack into the tenant's newest one and takes it away.
//!
//! The order, and why a crash between any two steps loses nothing:
//!
//! 1. [`carry_over`](Ledger::carry_over), as often as it takes: live entries are appended to the
//!    newest pack, synced and catalogued as any append is. A crash leaves entries twice; of two
//!    the later one counts, and the pack is only emptier when it is taken up again.
//! 2. [`retire`](Ledger::retire): the catalogue, by which nothing has its place in the pack any
//!    more, is made durable: whatever a crash leaves of it, it never again names the pack for
//!    anything. Then a `retired` entry is appended, synced and catalogued. From here on the pack
//!    is gone, whether its file is there or not: who opens the vault does not read it.
//! 3. [`take_away`], not in the writer: parity is brought to a form without the pack, its file is
//!    unlinked, the directory synced. A crash before leaves a file that the next opening takes
//!    away.
//!
//! The number is never used again: it is known from the `retired` entry, and that stands in a
//! pack with a higher number.

use relevo_wire::{ChunkId, TenantId, Timestamp, VaultId};

use super::Ledger;
use crate::catalogue::Unreferenced;
use crate::error::StoreError;
use crate::parity;
use crate::record::{Record, RetiredRecord};
use crate::volume::{PackId, Volume};

impl<V: Volume> Ledger<V> {
    /// Appends those of a pack's entries, given with their offsets, that nothing has taken the
    /// place of by now. How many bytes that took.
    pub fn carry_over(
        &mut self,
        pack: PackId,
        entries: &[(u64, Record)],
    ) -> Result<u64, StoreError> {
        self.make_ready()?;
        self.refuse_newest(pack)?;
        let mut live = Vec::with_capacity(entries.len());
        for (offset, record) in entries {
            if self.catalogue.carries(pack, *offset, record)? {
                let (id, body) = record.encode().map_err(StoreError::Storage)?;
                live.push((record, id, body));
            }
        }
        if live.is_empty() {
            return Ok(0);
        }
        let answers = self.append_fresh(pack.tenant, &[live])?;
        Ok(answers.iter().map(|appended| appended.bytes).sum())
    }

    /// Takes a pack away, all entries of which were carried over or are dead, or which is lost
    /// and not missed.
    pub fn retire(&mut self, pack: PackId) -> Result<(), StoreError> {
        self.make_ready()?;
        self.refuse_newest(pack)?;
        if !self.catalogue.is_empty_pack(pack)? {
            return Err(StoreError::Storage(format!(
                "pack {pack} is not taken away: the catalogue still needs it"
            )));
        }
        self.catalogue.make_durable()?;
        let record = Record::Retired(RetiredRecord {
            pack: pack.number,
            retired: Timestamp::now(),
        });
        self.append_judged(pack.tenant, &[&[record]])?;
        Ok(())
    }

    /// Removes chunks from the catalogue, see [`Catalogue::remove_unreferenced`]. Not before all
    /// that the packs hold is in it: a point may be among that, and refer to them.
    ///
    /// [`Catalogue::remove_unreferenced`]: crate::catalogue::Catalogue::remove_unreferenced
    pub fn remove_unreferenced(
        &mut self,
        tenant: TenantId,
        before: Timestamp,
        floor: Option<Timestamp>,
        gone: &[(Unreferenced, Vec<ChunkId>)],
    ) -> Result<(u64, u64), StoreError> {
        self.make_ready()?;
        self.catalogue
            .transaction(|c| c.remove_unreferenced(tenant, before, floor, gone))
    }

    /// The pack that takes what others lose is never emptied itself.
    fn refuse_newest(&self, pack: PackId) -> Result<(), StoreError> {
        let active = self.active.get(&pack.tenant);
        match active.is_some_and(|active| active.header.pack == pack) {
            // One that takes no more is followed by another with the next entry.
            false => Ok(()),
            true => Err(StoreError::Storage(format!(
                "pack {pack} is its tenant's newest and is not rewritten"
            ))),
        }
    }
}

/// Takes a pack's file away whose retirement is durable. Costs the reading of its parity.
pub fn take_away<V: Volume>(volume: &V, vault: VaultId, pack: PackId) -> Result<(), StoreError> {
    parity::before_retire(volume, vault, pack)?;
    volume
        .remove(pack)
        .and_then(|()| volume.sync_directory(pack.tenant))
        .map_err(|e| StoreError::io(format_args!("remove pack {pack}"), &e))
}
