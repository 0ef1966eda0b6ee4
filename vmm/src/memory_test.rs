//! Guards the memory map: nothing of RAM in the device hole, one file behind all of it.
#![allow(clippy::unwrap_used)]

use super::*;
use std::os::unix::fs::FileExt;
use vm_memory::Bytes;

#[test]
fn memory_beyond_three_gib_continues_at_four() {
    assert_eq!(ranges(512).unwrap(), [(GuestAddress(0), 512 << 20)]);
    assert_eq!(ranges(3072).unwrap(), [(GuestAddress(0), 3 << 30)]);
    assert_eq!(
        ranges(5120).unwrap(),
        [
            (GuestAddress(0), 3 << 30),
            (GuestAddress(HIGH_RAM_START), 2 << 30)
        ]
    );
}

#[test]
fn sizes_that_cannot_work_are_refused() {
    assert!(matches!(ranges(1), Err(MemoryError::TooSmall { mib: 1 })));
    assert!(matches!(
        ranges(u64::MAX),
        Err(MemoryError::TooLarge { .. })
    ));
}

#[test]
fn another_holder_of_the_file_sees_what_the_guest_wrote() {
    let memory = create(4096).unwrap();
    let above = GuestAddress(HIGH_RAM_START + 0x1234);
    memory.write_obj(0x5ee5_u16, above).unwrap();
    assert_eq!(memory.iter().count(), 2);
    let high = memory.iter().nth(1).and_then(|r| r.file_offset()).unwrap();
    assert_eq!(high.start(), LOW_RAM_END);
    let mut seen = [0; 2];
    high.file()
        .read_exact_at(&mut seen, high.start() + 0x1234)
        .unwrap();
    assert_eq!(u16::from_le_bytes(seen), 0x5ee5);
}
