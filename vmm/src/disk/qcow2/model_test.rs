//! Guards the disk against a plain vector: whatever is done in whatever order, both read the
//! same, the image needs no repair, and nothing is leaked once it is closed.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use proptest::prelude::*;

use super::testing::{Make, Recorded, blank, check, content};
use super::{Backing, Image};

#[derive(Debug, Clone)]
pub(super) enum Step {
    Write(u64, u64, u8),
    Read(u64, u64),
    Discard(u64, u64),
    Zero(u64, u64, bool),
    Flush,
    Reopen,
}

pub(super) fn step(size: u64) -> impl Strategy<Value = Step> {
    let range = (0..size, prop_oneof![1..2000_u64, 1..size]);
    let range = range.prop_map(move |(at, length)| (at, length.min(size - at)));
    (range, 0..20_u8, any::<u8>()).prop_map(|((at, length), kind, fill)| match kind {
        0..8 => Step::Write(at, length, fill),
        8..11 => Step::Read(at, length),
        11..13 => Step::Discard(at, length),
        13..15 => Step::Zero(at, length, true),
        15..17 => Step::Zero(at, length, false),
        17..19 => Step::Flush,
        _ => Step::Reopen,
    })
}

/// Bytes that differ from sector to sector.
pub(super) fn pattern(at: u64, length: u64, fill: u8) -> Vec<u8> {
    (at..at + length)
        .map(|at| fill ^ (at / 512) as u8 ^ ((at % 512) as u8).wrapping_mul(3))
        .collect()
}

fn make() -> impl Strategy<Value = Make> {
    (2..4_u32, 9..13_u32, 0..7_u32, 1..150_u64, 0..512_u64).prop_map(
        |(version, cluster_bits, refcount_order, kib, odd)| Make {
            version,
            cluster_bits,
            refcount_order,
            size: (kib << 10) + odd,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn a_disk_is_its_model(
        (make, steps) in make().prop_flat_map(|make| {
            (Just(make), proptest::collection::vec(step(make.size), 1..40))
        }),
        backing in proptest::option::of(0..200_u64),
    ) {
        let file = Recorded::new(blank(make));
        let base = backing.map(|kib| pattern(0, kib << 10, 0x77));
        let open = || {
            let backing = base.as_ref().map(|base| Backing::Raw {
                storage: Box::new(Recorded::new(base.clone())),
                size: base.len() as u64,
            });
            Image::from_storage(Box::new(file.clone()), Path::new("test"), false, backing).unwrap()
        };
        let mut model = vec![0; make.size as usize];
        if let Some(base) = &base {
            let shown = base.len().min(model.len());
            model[..shown].copy_from_slice(&base[..shown]);
        }
        let mut image = open();
        for step in steps {
            match step {
                Step::Write(at, length, fill) => {
                    let data = pattern(at, length, fill);
                    image.write_at(&data, at).unwrap();
                    model[at as usize..(at + length) as usize].copy_from_slice(&data);
                }
                Step::Read(at, length) => {
                    let mut data = vec![0xEE; length as usize];
                    image.read_at(&mut data, at).unwrap();
                    prop_assert!(data == model[at as usize..(at + length) as usize]);
                }
                Step::Discard(at, length) => {
                    image.discard(at, length).unwrap();
                    if make.version == 3 || base.is_none() {
                        let size = image.cluster_size();
                        let end = at + length;
                        let end = if end == make.size { end } else { end / size * size };
                        let start = at.div_ceil(size) * size;
                        if start < end {
                            model[start as usize..end as usize].fill(0);
                        }
                    }
                    // Over a backing file, what has nothing of its own shows that file still.
                    if base.is_some() {
                        let mut data = vec![0; length as usize];
                        image.read_at(&mut data, at).unwrap();
                        model[at as usize..(at + length) as usize].copy_from_slice(&data);
                    }
                }
                Step::Zero(at, length, unmap) => {
                    image.write_zeroes(at, length, unmap).unwrap();
                    model[at as usize..(at + length) as usize].fill(0);
                }
                Step::Flush => {
                    image.flush().unwrap();
                    check(&file.bytes());
                }
                Step::Reopen => {
                    drop(image);
                    image = open();
                }
            }
        }
        prop_assert!(content(&image) == model);
        drop(image);
        prop_assert_eq!(check(&file.bytes()), 0, "leaked clusters");
        prop_assert!(content(&open()) == model, "after closing");
    }
}

/// Guards the refcount table's growth: with counts of 64 bits and clusters of 512 bytes the
/// first one counts 2 MiB.
#[test]
fn a_disk_outgrows_its_refcount_table() {
    let make = Make {
        version: 3,
        cluster_bits: 9,
        refcount_order: 6,
        size: 12 << 20,
    };
    let file = Recorded::new(blank(make));
    let image = file.open();
    let data = pattern(0, make.size, 0x5a);
    for (index, piece) in data.chunks(700_000).enumerate() {
        image.write_at(piece, index as u64 * 700_000).unwrap();
        if index % 3 == 0 {
            image.flush().unwrap();
        }
    }
    assert!(content(&image) == data);
    drop(image);
    assert_eq!(check(&file.bytes()), 0);
    assert!(content(&file.open()) == data);
}

/// Guards against two threads that spoil each other's clusters: each writes, clears and reads
/// what is its own, in clusters that they share.
#[test]
fn threads_keep_to_their_sectors() {
    let make = Make {
        version: 3,
        cluster_bits: 12,
        refcount_order: 4,
        size: 1 << 20,
    };
    let file = Recorded::new(blank(make));
    let image = file.open();
    std::thread::scope(|scope| {
        for own in 0..4_u64 {
            let image = &image;
            scope.spawn(move || {
                for round in 0..60_u64 {
                    for block in (own..make.size / 1024).step_by(4 + (round % 3) as usize * 4) {
                        let data = pattern(block * 1024, 1024, (own + round) as u8);
                        image.write_at(&data, block * 1024).unwrap();
                        let mut back = vec![0; 1024];
                        image.read_at(&mut back, block * 1024).unwrap();
                        assert!(back == data, "block {block}");
                    }
                    let block = (round * 4 + own) % (make.size / 1024);
                    image.write_zeroes(block * 1024, 1024, true).unwrap();
                    image.flush().unwrap();
                }
            });
        }
    });
    drop(image);
    assert_eq!(check(&file.bytes()), 0);
}
