//! What the vault was asked for and what it said: the oracle.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use relevo_wire::manifest::SealedManifest;
use relevo_wire::{ChunkId, PointId};

use crate::image::Image;

/// What is known of a recovery point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A commit was sent, of which no answer is known: there or not.
    Asked,
    /// The vault said that it stands.
    Acknowledged,
    /// A deletion was asked for, of which no answer is known: there or not.
    DeletionAsked,
    /// The vault said that it is gone.
    Deleted,
}

/// What is known of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// There is none.
    Free,
    /// There is one.
    Held,
    /// It was asked for or released, of which no answer is known.
    Unknown,
}

/// A recovery point as the world knows it.
#[derive(Clone)]
pub struct Promise {
    /// Whose disks.
    pub server: usize,
    /// What they held.
    pub image: Arc<Vec<Image>>,
    /// What was sent to be committed.
    pub manifest: SealedManifest,
    /// What was said.
    pub state: State,
    /// Whether it is held.
    pub held: Hold,
    /// Its lock does not end sooner, in the world's milliseconds; 0 when none was asked for.
    pub locked_until: u64,
}

/// All points that were ever asked for, and what was done to the disk beside crashes.
#[derive(Default)]
pub struct Promises {
    /// By id.
    pub points: BTreeMap<PointId, Promise>,
    /// Chunks of which bytes were damaged.
    pub hit_chunks: HashSet<ChunkId>,
    /// Points of which the entry was damaged.
    pub hit_points: BTreeSet<PointId>,
    /// Something else was damaged that can cost more: an enrolment, a deletion.
    pub hit_more: bool,
    /// Something is damaged, and not healed yet.
    pub damaged: bool,
    /// Something was damaged once: what began then may still end badly.
    pub ever_damaged: bool,
}

impl Promises {
    /// Something is damaged now.
    pub fn harm(&mut self) {
        self.damaged = true;
        self.ever_damaged = true;
    }

    /// All of it is as it was: from now on it excuses nothing.
    pub fn heal(&mut self) {
        self.hit_chunks.clear();
        self.hit_points.clear();
        self.hit_more = false;
        self.damaged = false;
    }

    /// Points with an acknowledgement that still counts.
    pub fn standing(&self) -> Vec<PointId> {
        let standing = |(id, promise): (&PointId, &Promise)| {
            (promise.state == State::Acknowledged).then_some(*id)
        };
        self.points.iter().filter_map(standing).collect()
    }
}
