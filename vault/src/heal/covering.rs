//! The last step: what is stored elsewhere is covered where it was damaged.

use std::collections::BTreeSet;

use relevo_wire::TenantId;

use super::{Healed, Healer, id};
use crate::error::StoreError;
use crate::ledger::{Cover, open_pack_header, take_away};
use crate::pack::ENTRY_HEADER;
use crate::parity;
use crate::volume::{PackId, Volume};

impl<V: Volume> Healer<'_, V> {
    /// Step 4. `known`: places without a chunk of which all is stored elsewhere, or given up.
    pub(super) fn cover(
        &self,
        tenant: TenantId,
        known: &BTreeSet<(u32, u64)>,
        healed: &mut Healed,
    ) -> Result<(), StoreError> {
        for loss in self.losses(tenant)? {
            let pack = id(tenant, loss.pack);
            let known = known.contains(&(loss.pack, loss.offset));
            if loss.length == 0 {
                if known {
                    self.retire(pack, healed)?;
                }
                continue;
            }
            if loss.length < ENTRY_HEADER as u64 {
                // Too few for an entry: whatever they are, nothing is lost with them.
                if self
                    .store
                    .in_writer(move |ledger| ledger.clear_padding(pack, loss.offset))?
                {
                    self.clear(pack, loss.offset)?;
                }
                continue;
            }
            let cover = match loss.id {
                Some(id) => {
                    let state = self.store.read(|c| c.states(tenant, &[id]))?;
                    match state.first() {
                        Some(state) if state.place.is_some() => Some(id),
                        // Nothing refers to it, and nobody will look for it here.
                        Some(state) if state.refs == 0 => None,
                        _ => continue,
                    }
                }
                None if known => None,
                None => continue,
            };
            // Parity that was made before would bring the damage back.
            let volume = &**self.store.volume();
            for group in parity::groups(volume, self.vault, Some(tenant))?.usable {
                if group.slot(pack).is_some() {
                    parity::drop_group(volume, &group)?;
                }
            }
            let cover = Cover {
                pack,
                offset: loss.offset,
                length: loss.length,
                id: cover,
            };
            if self
                .store
                .in_writer(move |ledger| ledger.cover_damage(cover))?
            {
                healed.covered += 1;
                self.clear(pack, loss.offset)?;
            }
        }
        Ok(())
    }

    /// A pack that cannot be used and of which nothing is missed: it says so in the packs, and
    /// what is left of its file goes.
    fn retire(&self, pack: PackId, healed: &mut Healed) -> Result<(), StoreError> {
        let volume = self.store.volume();
        if open_pack_header(&**volume, self.vault, pack)?.is_ok() {
            return Ok(());
        }
        if !self.store.read(|c| c.is_empty_pack(pack))? {
            return Ok(());
        }
        self.store.in_writer(move |ledger| {
            ledger.set_aside(pack);
            ledger.retire(pack)
        })?;
        take_away(&**volume, self.vault, pack)?;
        for loss in self.losses(pack.tenant)? {
            if loss.pack == pack.number && loss.id.is_none() {
                self.clear(pack, loss.offset)?;
            }
        }
        healed.retired.push(pack.to_string());
        Ok(())
    }
}
