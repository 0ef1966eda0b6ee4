//! Damaged segments: an error that names the file, or the right answer; never a wrong one.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use relevo_wire::{ChunkId, TenantId};

use super::layout::{BLOCK, FOOTER, Shape};
use super::*;
use crate::record::ChunkKind;

const RECORDS: u64 = 200;

fn changes() -> Vec<Change> {
    let mut changes: Vec<Change> = (0..RECORDS)
        .map(|n| Change {
            id: ChunkId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes()),
            place: match n % 5 {
                0 => Place::Removed,
                1 => Place::Unchanged,
                2 => Place::Lost(ChunkKind::Node(1)),
                _ => Place::At(Spot {
                    pack: 1 + n as u32,
                    offset: 8192 + 16 * n,
                    length: 1000,
                    kind: ChunkKind::Data,
                }),
            },
            refs: n as i64 - 100,
        })
        .collect();
    changes.sort_unstable_by_key(|change| change.id);
    changes
}

fn file(dir: &Path, changes: &[Change]) -> Vec<u8> {
    let mut writer = SegmentWriter::create(dir, TenantId::random(), 1).unwrap();
    changes.iter().for_each(|c| writer.push(c).unwrap());
    std::fs::read(writer.finish().unwrap().path()).unwrap()
}

/// Everything that can be asked of a file. True when all of it was answered.
fn ask(bytes: Vec<u8>, truth: &[Change]) -> bool {
    let name = Path::new("one.segment");
    let damaged = |error: IndexError| {
        assert!(error.to_string().contains("one.segment"), "{error}");
        assert!(matches!(error, IndexError::Damaged { .. }), "{error:?}");
    };
    let segment = match Segment::open_bytes(name, bytes) {
        Ok(segment) => Arc::new(segment),
        Err(error) => {
            damaged(error);
            return false;
        }
    };
    let mut whole = true;
    for (at, expected) in truth.iter().enumerate() {
        let mut found = None;
        match segment.look_up(&[expected.id], &mut |_, change| found = Some(change)) {
            Ok(()) => assert_eq!(found, Some(*expected), "the change at {at}"),
            Err(error) => {
                damaged(error);
                whole = false;
            }
        }
    }
    let read: Result<Vec<Change>, _> = segment.changes().collect();
    match read {
        Ok(read) => assert_eq!(read, truth),
        Err(error) => {
            damaged(error);
            whole = false;
        }
    }
    whole
}

#[test]
fn every_damaged_byte_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let truth = changes();
    let bytes = file(dir.path(), &truth);
    assert_eq!(bytes.len() as u64, Shape::new(RECORDS).file());
    assert!(ask(bytes.clone(), &truth));
    let tail = 3 * BLOCK;
    // All of what is read at opening, a stride that meets every field of the records.
    let places = (0..tail).step_by(29).chain(tail..bytes.len());
    for at in places {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(!ask(damaged, &truth), "the byte at {at}");
    }
}

#[test]
fn cut_lengthened_and_mixed_up_files_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let truth = changes();
    let bytes = file(dir.path(), &truth);
    for length in (0..bytes.len()).step_by(61).chain([bytes.len() - 1]) {
        assert!(!ask(bytes[..length].to_vec(), &truth), "cut to {length}");
    }
    let longer = [&[0; 48], &bytes[..]].concat();
    assert!(!ask(longer, &truth));
    let mut swapped = bytes.clone();
    swapped[..2 * BLOCK].rotate_left(BLOCK);
    assert!(!ask(swapped, &truth), "blocks at each other's place");
    let mut other = file(dir.path(), &truth);
    other[..BLOCK].copy_from_slice(&bytes[..BLOCK]);
    assert!(!ask(other, &truth), "a block of another file");
}

/// Guards later formats: the reader says which release is wanted rather than that of damage.
#[test]
fn a_newer_format_and_another_tenants_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = file(dir.path(), &changes());
    let at = bytes.len() - FOOTER;
    bytes[at + 8] = 2;
    let sum = *blake3::hash(&bytes[at..at + 128]).as_bytes();
    bytes[at + 128..].copy_from_slice(&sum);
    let opened = Segment::open_bytes(Path::new("a"), bytes.clone());
    assert!(matches!(
        opened.err(),
        Some(IndexError::Newer {
            found: 2,
            known: 1,
            ..
        })
    ));
    bytes[at + 8] = 1;
    let sum = *blake3::hash(&bytes[at..at + 128]).as_bytes();
    bytes[at + 128..].copy_from_slice(&sum);
    let tenant = TenantId::random();
    let path = segment::segment_path(dir.path(), tenant, 1);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
    let opened = Segment::open(dir.path(), tenant, 1).err().unwrap();
    assert!(matches!(opened, IndexError::Damaged { .. }), "{opened}");
    assert!(
        Segment::open(dir.path(), tenant, 2)
            .err()
            .unwrap()
            .is_gone()
    );
}

proptest! {
    /// Guards the reader against footers that are whole and lie.
    #[test]
    fn any_bytes_never_panic(
        body in proptest::collection::vec(any::<u8>(), 0..3000), records in 0..100u64, id: [u8; 32],
    ) {
        let footer = layout::Footer {
            version: 1,
            tenant: TenantId::random(),
            number: 1,
            records,
            salt: [0; 32],
            tail: *blake3::hash(&body[body.len().saturating_sub(Shape::new(records).tail() as usize)..]).as_bytes(),
        };
        let mut bytes = vec![0; (Shape::new(records).file() as usize).saturating_sub(body.len() + FOOTER)];
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&footer.encode());
        if let Ok(segment) = Segment::open_bytes(Path::new("a"), bytes) {
            let _ = segment.look_up(&[ChunkId::from_bytes(id)], &mut |_, _| {});
            let _ = Arc::new(segment).changes().count();
        }
    }
}
