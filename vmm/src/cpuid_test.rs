//! Guards that every vCPU has its own identity in a topology without contradictions.

use super::*;

fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index,
        ..Default::default()
    }
}

fn placed(function: u32, leaf: u32, index: u8, count: u8) -> kvm_cpuid_entry2 {
    let mut entry = entry(function, leaf);
    // The host's own identity, which must not show through.
    (entry.ebx, entry.edx) = (0x7b40_0800, 0x7b);
    place(&mut entry, index, count);
    entry
}

#[test]
fn leaf_one_holds_the_apic_id_and_the_number_of_processors() {
    let one = placed(1, 0, 2, 4);
    assert_eq!(one.ebx, 0x0204_0800);
    assert_ne!(one.ecx & HYPERVISOR, 0);
    assert_ne!(one.edx & HTT, 0);
    assert_eq!(placed(1, 0, 0, 1).edx & HTT, 0);
}

#[test]
fn topology_leaves_agree_with_the_apic_id() {
    for (count, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6), (254, 8)] {
        let cores = placed(0xb, 1, count - 1, count);
        assert_eq!(cores.eax, bits, "{count} processors");
        assert_eq!(cores.ebx, u32::from(count));
        assert_eq!(cores.edx, u32::from(count - 1));
        assert!(cores.edx >> cores.eax == 0, "the id fits its bits");
    }
}

#[test]
fn other_leaves_are_the_hosts() {
    let mut seven = entry(7, 0);
    seven.ebx = 0x1234;
    place(&mut seven, 3, 4);
    assert_eq!(seven.ebx, 0x1234);
}

#[test]
fn amds_own_leaves_say_the_same() {
    let mut cores = entry(0x8000_0008, 0);
    place_amd(&mut cores, 2, 6);
    assert_eq!(cores.ecx & 0xff, 5, "cores less one");
    assert_eq!(cores.ecx >> 12, 3, "bits of the id");
    let mut id = entry(0x8000_001e, 0);
    id.ecx = 0x300;
    place_amd(&mut id, 2, 6);
    assert_eq!((id.eax, id.ebx, id.ecx), (2, 2, 0));
}
