//! Guards what the kernel is told: its command line, its memory and its initramfs.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::memory::LOW_RAM_END;
use linux_loader::loader::bootparam::setup_header;

fn kernel(cmdline_size: u32, initrd_addr_max: u32) -> LoadedKernel {
    LoadedKernel {
        entry: GuestAddress(0x100_0000),
        end: 0x200_0000,
        header: setup_header {
            cmdline_size,
            initrd_addr_max,
            ..Default::default()
        },
    }
}

fn params(memory: &GuestMemory) -> boot_params {
    memory.read_obj(GuestAddress(layout::ZERO_PAGE)).unwrap()
}

#[test]
fn the_map_leaves_out_the_device_hole_and_the_firmware_area() {
    let map = memory_map(&crate::memory::create(4096).unwrap());
    let ram: Vec<_> = map
        .iter()
        .filter(|e| { e.r#type } == E820_RAM)
        .map(|e| (e.addr, e.addr + e.size))
        .collect();
    assert_eq!(
        ram,
        [
            (0, layout::EBDA),
            (layout::HIMEM, LOW_RAM_END),
            (1 << 32, 5 << 30)
        ]
    );
}

#[test]
fn the_initramfs_lies_as_high_as_the_kernel_allows() {
    let memory = crate::memory::create(128).unwrap();
    write(&memory, &kernel(2047, 0x3ff_ffff), "quiet", b"initrd").unwrap();
    let params = params(&memory);
    let (at, len) = (params.hdr.ramdisk_image, params.hdr.ramdisk_size);
    assert_eq!((at, len), (0x3ff_f000, 6));
    let mut seen = [0; 6];
    memory
        .read_slice(&mut seen, GuestAddress(u64::from(at)))
        .unwrap();
    assert_eq!(&seen, b"initrd");
    let entries = params.e820_entries;
    assert_eq!(entries, 3);
}

#[test]
fn too_much_is_refused() {
    let memory = crate::memory::create(64).unwrap();
    let big = vec![0; 40 << 20];
    assert!(matches!(
        write(&memory, &kernel(2047, u32::MAX), "", &big),
        Err(ZeroPageError::NoRoom { initrd_mib: 40 })
    ));
    assert!(matches!(
        write(&memory, &kernel(4, u32::MAX), "quiet", b""),
        Err(ZeroPageError::LongCmdline { len: 5, max: 4 })
    ));
    assert!(matches!(
        write(&memory, &kernel(2047, u32::MAX), "a\0b", b""),
        Err(ZeroPageError::ZeroInCmdline)
    ));
}
