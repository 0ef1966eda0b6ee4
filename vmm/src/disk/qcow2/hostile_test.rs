//! Guards the host against images made to harm it: an answer or an error for every request,
//! and the image's structures stay whatever its tables say.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use proptest::prelude::*;

use super::testing::{Event, Make, Recorded, blank};
use super::{Damage, Image, Qcow2Error};

const MAKE: Make = Make {
    version: 3,
    cluster_bits: 9,
    refcount_order: 4,
    size: 256 << 10,
};
const CLUSTER: u64 = 512;
/// What the guest writes: no table of these images has such bytes.
const GUEST: u8 = 0xA7;

/// An image with data in several L2 tables.
fn filled() -> Vec<u8> {
    let file = Recorded::new(blank(MAKE));
    let image = file.open();
    for at in (0..MAKE.size).step_by(20 << 10) {
        image.write_at(&[0x11; 3000], at).unwrap();
    }
    image.write_zeroes(0, 1024, false).unwrap();
    drop(image);
    file.bytes()
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .map_or(0, |word| u64::from_be_bytes(word.try_into().unwrap()))
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// The clusters that header, L1 table and refcount table say are structures.
fn structures(bytes: &[u8]) -> BTreeSet<u64> {
    let mut found = BTreeSet::from([0]);
    let mut add = |at: u64, length: u64| {
        found.extend(at / CLUSTER..(at + length).div_ceil(CLUSTER));
    };
    let l1 = word(bytes, 40);
    let entries = word(bytes, 32) & 0xffff_ffff;
    add(l1, entries * 8);
    for index in 0..entries.min(100) {
        let table = word(bytes, (l1 + index * 8) as usize) & 0x00ff_ffff_ffff_fe00;
        if table != 0 {
            add(table, CLUSTER);
        }
    }
    add(word(bytes, 48), CLUSTER);
    for index in 0..64 {
        match word(bytes, (word(bytes, 48) + index * 8) as usize) {
            0 => {}
            block => add(block, CLUSTER),
        }
    }
    found
}

fn open(bytes: Vec<u8>, read_only: bool) -> (Recorded, Result<Image, Qcow2Error>) {
    let file = Recorded::new(bytes);
    let image = Image::from_storage(Box::new(file.clone()), Path::new("x"), read_only, None);
    (file, image)
}

fn use_it(image: &Image) {
    let size = image.size().min(1 << 20);
    let mut buffer = vec![0; size as usize];
    let _ = image.read_at(&mut buffer, 0);
    for at in (0..size.saturating_sub(700)).step_by(7000) {
        let _ = image.read_at(&mut buffer[..700], at);
        let _ = image.write_at(&[GUEST; 700], at);
        let _ = image.write_at(&[GUEST; 700], at + 100);
    }
    let _ = image.discard(0, size / 3);
    let _ = image.write_zeroes(size / 4, size / 3, true);
    let _ = image.write_zeroes(size / 2, size / 3, false);
    let _ = image.flush();
    for at in (0..size.saturating_sub(700)).step_by(5000) {
        let _ = image.write_at(&[GUEST; 600], at);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn damaged_images_harm_nobody(
        changes in proptest::collection::vec(
            (any::<prop::sample::Index>(), 0..8_u8, any::<u64>(), any::<prop::sample::Index>()),
            1..6,
        ),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = filled();
        let tables: Vec<u64> = structures(&bytes).into_iter().collect();
        for (place, kind, number, other) in changes {
            // A word of a structure, or a byte of the header's fields.
            let target = tables[place.index(tables.len())] * CLUSTER;
            let at = (target + number % 64 * 8) as usize;
            let cluster = other.index(bytes.len() / 512) as u64 * CLUSTER;
            match kind {
                0 => put(&mut bytes, at, cluster),
                1 => put(&mut bytes, at, cluster | (1 << 63)),
                2 => put(&mut bytes, at, (tables[other.index(tables.len())] * CLUSTER) | (1 << 63)),
                3 => put(&mut bytes, at, number),
                4 => put(&mut bytes, at, (1 << 62) | (number >> 3)),
                5 => put(&mut bytes, at, ((number << 9) & 0x00ff_ffff_ffff_fe00) | (1 << 63)),
                6 => bytes[20 + (number % 90) as usize] = (number >> 32) as u8,
                _ => put(&mut bytes, at, 0),
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let (_, image) = open(bytes.clone(), true);
        if let Ok(image) = image {
            use_it(&image);
        }
        let before = bytes.clone();
        let (file, image) = open(bytes, false);
        if let Ok(image) = image
            && image.cluster_size() == CLUSTER
        {
            use_it(&image);
            drop(image);
            let protected = structures(&before);
            for event in file.events() {
                if let Event::Write(at, data) = event
                    && data.iter().filter(|byte| **byte == GUEST).count() > 100
                {
                    let clusters = at / CLUSTER..(at + data.len() as u64).div_ceil(CLUSTER);
                    for cluster in clusters {
                        prop_assert!(!protected.contains(&cluster), "data at {:#x}", cluster * CLUSTER);
                    }
                }
            }
        }
    }
}

fn damage(error: &std::io::Error) -> Option<&Damage> {
    error.get_ref()?.downcast_ref()
}

/// Guards that each kind of damage is told from the others.
#[test]
fn damage_is_named() {
    let sound = filled();
    let l1 = word(&sound, 40) as usize;
    let l2 = (word(&sound, l1) & !(1 << 63)) as usize;
    let entry = l2 + 4 * 8;

    let with = |at: usize, value: u64| {
        let mut bytes = sound.clone();
        put(&mut bytes, at, value);
        open(bytes, false).1
    };
    let read = |image: Image, at| image.read_at(&mut [0; 512], at).unwrap_err();
    let write = |image: Image, at| image.write_at(&[1; 512], at).unwrap_err();

    // Two tables in one place, a table in another's place.
    for value in [word(&sound, l1 + 8), l1 as u64, 512, 1024] {
        let error = with(l1, value | 1 << 63).err().unwrap();
        assert!(matches!(error, Qcow2Error::Damaged { .. }), "{error}");
        assert!(error.remedy().contains("qemu-img check -r all"));
    }
    let error = write(with(entry, l1 as u64 | 1 << 63).unwrap(), 4 * 512);
    assert!(
        matches!(damage(&error), Some(Damage::Overlap { .. })),
        "{error}"
    );
    let error = write(with(entry, 1 << 40 | 1 << 63).unwrap(), 4 * 512);
    assert!(
        matches!(damage(&error), Some(Damage::Beyond { .. })),
        "{error}"
    );
    let error = read(with(entry, 1 << 40 | 1 << 63).unwrap(), 4 * 512);
    assert!(
        matches!(damage(&error), Some(Damage::Beyond { .. })),
        "{error}"
    );
    let error = read(with(entry, 0x8000_0000_0000_0202).unwrap(), 4 * 512);
    assert!(
        matches!(damage(&error), Some(Damage::Entry { .. })),
        "{error}"
    );
    let error = read(with(entry, 1 << 62 | 512).unwrap(), 4 * 512);
    assert!(
        matches!(damage(&error), Some(Damage::Compressed { .. })),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::InvalidData);
}

/// Guards memory and time against headers that claim too much.
#[test]
fn absurd_headers_are_refused() {
    let sound = filled();
    for (at, bytes) in [
        (4, &4_u32.to_be_bytes()[..]),
        (20, &8_u32.to_be_bytes()),
        (20, &22_u32.to_be_bytes()),
        (20, &u32::MAX.to_be_bytes()),
        (24, &u64::MAX.to_be_bytes()),
        (24, &(1_u64 << 50).to_be_bytes()),
        (36, &u32::MAX.to_be_bytes()),
        (36, &(1_u32 << 22).to_be_bytes()),
        (36, &0_u32.to_be_bytes()),
        (40, &513_u64.to_be_bytes()),
        (40, &(1_u64 << 60).to_be_bytes()),
        (48, &0_u64.to_be_bytes()),
        (56, &u32::MAX.to_be_bytes()),
        (60, &u32::MAX.to_be_bytes()),
        (96, &7_u32.to_be_bytes()),
        (100, &96_u32.to_be_bytes()),
        (100, &u32::MAX.to_be_bytes()),
        (104, &[0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff]),
    ] {
        let mut image = sound.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(open(image, false).1.is_err(), "{bytes:?} at {at}");
    }
    for length in [0, 3, 71, 72, 104, 500, 1100] {
        assert!(
            open(sound[..length].to_vec(), false).1.is_err(),
            "{length} bytes"
        );
    }
}
