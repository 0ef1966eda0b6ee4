//! What a layer of the index says of a chunk.

use relevo_wire::ChunkId;

use crate::record::ChunkKind;

/// Where a chunk's entry is, and what the chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Number of the pack, of the chunk's tenant.
    pub pack: u32,
    /// Where its entry begins in the pack: a multiple of 16.
    pub offset: u64,
    /// Bytes of the sealed chunk.
    pub length: u32,
    /// What it may be used as.
    pub kind: ChunkKind,
}

/// What a layer says of where a chunk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// What older layers say.
    #[default]
    Unchanged,
    /// Nowhere, whatever older layers say.
    Removed,
    /// Nowhere, as [`Removed`](Self::Removed); yet what the chunk is stays known.
    Lost(ChunkKind),
    /// There.
    At(Spot),
}

/// What a layer says of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which chunk.
    pub id: ChunkId,
    /// Where it is.
    pub place: Place,
    /// How many more refer to it than older layers say.
    pub refs: i64,
}

/// What all layers together say of a chunk; while not all were asked, what the newer ones say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Where it is.
    pub place: Place,
    /// How many refer to it.
    pub refs: i64,
}

impl State {
    /// Adds what the next older layer says.
    pub fn add_older(&mut self, place: Place, refs: i64) {
        if self.place == Place::Unchanged {
            self.place = place;
        }
        self.refs += refs;
    }

    /// Where the chunk is, when all layers were asked.
    pub fn spot(&self) -> Option<Spot> {
        match self.place {
            Place::At(spot) => Some(spot),
            Place::Unchanged | Place::Removed | Place::Lost(_) => None,
        }
    }

    /// What is to be written of it: nothing when it says nothing. `oldest`: there are no older
    /// layers, for which a removal would have to be kept.
    pub fn to_write(mut self, oldest: bool) -> Option<Self> {
        if oldest && self.place == Place::Removed {
            self.place = Place::Unchanged;
        }
        (self != Self::default()).then_some(self)
    }
}
