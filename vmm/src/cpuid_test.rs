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

/// Guards that all vCPUs are in one socket even where KVM offers no level of the topology.
#[test]
fn missing_levels_of_the_topology_are_added() {
    let mut first = entry(0, 0);
    first.eax = 0x1f;
    let offers = [
        vec![first, entry(0xb, 0), entry(0x1f, 0)],
        vec![first],
        vec![
            first,
            entry(0xb, 0),
            entry(0xb, 1),
            entry(0xb, 2),
            entry(0x1f, 0),
        ],
    ];
    for offer in offers {
        let has_second = offer.iter().any(|e| e.function == 0x1f);
        let answers = Template::new(offer).for_vcpu(3, 4).ok();
        let answers = answers.as_ref().map_or(&[][..], |a| a.as_slice());
        let level = |leaf, index| {
            let mut found = answers
                .iter()
                .filter(|e| e.function == leaf && e.index == index);
            let one = found.next().map(|e| (e.eax, e.ebx, e.ecx >> 8, e.edx));
            assert!(found.next().is_none(), "{leaf:#x}.{index} is there twice");
            one
        };
        assert_eq!(level(0xb, 0), Some((0, 1, 1, 3)), "threads");
        assert_eq!(level(0xb, 1), Some((2, 4, 2, 3)), "cores");
        assert_eq!(level(0xb, 2), Some((0, 0, 0, 3)), "the end");
        assert_eq!(
            level(0x1f, 1),
            has_second.then_some((2, 4, 2, 3)),
            "version 2"
        );
    }
    let old = Template::new(vec![entry(0, 0)]).for_vcpu(0, 2).ok();
    assert_eq!(
        old.map(|a| a.as_slice().len()),
        Some(1),
        "a CPU before the leaf"
    );
}
