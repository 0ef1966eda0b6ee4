//! What is known of chunks: recent rows over the segments of the chunk index.
//!
//! A row says what changed since the newest segment, as each segment does since the next older
//! one (see [`crate::index`]). `pack` −1: the place is unchanged. `pack` 0: there is none; a
//! `kind` other than 0 says that the chunk was a node.

use std::cell::{Cell, RefCell};

use rusqlite::{OptionalExtension, params};

use relevo_wire::{ChunkId, TenantId};

use super::Catalogue;
use crate::error::StoreError;
use crate::index::{Change, IndexError, Layers, Merge, Place, Spot, State};
use crate::record::ChunkKind;

/// How often a reader starts again when a segment was merged away under it.
const ATTEMPTS: u32 = 20;

/// What a connection remembers while it is in a transaction that writes: then nobody else
/// changes which segments there are.
#[derive(Default)]
pub(super) struct InTransaction {
    pub entered: Cell<bool>,
    layers: RefCell<Option<(i64, Layers)>>,
}

impl InTransaction {
    pub fn set(&self, entered: bool) {
        self.entered.set(entered);
        self.layers.replace(None);
    }
}

/// How deep to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// As far as it takes to know the places.
    Place,
    /// All layers, which counts the references.
    All,
}

/// What the columns of a place say.
fn place_of(pack: i64, offset: i64, length: u32, kind: i64) -> Place {
    let kind = ChunkKind::from_number(kind);
    match u32::try_from(pack) {
        Err(_) => Place::Unchanged,
        Ok(0) if kind == ChunkKind::Data => Place::Removed,
        Ok(0) => Place::Lost(kind),
        Ok(pack) => Place::At(Spot {
            pack,
            offset: offset as u64,
            length,
            kind,
        }),
    }
}

fn columns_of(place: Place) -> (i64, i64, u32, i64) {
    match place {
        Place::Unchanged => (-1, 0, 0, 0),
        Place::Removed => (0, 0, 0, 0),
        Place::Lost(kind) => (0, 0, 0, kind.number()),
        Place::At(spot) => (
            spot.pack.into(),
            spot.offset as i64,
            spot.length,
            spot.kind.number(),
        ),
    }
}

impl Catalogue {
    /// Runs `work` on one state of the catalogue, again when segments that this state names
    /// were merged away before they were opened.
    pub(super) fn consistently<T>(
        &self,
        work: impl Fn(&Self) -> Result<T, ReadError>,
    ) -> Result<T, StoreError> {
        let mut attempt = 0;
        loop {
            let own = self.db.is_autocommit();
            if own {
                self.db.execute_batch("BEGIN")?;
            }
            let done = work(self);
            if own {
                // It only read: how it ends changes nothing.
                self.db.execute_batch("COMMIT")?;
            }
            attempt += 1;
            match done {
                Ok(value) => return Ok(value),
                Err(ReadError::Index(error)) if own && error.is_gone() && attempt < ATTEMPTS => {}
                Err(ReadError::Index(error)) => return Err(error.into()),
                Err(ReadError::Store(error)) => return Err(error),
            }
        }
    }

    /// What is known of a chunk.
    pub(super) fn chunk(&self, tenant: i64, id: ChunkId) -> Result<State, StoreError> {
        let states = self.consistently(|this| this.look_up(tenant, &[id], Depth::All))?;
        Ok(states.first().copied().unwrap_or_default())
    }

    /// What is known of chunks, in the order asked. Within [`consistently`](Self::consistently).
    pub(super) fn look_up(
        &self,
        tenant: i64,
        ids: &[ChunkId],
        depth: Depth,
    ) -> Result<Vec<State>, ReadError> {
        let mut query = self.db.prepare_cached(
            "SELECT pack, offset, length, kind, refs FROM recent WHERE tenant = ?1 AND id = ?2",
        )?;
        let mut states = Vec::with_capacity(ids.len());
        for id in ids {
            let row = query.query_row(params![tenant, id.as_bytes()], |row| {
                Ok(State {
                    place: place_of(row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?),
                    refs: row.get(4)?,
                })
            });
            states.push(row.optional()?.unwrap_or_default());
        }
        let layers = self.layers(tenant)?;
        if layers.0.is_empty() {
            return Ok(states);
        }
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_unstable_by_key(|&at| ids[at]);
        let sorted: Vec<ChunkId> = order.iter().map(|&at| ids[at]).collect();
        let mut sorted_states: Vec<State> = order.iter().map(|&at| states[at]).collect();
        match depth {
            Depth::Place => layers.place(&sorted, &mut sorted_states)?,
            Depth::All => layers.complete(&sorted, &mut sorted_states)?,
        }
        for (&at, state) in order.iter().zip(sorted_states) {
            states[at] = state;
        }
        Ok(states)
    }

    /// The tenant's segments.
    pub(super) fn layers(&self, tenant: i64) -> Result<Layers, ReadError> {
        let kept = self.in_transaction.layers.borrow().clone();
        if let Some((_, layers)) = kept.filter(|(of, _)| *of == tenant) {
            return Ok(layers);
        }
        let mut query = self.db.prepare_cached(
            "SELECT t.id, s.number FROM segments s JOIN tenants t ON t.number = s.tenant
             WHERE s.tenant = ?1 ORDER BY s.layer DESC",
        )?;
        let rows = query.query_map([tenant], |row| {
            let number = row.get::<_, i64>(1)? as u64;
            Ok((TenantId::from_bytes(row.get(0)?), number))
        })?;
        let named: Vec<(TenantId, u64)> = rows.collect::<Result<_, _>>()?;
        let open = |&(tenant, number): &(TenantId, u64)| self.segments.get(tenant, number);
        let layers = Layers(named.iter().map(open).collect::<Result<_, _>>()?);
        self.segments.keep(&named);
        if self.in_transaction.entered.get() {
            let kept = Some((tenant, layers.clone()));
            self.in_transaction.layers.replace(kept);
        }
        Ok(layers)
    }

    /// Adds to what is known of a chunk. In a transaction.
    pub(super) fn change(&self, tenant: i64, change: &Change) -> Result<(), StoreError> {
        let (pack, offset, length, kind) = columns_of(change.place);
        let mut add = self.db.prepare_cached(match change.place {
            Place::Unchanged => {
                "INSERT INTO recent VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT DO UPDATE SET refs = refs + ?7"
            }
            _ => {
                "INSERT INTO recent VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT DO UPDATE SET
                 pack = ?3, offset = ?4, length = ?5, kind = ?6, refs = refs + ?7"
            }
        })?;
        let id = change.id.as_bytes();
        add.execute(params![tenant, id, pack, offset, length, kind, change.refs])?;
        self.note_rows(tenant, 1);
        Ok(())
    }

    /// Deletes a chunk's row when it says nothing.
    pub(super) fn sweep(&self, tenant: i64, id: ChunkId) -> Result<(), StoreError> {
        let lowest = match self.has_segments(tenant)? {
            true => -1,
            false => 0,
        };
        self.db
            .prepare_cached(
                "DELETE FROM recent
                 WHERE tenant = ?1 AND id = ?2 AND pack <= ?3 AND kind = 0 AND refs = 0",
            )?
            .execute(params![tenant, id.as_bytes(), lowest])?;
        Ok(())
    }

    pub(super) fn has_segments(&self, tenant: i64) -> Result<bool, StoreError> {
        Ok(self
            .db
            .prepare_cached("SELECT 1 FROM segments WHERE tenant = ?1")?
            .exists([tenant])?)
    }

    /// A tenant's recent rows, in order.
    pub(super) fn recent(&self, tenant: i64) -> Result<Vec<Change>, StoreError> {
        let mut query = self.db.prepare_cached(
            "SELECT id, pack, offset, length, kind, refs FROM recent WHERE tenant = ?1 ORDER BY id",
        )?;
        let rows = query.query_map([tenant], |row| {
            Ok(Change {
                id: ChunkId::from_bytes(row.get(0)?),
                place: place_of(row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?),
                refs: row.get(5)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Shows all of a tenant's chunks that have a place, in order. Slow: reads the whole index.
    pub(super) fn each_chunk(
        &self,
        tenant: i64,
        mut show: impl FnMut(ChunkId, Spot),
    ) -> Result<(), StoreError> {
        let (recent, layers) =
            self.consistently(|this| Ok((this.recent(tenant)?, this.layers(tenant)?)))?;
        let mut all: Vec<Box<dyn Iterator<Item = Result<Change, IndexError>>>> =
            vec![Box::new(recent.into_iter().map(Ok))];
        for segment in &layers.0 {
            all.push(Box::new(segment.changes()));
        }
        for change in Merge::new(all, true) {
            let change = change?;
            if let Place::At(spot) = change.place {
                show(change.id, spot);
            }
        }
        Ok(())
    }
}

/// Why a look-up failed. Apart from [`StoreError`], since a segment that is gone may only have
/// been merged away.
#[derive(Debug)]
pub(super) enum ReadError {
    Index(IndexError),
    Store(StoreError),
}

impl From<IndexError> for ReadError {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}
