//! Guards what a guest may change in a header, and that no access can break it.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

fn space() -> ConfigSpace {
    let mut space = ConfigSpace::new(Identity {
        vendor: 0x1AF4,
        device: 0x1042,
        revision: 1,
        class: 0x01_80_00,
        subsystem_vendor: 0x1AF4,
        subsystem: 0x42,
    });
    space.set_memory_bar(0, 0xC000_8000, 0x8000);
    space.add_capability(0x09, &[1, 2, 3, 4, 5], &[]);
    space.add_capability(0x11, &[0; 10], &[0x00, 0xC0, 0, 0, 0, 0, 0, 0, 0, 0]);
    space
}

#[test]
fn sizing_a_bar_shows_its_size_and_keeps_its_type() {
    let mut space = space();
    space.write(0x10, &[0xFF; 4]);
    assert_eq!(space.u32_at(0x10), 0xFFFF_8000);
    space.write(0x10, &0xC012_3456_u32.to_le_bytes());
    assert_eq!(space.memory_bar(0), 0xC012_0000);
    space.write(0x14, &[0xFF; 4]);
    assert_eq!(space.u32_at(0x14), 0, "a BAR that is not there stays zero");
}

#[test]
fn capabilities_are_linked_and_end() {
    let space = space();
    assert_eq!(space.u16_at(0x06) & 0x10, 0x10);
    let first = space.u16_at(0x34) as usize & 0xFF;
    assert_eq!(space.u16_at(first) & 0xFF, 0x09);
    let second = (space.u16_at(first) >> 8) as usize;
    assert_eq!(second % 4, 0);
    assert_eq!(space.u16_at(second), 0x11, "id 0x11, no next");
}

proptest! {
    #[test]
    fn no_access_panics_or_changes_what_is_fixed(
        accesses in proptest::collection::vec((0usize..400, proptest::collection::vec(any::<u8>(), 0..9)), 0..64)
    ) {
        let mut space = space();
        for (offset, data) in accesses {
            space.write(offset, &data);
            let mut back = data.clone();
            space.read(offset, &mut back);
            space.read(usize::MAX - offset, &mut back);
            space.write(usize::MAX - offset, &data);
        }
        prop_assert_eq!(space.u32_at(0), 0x1042_1AF4);
        prop_assert_eq!(space.u32_at(8), 0x0180_0001);
        prop_assert_eq!(space.u32_at(0x10) & 0x7FFF, 0);
        prop_assert_eq!(space.u16_at(COMMAND) & !0x0406, 0);
    }
}
