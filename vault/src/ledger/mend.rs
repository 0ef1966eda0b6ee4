//! What healing asks of the writer: to store again, to forget, to cover. Only here, so that
//! nothing is committed between the look and the deed.

use relevo_wire::{ChunkId, TenantId};

use super::{Encoded, Ledger, open_pack_header};
use crate::catalogue::{ChunkState, Placed};
use crate::error::StoreError;
use crate::pack::{ALIGN, ENTRY_HEADER, EntryHeader, EntryKind, FIRST_ENTRY, entry_size};
use crate::record::Record;
use crate::scan::scan;
use crate::store::read_chunk;
use crate::volume::{PackId, Volume, read_salvaging};

/// What the kernel writes at once.
const PAGE: usize = 4096;
/// The least that a disk fails to read: what lies beside it in a page is kept.
const SECTOR: usize = 512;

/// Damaged bytes that are to be covered by a void.
#[derive(Clone, Copy, Debug)]
pub struct Cover {
    /// Where.
    pub pack: PackId,
    /// Where the entry, or the run of lost entries, begins.
    pub offset: u64,
    /// All its bytes, header and padding included.
    pub length: u64,
    /// The chunk that was there; nothing when the caller knows that whatever was there is
    /// stored elsewhere, or is given up.
    pub id: Option<ChunkId>,
}

impl<V: Volume> Ledger<V> {
    /// Commits a recovery point whose completeness was proven in `epoch`. False, and nothing
    /// done, when chunks may have been forgotten since: then the proof is worth nothing.
    pub fn commit(
        &mut self,
        tenant: TenantId,
        point: &Record,
        epoch: i64,
    ) -> Result<bool, StoreError> {
        if self.catalogue.epoch()? != epoch {
            return Ok(false);
        }
        self.append(tenant, &[std::slice::from_ref(point)])?;
        Ok(true)
    }

    /// Writes records whatever is known of them: the new entry is their place from then on. What
    /// was found intact elsewhere so takes the place of what is damaged, at once and for all who
    /// refer to it; no epoch ends. Returns how many bytes of packs it took.
    pub fn store_again(&mut self, tenant: TenantId, records: &[Record]) -> Result<u64, StoreError> {
        self.make_ready()?;
        let mut fresh: Vec<Encoded<'_>> = Vec::with_capacity(records.len());
        for record in records {
            let (id, body) = record.encode().map_err(StoreError::Storage)?;
            fresh.push((record, id, body));
        }
        let appended = self.append_fresh(tenant, &[fresh])?;
        Ok(appended.iter().map(|a| a.bytes).sum())
    }

    /// Appends nothing more to a pack that is missing or cannot be used.
    pub fn set_aside(&mut self, pack: PackId) {
        if let Some(active) = self.active.get(&pack.tenant)
            && active.header.pack == pack
        {
            self.active.remove(&pack.tenant);
        }
    }

    /// Forgets chunks that have their place there, so that agents send them again. A new epoch
    /// begins when there was any. How many.
    pub fn forget(
        &mut self,
        pack: PackId,
        offsets: std::ops::Range<u64>,
        ids: &[ChunkId],
    ) -> Result<usize, StoreError> {
        self.make_ready()?;
        let there = |catalogue: &crate::catalogue::Catalogue| {
            let found = catalogue.locate(pack.tenant, ids)?;
            let here = found.iter().flatten();
            Ok::<_, StoreError>(
                here.filter(|at| at.pack == pack.number && offsets.contains(&at.offset))
                    .count(),
            )
        };
        self.catalogue.transaction(|catalogue| {
            let count = there(catalogue)?;
            catalogue.forget_chunks(pack, offsets.clone(), ids)?;
            Ok(count)
        })
    }

    /// Takes chunks in that stand in a pack and that the catalogue has no place for: a pack that
    /// came back. And whatever stands in a place on the list of losses that was damaged when the
    /// catalogue read the pack: it has never heard of that. How many.
    pub fn take_back_in(&mut self, pack: PackId) -> Result<usize, StoreError> {
        self.make_ready()?;
        let failed = |e: std::io::Error| StoreError::io(format_args!("read pack {pack}"), &e);
        let Ok(header) = open_pack_header(&*self.volume, self.vault, pack)? else {
            return Ok(0);
        };
        let known = self.catalogue.packs()?;
        let Some((_, scanned)) = known.into_iter().find(|(known, _)| *known == pack) else {
            return Ok(0);
        };
        let there = self.volume.length(pack).map_err(failed)?.min(scanned);
        let length = there.saturating_sub(FIRST_ENTRY) as usize;
        let read = read_salvaging(&*self.volume, pack, FIRST_ENTRY, length);
        let Ok((bytes, _)) = read else {
            return Ok(0);
        };
        let found = scan(&bytes, FIRST_ENTRY, &header.salt);
        let mut lost = self.catalogue.losses(pack.tenant)?;
        lost.retain(|loss| loss.pack == pack.number && loss.length > 0);
        let mut wanted = Vec::new();
        for entry in &found.entries {
            let Some(record) = &entry.record else {
                continue;
            };
            let offset = entry.offset;
            let was_lost = lost
                .iter()
                .any(|loss| (loss.offset..loss.offset + loss.length).contains(&offset));
            let take = match record {
                Record::Chunk(chunk) => {
                    let state = self.catalogue.states(pack.tenant, &[chunk.id()])?;
                    // One that nothing refers to was garbage, or will be sent again; unless what
                    // refers to it was lost with it.
                    let missing = |s: &ChunkState| s.place.is_none() && (s.refs > 0 || was_lost);
                    state.iter().any(missing)
                }
                _ => was_lost && self.catalogue.is_unsure(pack, offset..offset + 1)?,
            };
            if take {
                wanted.push(Placed { offset, record });
            }
        }
        if wanted.is_empty() {
            return Ok(0);
        }
        self.catalogue
            .transaction(|catalogue| catalogue.take(pack, scanned, &wanted))?;
        Ok(wanted.len())
    }

    /// Covers damaged bytes by a void, in their place. The order, of which each step must hold
    /// before the next:
    ///
    /// 1. The bytes are still damaged: an intact entry is never covered.
    /// 2. What was there is stored elsewhere: read from there and hashed, and synced, since the
    ///    catalogue names nothing that is not. (Without an id the caller answers for that.)
    /// 3. The void is written, and `fdatasync`ed.
    ///
    /// A crash leaves damaged bytes or a void. False when a step says no.
    pub fn cover_damage(&mut self, cover: Cover) -> Result<bool, StoreError> {
        self.make_ready()?;
        let Cover {
            pack,
            offset,
            length,
            id,
        } = cover;
        let fits = offset >= FIRST_ENTRY
            && offset.is_multiple_of(ALIGN as u64)
            && length.is_multiple_of(ALIGN as u64)
            && length >= ENTRY_HEADER as u64;
        let Ok(body) = u32::try_from(length.saturating_sub(ENTRY_HEADER as u64)) else {
            return Ok(false);
        };
        if !fits {
            return Ok(false);
        }
        let Ok(header) = open_pack_header(&*self.volume, self.vault, pack)? else {
            return Ok(false);
        };
        let there = self.volume.length(pack).unwrap_or(0);
        let read = read_salvaging(&*self.volume, pack, offset, length as usize);
        if let Ok((bytes, _)) = &read
            && !scan(bytes, offset, &header.salt).entries.is_empty()
        {
            return Ok(false);
        }
        if let Some(id) = id {
            let place = self
                .catalogue
                .locate(pack.tenant, &[id])?
                .into_iter()
                .next();
            let Some(place) = place.flatten() else {
                return Ok(false);
            };
            let here = place.pack == pack.number && place.offset == offset;
            if here || read_chunk(&*self.volume, pack.tenant, id, place).is_err() {
                return Ok(false);
            }
        }
        let void = EntryHeader {
            kind: EntryKind::Void as u8,
            length: body,
            id: [0; 32],
        };
        debug_assert_eq!(entry_size(body as usize), length);
        // Whole pages, zeros in the void: what the disk could not read it then writes elsewhere,
        // and a pack that was cut short has its length again.
        let from = offset - offset % PAGE as u64;
        let to = (offset + length).next_multiple_of(PAGE as u64);
        let to = to.min(there.max(offset + length));
        let mut bytes = vec![0; (to - from) as usize];
        for (number, sector) in bytes.chunks_mut(SECTOR).enumerate() {
            let at = from + (number * SECTOR) as u64;
            if self.volume.read_at(pack, at, sector).is_err() {
                sector.fill(0);
            }
        }
        let body = (offset - from) as usize;
        bytes[body..body + length as usize].fill(0);
        bytes[body..body + ENTRY_HEADER].copy_from_slice(&void.encode(&header.salt, offset));
        self.volume
            .write_at(pack, from, &bytes)
            .and_then(|()| self.volume.sync(pack))
            .map_err(|e| StoreError::io(format_args!("write to pack {pack}"), &e))?;
        Ok(true)
    }

    /// Makes zeros again of the bytes between two entries. False when they are something else.
    pub fn clear_padding(&mut self, pack: PackId, offset: u64) -> Result<bool, StoreError> {
        self.make_ready()?;
        let failed = |e: std::io::Error| StoreError::io(format_args!("mend pack {pack}"), &e);
        let Ok(header) = open_pack_header(&*self.volume, self.vault, pack)? else {
            return Ok(false);
        };
        let length = self.volume.length(pack).map_err(failed)?;
        let length = length.saturating_sub(FIRST_ENTRY) as usize;
        let (bytes, _) =
            read_salvaging(&*self.volume, pack, FIRST_ENTRY, length).map_err(failed)?;
        let found = scan(&bytes, FIRST_ENTRY, &header.salt);
        let Some(gap) = found
            .gaps
            .iter()
            .find(|gap| gap.offset == offset && gap.length < ALIGN as u64)
        else {
            return Ok(false);
        };
        self.volume
            .write_at(pack, offset, &[0; ALIGN][..gap.length as usize])
            .and_then(|()| self.volume.sync(pack))
            .map_err(failed)?;
        Ok(true)
    }
}
