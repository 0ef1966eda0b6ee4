#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use relevo_wire::chunk::{CheckedChunk, Chunk, Compressor, SealedChunk};
use relevo_wire::chunker;
use relevo_wire::index::TreeBuilder;
use relevo_wire::key::TenantSecret;

use super::*;
use crate::image::source::Source;

const SECRET: TenantSecret = TenantSecret::from_bytes([9; 32]);
/// Two spans and a bit, so that the last one is short.
const SIZE: usize = 2 * SPAN as usize + 300_000;

/// A disk with data, zeros within spans and a whole span of zeros.
fn content() -> Vec<u8> {
    let mut disk = vec![0; SIZE];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for (at, byte) in disk.iter_mut().enumerate() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let is_zero = at / (SPAN as usize) == 1 || (200_000..900_000).contains(&at);
        if !is_zero {
            *byte = (state >> 56) as u8 | 1;
        }
    }
    disk
}

/// The disk's image, with every chunk already in a store that could fetch none.
fn imaged(disk: &[u8]) -> PointDisk {
    let store = ChunkStore::new(Source::unconnected(), 64 << 20);
    let put_node = |node: SealedChunk| {
        let opened = Node::open(&CheckedChunk::from(&node), &node.key()).unwrap();
        store.keep_node(node.id(), opened);
    };
    let mut tree = TreeBuilder::new(SECRET, disk.len() as u64);
    for span in disk.chunks(SPAN as usize) {
        let mut extents = Vec::new();
        for range in chunker::cut(span) {
            let (plain, length) = (&span[range.clone()], range.len() as u32);
            if plain.iter().all(|b| *b == 0) {
                extents.push(Extent::Zero { length });
                continue;
            }
            let sealed = Chunk::new(&SECRET, plain).seal(&mut Compressor::new());
            store.keep_data(sealed.id(), plain);
            let chunk = ChunkRef {
                id: sealed.id(),
                key: sealed.key(),
            };
            extents.push(Extent::Data { length, chunk });
        }
        let is_zero = extents.iter().all(|e| matches!(e, Extent::Zero { .. }));
        let leaf = (!is_zero).then(|| {
            let leaf = Node::Leaf(extents).seal(&SECRET);
            let reference = ChunkRef {
                id: leaf.id(),
                key: leaf.key(),
            };
            put_node(leaf);
            reference
        });
        tree.push(leaf, &mut |node| put_node(node));
    }
    let root = tree.finish(&mut |node| put_node(node));
    PointDisk::new(store.clone(), root, disk.len() as u64)
}

/// Guards the way from an offset to its bytes: any range, across chunks, spans and zeros.
#[test]
fn reads_what_was_imaged_at_any_offset() {
    let disk = content();
    let point = imaged(&disk);
    let config = ProptestConfig::with_cases(300);
    let offsets = (0..SIZE, 0usize..200_000);
    proptest!(config, |((offset, length) in offsets)| {
        let length = length.min(SIZE - offset);
        let mut buf = vec![0xaa; length];
        point.read_at(offset as u64, &mut buf).unwrap();
        prop_assert!(buf == disk[offset..offset + length], "{offset} + {length}");
    });
    let mut all = vec![0xaa; SIZE];
    point.read_at(0, &mut all).unwrap();
    assert!(all == disk);
    assert!(point.read_at(SIZE as u64, &mut [0]).is_err());
}

/// Guards readers side by side, as a guest's requests are.
#[test]
fn several_threads_read_at_once() {
    let disk = content();
    let point = imaged(&disk);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (point, disk) = (&point, &disk);
            scope.spawn(move || {
                let mut buf = vec![0; 64 << 10];
                for at in (thread * 4096..SIZE - buf.len()).step_by(511 << 10) {
                    point.read_at(at as u64, &mut buf).unwrap();
                    assert!(buf == disk[at..at + buf.len()], "at {at}");
                }
            });
        }
    });
}

/// Guards that sequential readers are served ahead, others are not, and never beyond the end.
#[test]
fn only_sequential_readers_are_read_ahead_for() {
    let point = PointDisk::new(ChunkStore::new(Source::unconnected(), 1), None, 100 << 20);
    assert_eq!(point.plan_ahead(0, 4096), None);
    assert_eq!(point.plan_ahead(50 << 20, 4096), None);
    assert_eq!(
        point.plan_ahead(4096, 4096),
        Some((8192, 8192 + FIRST_AHEAD))
    );
    assert_eq!(point.plan_ahead(8192, 4096), None, "enough is on its way");
    let end = 100 << 20;
    assert_eq!(point.plan_ahead(end - 8192, 4096), None);
    assert_eq!(
        point.plan_ahead(end - 4096, 4096),
        None,
        "nothing is beyond the end"
    );
}

/// Guards against an index that lies about lengths.
#[test]
fn a_leaf_of_the_wrong_length_is_refused() {
    let store = ChunkStore::new(Source::unconnected(), 1 << 20);
    let leaf = Node::Leaf(vec![Extent::Zero { length: 4096 }]).seal(&SECRET);
    let reference = ChunkRef {
        id: leaf.id(),
        key: leaf.key(),
    };
    store.keep_node(
        leaf.id(),
        Node::open(&CheckedChunk::from(&leaf), &leaf.key()).unwrap(),
    );
    let root = Node::Inner {
        level: 1,
        children: vec![Some(reference)],
    }
    .seal(&SECRET);
    store.keep_node(
        root.id(),
        Node::open(&CheckedChunk::from(&root), &root.key()).unwrap(),
    );
    let root = ChunkRef {
        id: root.id(),
        key: root.key(),
    };
    let disk = PointDisk::new(store.clone(), Some(root), 8192);
    let error = disk.read_at(0, &mut [0; 512]).unwrap_err();
    assert!(
        error.to_string().contains("4096 of the span's 8192"),
        "{error}"
    );
}

/// Guards against an index in which two places give one chunk different lengths.
#[test]
fn a_chunk_of_two_lengths_is_refused() {
    let store = ChunkStore::new(Source::unconnected(), 1 << 20);
    let sealed = Chunk::new(&SECRET, &[7; 4096]).seal(&mut Compressor::new());
    store.keep_data(sealed.id(), &[7; 4096]);
    let chunk = ChunkRef {
        id: sealed.id(),
        key: sealed.key(),
    };
    let extents = [4096, 8192].map(|length| Extent::Data { length, chunk });
    let leaf = Node::Leaf(extents.to_vec()).seal(&SECRET);
    let reference = ChunkRef {
        id: leaf.id(),
        key: leaf.key(),
    };
    let opened = Node::open(&CheckedChunk::from(&leaf), &leaf.key()).unwrap();
    store.keep_node(leaf.id(), opened);
    let root = Node::Inner {
        level: 1,
        children: vec![Some(reference)],
    }
    .seal(&SECRET);
    let opened = Node::open(&CheckedChunk::from(&root), &root.key()).unwrap();
    store.keep_node(root.id(), opened);
    let root = ChunkRef {
        id: root.id(),
        key: root.key(),
    };
    let disk = PointDisk::new(store, Some(root), 12288);
    let error = disk.read_at(8192, &mut [0; 512]).unwrap_err();
    assert!(error.to_string().contains("4096 bytes as 8192"), "{error}");
}
