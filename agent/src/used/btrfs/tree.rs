//! Trees: every block is the one that its parent means, or nothing of the file system is trusted.

use super::super::checksum::crc32c;
use super::super::volume::Volume;
use super::super::whole::{Seen, Whole, demand, le32, le64};
use super::chunks::Chunks;
use super::superblock::Superblock;

/// Bytes of a block's header, of an item's in a leaf, and of a child's in a node.
const HEADER: usize = 101;
const ITEM: usize = 25;
const CHILD: usize = 33;
/// Levels above leaves.
const DEEPEST: u8 = 7;

/// What an item is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub object: u64,
    pub kind: u8,
    pub offset: u64,
}

impl Key {
    const FIRST: Self = Self {
        object: 0,
        kind: 0,
        offset: 0,
    };
    /// No item has it.
    const LAST: Self = Self {
        object: u64::MAX,
        kind: u8::MAX,
        offset: u64::MAX,
    };
}

/// Where a tree begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// Logical address of its block.
    pub block: u64,
    pub level: u8,
    pub generation: u64,
}

impl Root {
    /// From a root item.
    pub fn of_item(item: &[u8]) -> Self {
        Self {
            block: le64(item, 176),
            level: item.get(238).copied().unwrap_or(u8::MAX),
            generation: le64(item, 160),
        }
    }
}

/// Reads trees.
pub struct Trees<'a> {
    pub volume: &'a Volume<'a>,
    pub s: &'a Superblock,
    pub chunks: &'a Chunks,
    /// Where addresses of blocks are noted, when they are wanted.
    pub nodes: Option<Vec<u64>>,
}

/// Takes an item: its key, and its bytes.
type Visit<'v> = &'v mut dyn FnMut(Key, &[u8]) -> Seen<()>;

impl Trees<'_> {
    /// Visits all items of a tree in order. Keys only grow, and a block's first key is its
    /// parent's for it: none comes twice.
    pub fn walk(&mut self, root: Root, visit: Visit<'_>) -> Seen<()> {
        let all = (Key::FIRST, Key::LAST);
        self.walk_between(root, all, visit)
    }

    /// Visits the items from `from` to before `to`, and some around them.
    pub fn walk_range(&mut self, root: Root, from: Key, to: Key, visit: Visit<'_>) -> Seen<()> {
        self.walk_between(root, (from, to), visit)
    }

    fn walk_between(&mut self, root: Root, range: (Key, Key), visit: Visit<'_>) -> Seen<()> {
        demand(root.level <= DEEPEST, "a tree is too deep")?;
        self.block(root, None, range, &mut None, visit)
    }

    fn block(
        &mut self,
        at: Root,
        key: Option<Key>,
        range: (Key, Key),
        last: &mut Option<Key>,
        visit: Visit<'_>,
    ) -> Seen<()> {
        let senseless = || Whole::new("a block of a tree makes no sense");
        let bytes = self.read(at)?;
        if let Some(nodes) = &mut self.nodes {
            nodes.push(at.block);
        }
        let count = le32(&bytes, 96) as usize;
        let size = if at.level == 0 { ITEM } else { CHILD };
        let entries = &bytes[HEADER..];
        // Only a tree without items has a block without them.
        let empty = key.is_none() && at.level == 0;
        if count > entries.len() / size || (count == 0 && !empty) {
            return Err(senseless());
        }
        let first = (count > 0).then(|| Key::read(entries));
        if key.is_some() && first != key {
            return Err(senseless());
        }
        let mut listed = entries.chunks_exact(size).take(count).peekable();
        while let Some(entry) = listed.next() {
            let own = Key::read(entry);
            if at.level > 0 {
                // A child ends where the next one begins.
                let behind = listed.peek().map(|next| Key::read(next));
                if own >= range.1 || behind.is_some_and(|next| next <= range.0) {
                    continue;
                }
                if last.is_some_and(|last| own <= last) {
                    return Err(senseless());
                }
                let child = Root {
                    block: le64(entry, 17),
                    level: at.level - 1,
                    generation: le64(entry, 25),
                };
                self.block(child, Some(own), range, last, &mut *visit)?;
                continue;
            }
            if last.replace(own).is_some_and(|last| own <= last) {
                return Err(senseless());
            }
            let (start, length) = (le32(entry, 17) as usize, le32(entry, 21) as usize);
            let item = entries.get(start..).and_then(|rest| rest.get(..length));
            visit(own, item.ok_or_else(senseless)?)?;
        }
        Ok(())
    }

    /// The first copy of a block that is the right one.
    fn read(&self, at: Root) -> Seen<Vec<u8>> {
        let end = at.block.checked_add(self.s.node);
        let end = end.ok_or(Whole::new("a tree lies nowhere"))?;
        let mut copies = Vec::new();
        self.chunks
            .locate(at.block, end, &mut |from, to| copies.push((from, to)));
        for (from, to) in copies {
            if to - from != self.s.node {
                continue;
            }
            let bytes = self.volume.bytes(from, self.s.node as usize)?;
            let right = !crc32c(!0, &bytes[32..]) == le32(&bytes, 0)
                && bytes[32..48] == self.s.uuid
                && le64(&bytes, 48) == at.block
                && le64(&bytes, 80) == at.generation
                && bytes[100] == at.level;
            if right {
                return Ok(bytes);
            }
        }
        Err(Whole::new(
            "a block of a tree is damaged or was overwritten",
        ))
    }
}
