//! Guards both kernel formats, and that broken ones are refused in words.
#![allow(clippy::unwrap_used)]

use super::*;
use vm_memory::Bytes;

const LOAD_AT: u64 = 0x100_0000;

/// The least ELF file that is a kernel: one segment of eight bytes.
fn elf() -> Vec<u8> {
    let mut out = vec![0; 64 + 56];
    out[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    out[16] = 2; // ET_EXEC
    out[18] = 62;
    out[24..32].copy_from_slice(&(LOAD_AT + 4).to_le_bytes());
    out[32] = 64; // e_phoff
    out[52] = 64; // e_ehsize
    out[54] = 56; // e_phentsize
    out[56] = 1; // e_phnum
    let segment = &mut out[64..];
    segment[0] = 1; // PT_LOAD
    segment[8] = 120; // p_offset
    segment[24..32].copy_from_slice(&LOAD_AT.to_le_bytes());
    segment[32] = 8; // p_filesz
    segment[40..48].copy_from_slice(&0x5000_u64.to_le_bytes());
    out.extend(b"kernel!!");
    out
}

/// A bzImage with one setup sector and `payload` 16 bytes into the protected-mode part.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 1024 + 16];
    out[0x1f1] = 1; // setup_sects
    out[0x201] = 0x6a; // the jump behind the header
    out[0x202..0x206].copy_from_slice(b"HdrS");
    out[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    out[0x211] = 1;
    out[0x214..0x218].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    out[0x236] = 1;
    out[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
    out[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    out[0x258..0x260].copy_from_slice(&LOAD_AT.to_le_bytes());
    out[0x260..0x264].copy_from_slice(&0x20_0000_u32.to_le_bytes());
    out.extend_from_slice(payload);
    out
}

fn load_bytes(image: &[u8], unpack: bool) -> (GuestMemory, Result<LoadedKernel, KernelError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernel");
    std::fs::write(&path, image).unwrap();
    let memory = crate::memory::create(64).unwrap();
    let loaded = load(&memory, &ImageFile::open(&path).unwrap(), unpack);
    (memory, loaded)
}

fn read(memory: &GuestMemory, at: u64) -> [u8; 8] {
    memory.read_obj(GuestAddress(at)).unwrap()
}

#[test]
fn an_elf_kernel_lies_where_its_segments_say() {
    let (memory, kernel) = load_bytes(&elf(), false);
    let kernel = kernel.unwrap();
    assert_eq!(&read(&memory, LOAD_AT), b"kernel!!");
    assert_eq!(kernel.entry, GuestAddress(LOAD_AT + 4));
    assert_eq!(kernel.end, LOAD_AT + 0x5000);
}

#[test]
fn a_bzimage_is_loaded_whole_or_unpacked() {
    let packed = zstd::encode_all(&elf()[..], 1).unwrap();
    let image = bzimage(&packed);

    let (memory, kernel) = load_bytes(&image, false);
    let kernel = kernel.unwrap();
    assert_eq!(kernel.entry, GuestAddress(LOAD_AT + 0x200));
    assert_eq!(kernel.end, LOAD_AT + 0x20_0000);
    assert_eq!(read(&memory, LOAD_AT + 16)[..4], packed[..4]);

    let (memory, kernel) = load_bytes(&image, true);
    let kernel = kernel.unwrap();
    assert_eq!(kernel.entry, GuestAddress(LOAD_AT + 4));
    assert_eq!(&read(&memory, LOAD_AT), b"kernel!!");
    let version = kernel.header.version;
    assert_eq!(version, 0x20f, "the bzImage's own header is handed over");
}

#[test]
fn broken_kernels_are_refused_with_the_reason() {
    let refused = |image: &[u8], unpack| load_bytes(image, unpack).1.unwrap_err();
    assert!(matches!(
        refused(b"#!/bin/sh", false),
        KernelError::UnknownFormat(_)
    ));
    assert!(matches!(refused(&[], false), KernelError::UnknownFormat(_)));
    assert!(matches!(
        refused(&bzimage(b"no format at all"), true),
        KernelError::NoPayload(_)
    ));
    let packed = zstd::encode_all(&elf()[..], 1).unwrap();
    assert!(matches!(
        refused(&bzimage(&packed[..packed.len() - 5]), true),
        KernelError::Unpack { .. }
    ));
    let mut arm = elf();
    arm[18] = 183;
    assert!(matches!(
        refused(&arm, false),
        KernelError::No64BitEntry { .. }
    ));
    let mut old = bzimage(&packed);
    old[0x236] = 0;
    assert!(matches!(
        refused(&old, true),
        KernelError::No64BitEntry { .. }
    ));
    let mut far = elf();
    far[64 + 24..64 + 32].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    assert!(matches!(refused(&far, false), KernelError::Load { .. }));
    let mut hungry = elf();
    hungry[64 + 40..64 + 48].copy_from_slice(&u64::MAX.wrapping_sub(LOAD_AT).to_le_bytes());
    assert!(matches!(
        refused(&hungry, false),
        KernelError::TooLarge { .. }
    ));
    let mut nowhere = bzimage(&packed);
    nowhere[0x258..0x260].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(load_bytes(&nowhere, false).1.is_err());
}

/// Guards that a file that is no kernel by its size is not read whole.
#[test]
fn a_kernel_larger_than_the_guest_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernel");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    let memory = crate::memory::create(64).unwrap();
    let error = load(&memory, &ImageFile::open(&path).unwrap(), false).unwrap_err();
    assert!(
        matches!(error, KernelError::TooLarge { needed_mib, .. } if needed_mib == 1 << 20),
        "{error:?}"
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn no_damage_to_a_header_panics(
        bzip in proptest::prelude::any::<bool>(),
        at in 0_usize..0x270,
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..16),
        unpack in proptest::prelude::any::<bool>(),
    ) {
        let mut image = if bzip { bzimage(&zstd::encode_all(&elf()[..], 1).unwrap()) } else { elf() };
        let at = at.min(image.len() - 1);
        let end = (at + bytes.len()).min(image.len());
        image[at..end].copy_from_slice(&bytes[..end - at]);
        let _ = load_bytes(&image, unpack).1;
    }
}
