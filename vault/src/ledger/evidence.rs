//! What single entries of packs say, read again where the catalogue alone is not to be believed:
//! whoever could write into it must not be able to end a lock.

use relevo_wire::{PointId, TenantId};

use super::{Ledger, open_pack_header};
use crate::catalogue::PointPlace;
use crate::clock::VaultTime;
use crate::error::StoreError;
use crate::pack::{ENTRY_HEADER, EntryHeader, EntryKind, MAX_BODY};
use crate::record::Record;
use crate::volume::{PackId, Volume, read_exact};

impl<V: Volume> Ledger<V> {
    /// How far vault time has come by the furthest clock entry that is really there. When the
    /// catalogue claims more, the claim is left aside, and locks last longer rather than shorter.
    pub(super) fn proven_vault_time(&self) -> Result<VaultTime, StoreError> {
        let claimed = self.catalogue.vault_time()?;
        let mut proven = VaultTime::default();
        for place in self.catalogue.clock_places()? {
            match self.entry(place.pack, place.offset, EntryKind::Clock) {
                Ok(Record::Clock(clock)) if clock.time == place.time => {
                    proven = clock.time;
                    break;
                }
                Ok(_) => tracing::error!(pack = %place.pack, "a clock entry is not as catalogued"),
                Err(reason) => tracing::error!(reason, "a clock entry cannot be read"),
            }
        }
        if proven < claimed {
            tracing::error!(
                claimed = claimed.as_millis(),
                proven = proven.as_millis(),
                "the catalogue's vault time is not in the packs: locks last longer; run 'relevo-vault rebuild'"
            );
        }
        Ok(proven)
    }

    /// The lock in a point's own entry.
    pub(super) fn lock_in_pack(
        &self,
        tenant: TenantId,
        point: PointId,
        place: PointPlace,
    ) -> Result<VaultTime, String> {
        let number = place.pack;
        let pack = PackId { tenant, number };
        let Record::Point(record) = self.entry(pack, place.offset, EntryKind::Point)? else {
            return Err(elsewhere(pack, place.offset));
        };
        let public = record.manifest.public().map_err(|e| e.to_string())?;
        match public.point == point {
            true => Ok(record.locked.unwrap_or_default()),
            false => Err(elsewhere(pack, place.offset)),
        }
    }

    /// An entry of this kind, checked.
    fn entry(&self, pack: PackId, offset: u64, kind: EntryKind) -> Result<Record, String> {
        let header = open_pack_header(&*self.volume, self.vault, pack)
            .map_err(|e| e.to_string())?
            .map_err(|reason| format!("pack {pack}: {reason}"))?;
        let read = |at, length| {
            read_exact(&*self.volume, pack, at, length)
                .map_err(|e| format!("pack {pack} at {at}: {e}"))
        };
        let entry = EntryHeader::decode(&read(offset, ENTRY_HEADER)?, &header.salt, offset)
            .filter(|entry| entry.kind == kind as u8 && entry.length as usize <= MAX_BODY)
            .ok_or_else(|| elsewhere(pack, offset))?;
        let body = read(offset + ENTRY_HEADER as u64, entry.length as usize)?;
        Record::decode(kind, &entry.id, body).map_err(|e| format!("pack {pack} at {offset}: {e}"))
    }
}

fn elsewhere(pack: PackId, offset: u64) -> String {
    format!("pack {pack} at {offset} holds something else")
}
