//! Proves that everything below a manifest's roots is there.
//!
//! The walk goes from the roots down the clear part of the nodes. Levels must fall by one at
//! each step and end in data chunks: so it ends, however hostile the nodes are. A node below
//! which everything was found is noted, and no later walk goes below it again: a commit costs
//! what changed. Memory: one path of the tree, whatever the disk's size, and what is amiss.

use std::collections::HashSet;

use relevo_wire::ChunkId;
use relevo_wire::chunk::CheckedChunk;
use relevo_wire::index::NodeLinks;
use relevo_wire::manifest::PublicManifest;

use crate::catalogue::Located;
use crate::error::StoreError;
use crate::record::ChunkKind;

/// Nodes with something missing below that one walk remembers; with more it ends early.
const MAX_BROKEN: usize = 64 * 1024;

/// Where a walk finds chunks.
pub trait Shelf {
    /// Where the chunks are, in the order asked.
    fn locate(&mut self, ids: &[ChunkId]) -> Result<Vec<Option<Located>>, StoreError>;
    /// A node's bytes; nothing when they are damaged and the walk shall go on.
    fn read(&mut self, id: ChunkId, at: Located) -> Result<Option<CheckedChunk>, StoreError>;
    /// True when everything below the node was found before.
    fn is_complete(&self, id: ChunkId, at: &Located) -> bool;
    /// Everything below the node was found.
    fn set_complete(&mut self, id: ChunkId);
}

/// What is amiss with a recovery point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A chunk is not there.
    Missing(ChunkId),
    /// A chunk is not what its place in the tree demands.
    Misplaced(ChunkId, &'static str),
}

impl Fault {
    /// The chunk.
    pub fn chunk(&self) -> ChunkId {
        match self {
            Self::Missing(id) | Self::Misplaced(id, _) => *id,
        }
    }
}

#[derive(Clone, Copy)]
enum Place {
    Root,
    Below(ChunkKind),
}

struct Walk<'a, S> {
    shelf: &'a mut S,
    limit: usize,
    faults: Vec<Fault>,
    faulty: HashSet<ChunkId>,
    broken: HashSet<ChunkId>,
}

/// All that is amiss below a manifest, at most `limit` things; nothing when it is complete.
pub fn faults<S: Shelf>(
    shelf: &mut S,
    manifest: &PublicManifest,
    limit: usize,
) -> Result<Vec<Fault>, StoreError> {
    let mut walk = Walk {
        shelf,
        limit: limit.max(1),
        faults: Vec::new(),
        faulty: HashSet::new(),
        broken: HashSet::new(),
    };
    walk.children(&manifest.roots, Place::Root)?;
    for ids in manifest.inventory.chunks(1024) {
        walk.children(ids, Place::Below(ChunkKind::Data))?;
    }
    Ok(walk.faults)
}

impl<S: Shelf> Walk<'_, S> {
    /// True when all of these and what is below them are there.
    fn children(&mut self, ids: &[ChunkId], place: Place) -> Result<bool, StoreError> {
        let mut whole = true;
        let found = self.shelf.locate(ids)?;
        for (&id, located) in ids.iter().zip(found) {
            if self.faults.len() >= self.limit || self.broken.len() >= MAX_BROKEN {
                return Ok(false);
            }
            whole &= match located {
                Some(at) => self.chunk(id, at, place)?,
                None => self.fault(Fault::Missing(id)),
            };
        }
        Ok(whole)
    }

    fn chunk(&mut self, id: ChunkId, at: Located, place: Place) -> Result<bool, StoreError> {
        let level = match (place, at.kind) {
            (Place::Below(ChunkKind::Data), ChunkKind::Data) => return Ok(true),
            (Place::Below(ChunkKind::Data), ChunkKind::Node(_)) => {
                return Ok(self.fault(Fault::Misplaced(id, "a node stands where data should be")));
            }
            (_, ChunkKind::Data) => {
                return Ok(self.fault(Fault::Misplaced(id, "data stands where a node should be")));
            }
            (Place::Below(expected), kind) if expected != kind => {
                return Ok(self.fault(Fault::Misplaced(id, "the node is of a wrong level")));
            }
            (_, ChunkKind::Node(level)) => level,
        };
        if self.shelf.is_complete(id, &at) {
            return Ok(true);
        }
        if self.broken.contains(&id) {
            return Ok(false);
        }
        let Some(node) = self.shelf.read(id, at)? else {
            return Ok(self.fault(Fault::Missing(id)));
        };
        let ids: Vec<ChunkId> = match NodeLinks::parse(&node) {
            Ok(links) if links.level() == level => links.ids().collect(),
            _ => return Ok(self.fault(Fault::Misplaced(id, "it is no index node"))),
        };
        let below = match level.checked_sub(1) {
            Some(level) => ChunkKind::Node(level),
            None => ChunkKind::Data,
        };
        let whole = self.children(&ids, Place::Below(below))?;
        if whole {
            self.shelf.set_complete(id);
        } else {
            self.broken.insert(id);
        }
        Ok(whole)
    }

    fn fault(&mut self, fault: Fault) -> bool {
        if self.faulty.insert(fault.chunk()) {
            self.faults.push(fault);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;
    use relevo_wire::index::MAX_LEVEL;
    use relevo_wire::manifest::{MANIFEST_VERSION, RunTotals};
    use relevo_wire::{PointId, ServerId, Timestamp};

    #[derive(Default)]
    struct Memory {
        chunks: HashMap<ChunkId, CheckedChunk>,
        complete: HashSet<ChunkId>,
        reads: usize,
    }

    impl Memory {
        fn add(&mut self, bytes: Vec<u8>) -> ChunkId {
            let chunk = CheckedChunk::of(bytes.into());
            self.chunks.insert(chunk.id(), chunk.clone());
            chunk.id()
        }

        fn node(&mut self, level: u8, children: &[ChunkId]) -> ChunkId {
            let mut bytes = vec![2, level];
            bytes.extend_from_slice(&(children.len() as u16).to_le_bytes());
            children
                .iter()
                .for_each(|id| bytes.extend_from_slice(id.as_bytes()));
            self.add(bytes)
        }
    }

    impl Shelf for Memory {
        fn locate(&mut self, ids: &[ChunkId]) -> Result<Vec<Option<Located>>, StoreError> {
            let located = |id| {
                let kind = ChunkKind::of(self.chunks.get(id)?).ok()?;
                Some(Located {
                    pack: 1,
                    offset: 0,
                    length: 0,
                    kind,
                    complete: false,
                })
            };
            Ok(ids.iter().map(located).collect())
        }
        fn read(&mut self, id: ChunkId, _: Located) -> Result<Option<CheckedChunk>, StoreError> {
            self.reads += 1;
            Ok(self.chunks.get(&id).cloned())
        }
        fn is_complete(&self, id: ChunkId, _: &Located) -> bool {
            self.complete.contains(&id)
        }
        fn set_complete(&mut self, id: ChunkId) {
            self.complete.insert(id);
        }
    }

    fn manifest(roots: Vec<ChunkId>, inventory: Vec<ChunkId>) -> PublicManifest {
        PublicManifest {
            version: MANIFEST_VERSION,
            server: ServerId::random(),
            point: PointId::random(),
            taken: Timestamp::from_millis(0),
            roots,
            inventory,
            totals: RunTotals::default(),
        }
    }

    /// Guards the promise that a point which can be seen can be recovered.
    #[test]
    fn each_missing_chunk_is_named_and_the_second_walk_reads_only_what_is_new() {
        let mut shelf = Memory::default();
        let data: Vec<_> = (0..20u8).map(|i| shelf.add(vec![1, i])).collect();
        let leaves: Vec<_> = data.chunks(4).map(|ids| shelf.node(0, ids)).collect();
        let root = shelf.node(1, &leaves);
        let gone = shelf.chunks.remove(&data[9]).unwrap();
        let manifest = manifest(vec![root], vec![data[0]]);
        let found = faults(&mut shelf, &manifest, 100).unwrap();
        assert_eq!(found, vec![Fault::Missing(data[9])]);
        assert_eq!(shelf.reads, 6);
        shelf.chunks.insert(gone.id(), gone);
        assert!(faults(&mut shelf, &manifest, 100).unwrap().is_empty());
        assert_eq!(
            shelf.reads, 8,
            "only the root and the leaf that was not whole"
        );
        assert!(faults(&mut shelf, &manifest, 100).unwrap().is_empty());
        assert_eq!(shelf.reads, 8, "nothing below a complete root");
    }

    #[test]
    fn nodes_that_lie_about_their_level_are_misplaced() {
        let mut shelf = Memory::default();
        let data = shelf.add(vec![1, 0]);
        let leaf = shelf.node(0, &[data]);
        for lie in [
            shelf.node(0, &[leaf]),
            shelf.node(1, &[data]),
            shelf.node(2, &[leaf]),
            data,
        ] {
            let found = faults(&mut shelf, &manifest(vec![lie], vec![]), 10).unwrap();
            assert!(matches!(found[..], [Fault::Misplaced(..)]), "{found:?}");
        }
        let found = faults(&mut shelf, &manifest(vec![], vec![leaf]), 10).unwrap();
        assert_eq!(found.len(), 1);
    }

    /// Guards the vault's time: 1024 children repeated on each of 7 levels are 10²¹ paths.
    #[test]
    fn a_tree_of_repeated_children_costs_its_distinct_nodes() {
        for missing in [false, true] {
            let mut shelf = Memory::default();
            let mut child = shelf.add(vec![1]);
            if missing {
                shelf.chunks.clear();
            }
            for level in 0..=MAX_LEVEL {
                child = shelf.node(level, &[child; 1024]);
            }
            let found = faults(&mut shelf, &manifest(vec![child], vec![]), 10).unwrap();
            assert_eq!(found.len(), usize::from(missing));
            assert_eq!(shelf.reads, usize::from(MAX_LEVEL) + 1);
        }
    }

    proptest! {
        #[test]
        fn any_graph_of_nodes_is_walked_without_panic(
            nodes in proptest::collection::vec((0u8..8, proptest::collection::vec(any::<prop::sample::Index>(), 0..6)), 1..20),
        ) {
            let mut shelf = Memory::default();
            let mut ids = vec![shelf.add(vec![1])];
            for (level, children) in nodes {
                let children: Vec<_> = children.iter().map(|i| ids[i.index(ids.len())]).collect();
                ids.push(shelf.node(level, &children));
            }
            let _ = faults(&mut shelf, &manifest(ids, vec![]), 10).unwrap();
        }
    }
}
