//! Says where on a server's disk damage lies, as far as a vault without keys can.
//!
//! A vault sees which nodes refer to a chunk, and in which order a node's children come; not
//! which of its slots are zeros. A node that has as many children as it has slots gives the
//! place to the span; one with fewer gives a range. Within a span of 4 MiB the place is sealed.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use relevo_wire::ChunkId;
use relevo_wire::index::{FANOUT, NodeLinks, SPAN};
use relevo_wire::manifest::PublicManifest;

use crate::completeness::Shelf;
use crate::error::StoreError;

/// Places that are named for each recovery point.
const NAMED: usize = 100;
/// Nodes of one recovery point that are remembered to hold nothing of what is looked for; with
/// more they are walked again.
const REMEMBERED: usize = 1 << 20;

/// Where on a disk a lost chunk belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The chunk.
    pub chunk: ChunkId,
    /// The disk: the how-manieth root of the manifest, from 0.
    pub disk: usize,
    /// First byte that may be hit.
    pub from: u64,
    /// Behind the last.
    pub to: u64,
    /// True when the range is one span, or as many as a lost node describes: all of it is hit,
    /// or for a data chunk some of it. Else zeros hide where in the range it is: a recovery site,
    /// which has the keys, can tell.
    pub exact: bool,
}

/// The spans that a node may describe: the first of the range is between the two.
#[derive(Clone, Copy)]
struct Reach {
    lowest: u64,
    highest: u64,
}

struct Walk<'a, S> {
    shelf: &'a mut S,
    lost: &'a HashSet<ChunkId>,
    /// Nodes below which nothing is lost.
    clean: HashSet<ChunkId>,
    /// Spans of all disks together: no disk has more.
    spans: u64,
    disk: usize,
    places: Vec<Place>,
}

/// Where below a manifest the lost chunks belong; at most 100 places.
pub fn places<S: Shelf>(
    shelf: &mut S,
    manifest: &PublicManifest,
    lost: &HashSet<ChunkId>,
) -> Result<Vec<Place>, StoreError> {
    let mut walk = Walk {
        shelf,
        lost,
        clean: HashSet::new(),
        spans: manifest.totals.disk.div_ceil(SPAN).max(1),
        disk: 0,
        places: Vec::new(),
    };
    for (disk, root) in manifest.roots.iter().enumerate() {
        walk.disk = disk;
        let reach = Reach {
            lowest: 0,
            highest: 0,
        };
        let level = level_for(walk.spans);
        walk.node(*root, reach, level)?;
    }
    Ok(walk.places)
}

/// Level of the root of a disk of so many spans.
fn level_for(spans: u64) -> u8 {
    relevo_wire::index::depth(spans.saturating_mul(SPAN))
}

fn spans_below(level: u8) -> u64 {
    (FANOUT as u64).saturating_pow(level.into())
}

impl<S: Shelf> Walk<'_, S> {
    /// True when nothing below is lost. `level` is what the node should have.
    fn node(&mut self, id: ChunkId, reach: Reach, level: u8) -> Result<bool, StoreError> {
        if self.clean.contains(&id) {
            return Ok(true);
        }
        if self.places.len() >= NAMED {
            return Ok(false);
        }
        let found = self.shelf.locate(&[id])?.into_iter().next().flatten();
        let node = match found {
            Some(at) if !self.lost.contains(&id) => self.shelf.read(id, at)?,
            _ => None,
        };
        let links = node.as_ref().and_then(|node| NodeLinks::parse(node).ok());
        let Some(links) = links else {
            self.hit(id, reach, spans_below(level));
            return Ok(false);
        };
        let level = links.level();
        let ids: Vec<ChunkId> = links.ids().collect();
        let clean = match level.checked_sub(1) {
            None => self.leaf(&ids, reach)?,
            Some(below) => self.inner(&ids, reach, below)?,
        };
        if clean {
            if self.clean.len() >= REMEMBERED {
                self.clean.clear();
            }
            self.clean.insert(id);
        }
        Ok(clean)
    }

    fn leaf(&mut self, ids: &[ChunkId], reach: Reach) -> Result<bool, StoreError> {
        let mut clean = true;
        let found = self.shelf.locate(ids)?;
        for (id, located) in ids.iter().zip(found) {
            if located.is_none() || self.lost.contains(id) {
                clean = false;
                self.hit(*id, reach, 1);
            }
        }
        Ok(clean)
    }

    fn inner(&mut self, ids: &[ChunkId], reach: Reach, below: u8) -> Result<bool, StoreError> {
        let unit = spans_below(below);
        let slots = self
            .spans
            .saturating_sub(reach.lowest)
            .div_ceil(unit)
            .min(FANOUT as u64);
        let slack = slots.saturating_sub(ids.len() as u64);
        let mut clean = true;
        for (at, id) in ids.iter().enumerate() {
            let at = at as u64;
            let child = Reach {
                lowest: reach.lowest + at * unit,
                highest: reach.highest + (at + slack) * unit,
            };
            clean &= self.node(*id, child, below)?;
        }
        Ok(clean)
    }

    fn hit(&mut self, chunk: ChunkId, reach: Reach, spans: u64) {
        if self.places.len() >= NAMED {
            return;
        }
        let last = reach.highest.saturating_add(spans).min(self.spans);
        self.places.push(Place {
            chunk,
            disk: self.disk,
            from: reach.lowest.saturating_mul(SPAN),
            to: last.max(reach.lowest + 1).saturating_mul(SPAN),
            exact: reach.lowest == reach.highest,
        });
    }
}

/// Chunks of an inventory belong to no disk.
pub fn in_inventory(manifest: &PublicManifest, lost: &HashSet<ChunkId>) -> bool {
    manifest.inventory.iter().any(|id| lost.contains(id))
}

/// Places of one disk in words, neighbours put together.
pub fn text(places: &[Place]) -> Vec<String> {
    let mut ranges: HashMap<(usize, bool), Vec<(u64, u64)>> = HashMap::new();
    for place in places {
        let ranges = ranges.entry((place.disk, place.exact)).or_default();
        match ranges.last_mut() {
            Some((from, to)) if place.from <= *to && place.from >= *from => {
                *to = place.to.max(*to);
            }
            _ => ranges.push((place.from, place.to)),
        }
    }
    let mut lines: Vec<String> = Vec::new();
    for ((disk, exact), ranges) in ranges {
        for (from, to) in ranges {
            let sure = match exact {
                true => "",
                false => " (somewhere in it)",
            };
            lines.push(format!("disk {disk}, bytes {from} to {}{sure}", to - 1));
        }
    }
    lines.sort();
    lines
}
