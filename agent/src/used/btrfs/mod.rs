//! btrfs: what no chunk has, and what no extent has within chunks (Documentation/dev/On-disk
//! format of btrfs-progs).
//!
//! The trees of one generation are never overwritten while that is the newest, and every block
//! carries a checksum, its address, its generation and the key under which its parent has it. So
//! a mounted file system is read as well: when blocks were reused meanwhile, that is noticed, and
//! the newer generation is read. What was only synced into the log tree is in use too.

mod chunks;
mod proof;
mod superblock;
mod tree;

use super::area::Found;
use super::evidence::{Evidence, System};
use super::map::FreeRuns;
use super::volume::Volume;
use super::whole::{Seen, Whole, demand, le64};
use chunks::Chunks;
use superblock::Superblock;
use tree::{Key, Root, Trees};

const EXTENT_TREE: u64 = 2;
const CHECKSUM_TREE: u64 = 7;
/// -6: each log tree's root item stands under it.
const LOG_TREES: u64 = u64::MAX - 5;

const EXTENT_DATA: u8 = 108;
const ROOT_ITEM: u8 = 132;
const EXTENT_ITEM: u8 = 168;
const METADATA_ITEM: u8 = 169;

/// How often a file system that moves on meanwhile is read anew.
const TRIES: usize = 4;
/// Most runs that the log trees may have: a log is some seconds of work.
const MOST: usize = 1 << 18;

/// Frees what no chunk or no extent has. Where evidence is wanted, adds what there is of the same
/// generation; that there is none is no reason to read all.
pub fn survey(
    volume: &Volume<'_>,
    free: &mut FreeRuns,
    mut evidence: Option<&mut Evidence>,
) -> Seen<Found> {
    let mut reason = Whole::new("the file system moves on faster than it is read");
    for _ in 0..TRIES {
        volume.forget();
        let superblock = Superblock::read(volume)?;
        let mut more = evidence.is_some().then(Evidence::default);
        match generation(volume, &superblock, more.as_mut()) {
            Ok(found) => {
                *free = found;
                if let (Some(evidence), Some(more)) = (&mut evidence, more) {
                    evidence.merge(more);
                }
                return Ok(Found::default());
            }
            Err(why) => {
                volume.forget();
                if Superblock::read(volume)?.generation == superblock.generation {
                    return Err(why);
                }
                reason = why;
            }
        }
    }
    Err(reason)
}

/// What is free by the trees of one generation.
fn generation(
    volume: &Volume<'_>,
    s: &Superblock,
    evidence: Option<&mut Evidence>,
) -> Seen<FreeRuns> {
    let mut chunks = Chunks::first(s)?;
    let mut trees = Trees {
        volume,
        s,
        chunks: &chunks,
        nodes: None,
    };
    let mut all = Vec::new();
    trees.walk(s.chunk_root, &mut |key, item| {
        if key.kind == chunks::CHUNK_ITEM {
            all.push((key.offset, item.to_vec()));
        }
        demand(all.len() <= chunks::MOST, "there are too many chunks")
    })?;
    chunks = Chunks::all(s, &all)?;
    drop(all);
    let mut trees = Trees {
        volume,
        s,
        chunks: &chunks,
        nodes: None,
    };
    let (mut extents, mut checksums) = (None, None);
    trees.walk(s.root, &mut |key, item| {
        match (key.object, key.kind) {
            (EXTENT_TREE, ROOT_ITEM) => extents = Some(Root::of_item(item)),
            (CHECKSUM_TREE, ROOT_ITEM) => checksums = Some(Root::of_item(item)),
            _ => {}
        }
        Ok(())
    })?;
    let extents = extents.ok_or(Whole::new("there is no tree of extents"))?;
    let logged = logged(&mut trees, s)?;
    let mut gaps = Gaps::new(&chunks);
    trees.walk(extents, &mut |key, _| match key.kind {
        EXTENT_ITEM => gaps.used(key.object, key.offset),
        METADATA_ITEM => gaps.used(key.object, s.node),
        _ => Ok(()),
    })?;
    let (unused, used) = gaps.finish()?;
    demand(
        used == s.bytes_used,
        "the tree of extents and the superblock's count of used bytes differ",
    )?;
    if let (Some(evidence), Some(checksums)) = (evidence, checksums) {
        let roots = (extents, checksums);
        prove(&mut trees, s, &chunks, roots, evidence);
    }
    let mut free = FreeRuns::default();
    for (start, end) in unused.except(logged).runs() {
        chunks.locate(*start, *end, &mut |from, to| free.push(from, to));
    }
    for (start, end) in chunks.unallocated(s)? {
        free.push(start, end);
    }
    Ok(free.except(superblock::places().to_vec()))
}

/// Adds what proves extents; nothing when not all of that makes sense.
fn prove(
    trees: &mut Trees<'_>,
    s: &Superblock,
    chunks: &Chunks,
    roots: (Root, Root),
    to: &mut Evidence,
) {
    let volume = trees.volume;
    let mut found = Evidence::default();
    let proven = proof::extents(trees, s, chunks, roots, &mut |start, end, proof| {
        chunks.locate(start, end, &mut |from, to| {
            volume.locate(from, to, &mut |disk, from, to| {
                found.add(disk, from, to, proof);
            });
        });
    });
    if let Err(reason) = proven {
        tracing::info!("btrfs: what did not change is not known: {reason}");
        return;
    }
    let mut first = None;
    volume.locate(0, 1, &mut |disk, _, _| first = Some(disk));
    if let Some(disk) = first {
        let (uuid, generation) = (s.uuid, s.generation);
        found.systems.push(System {
            disk,
            uuid,
            generation,
        });
        to.merge(found);
    }
}

/// What the log trees have and are, in logical addresses.
fn logged(trees: &mut Trees<'_>, s: &Superblock) -> Seen<Vec<(u64, u64)>> {
    let Some(root) = s.log_root else {
        return Ok(Vec::new());
    };
    let mut roots = Vec::new();
    trees.nodes = Some(Vec::new());
    trees.walk(root, &mut |key, item| {
        if key.object == LOG_TREES && key.kind == ROOT_ITEM {
            roots.push(Root::of_item(item));
        }
        demand(roots.len() < MOST, "the log holds too much")
    })?;
    let mut runs = Vec::new();
    for root in roots {
        trees.walk(root, &mut |key, item| {
            // Regular and reserved extents; not what stands in the tree itself, and no holes.
            if key.kind == EXTENT_DATA && matches!(item.get(20), Some(1 | 2)) {
                let (start, length) = (le64(item, 21), le64(item, 29));
                let end = start.checked_add(length);
                let end = end.ok_or(Whole::new("an extent in the log makes no sense"))?;
                if start != 0 {
                    runs.push((start, end));
                }
            }
            demand(runs.len() < MOST, "the log holds too much")
        })?;
    }
    let nodes = trees.nodes.take().unwrap_or_default();
    demand(nodes.len() < MOST, "the log holds too much")?;
    runs.extend(nodes.into_iter().map(|node| (node, node + s.node)));
    Ok(runs)
}

/// What is between extents, which come in order, within chunks.
struct Gaps<'a> {
    chunks: &'a Chunks,
    /// Number of the chunk that is being filled.
    chunk: usize,
    /// Where the last extent in it ended.
    at: u64,
    used: u64,
    free: FreeRuns,
}

impl<'a> Gaps<'a> {
    fn new(chunks: &'a Chunks) -> Self {
        let at = chunks.logical(0).map_or(0, |(start, _)| start);
        let free = FreeRuns::default();
        Self {
            chunks,
            chunk: 0,
            at,
            used: 0,
            free,
        }
    }

    fn used(&mut self, start: u64, length: u64) -> Seen<()> {
        let senseless = || Whole::new("the tree of extents makes no sense");
        let end = start.checked_add(length).ok_or_else(senseless)?;
        while self
            .chunks
            .logical(self.chunk)
            .is_some_and(|(_, end)| end <= start)
        {
            self.leave();
        }
        let inside = self
            .chunks
            .logical(self.chunk)
            .is_some_and(|(_, stop)| end <= stop);
        if !inside || start < self.at || length == 0 {
            return Err(senseless());
        }
        self.free.push(self.at, start);
        self.at = end;
        self.used += length;
        Ok(())
    }

    fn leave(&mut self) {
        if let Some((_, end)) = self.chunks.logical(self.chunk) {
            self.free.push(self.at, end);
        }
        self.chunk += 1;
        if let Some((start, _)) = self.chunks.logical(self.chunk) {
            self.at = start;
        }
    }

    fn finish(mut self) -> Seen<(FreeRuns, u64)> {
        while self.chunks.logical(self.chunk).is_some() {
            self.leave();
        }
        Ok((self.free, self.used))
    }
}

impl Key {
    fn read(bytes: &[u8]) -> Self {
        Self {
            object: le64(bytes, 0),
            kind: bytes.get(8).copied().unwrap_or(0),
            offset: le64(bytes, 9),
        }
    }
}
