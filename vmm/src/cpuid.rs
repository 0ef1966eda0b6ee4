//! What each vCPU says of itself when asked by CPUID.
//!
//! The guest gets what KVM can offer on this host, with its own place in the machine's
//! topology and without what the VMM does not provide. References are to the Intel SDM,
//! vol. 2A, CPUID.

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use kvm_ioctls::{Cap, Kvm};

/// Leaf 1, ECX: the time-stamp counter can set off the local APIC's timer.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: there is a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: EBX holds a count of logical processors.
const HTT: u32 = 1 << 28;

/// Leaf 0x8000_0001, ECX (AMD APM vol. 3): the processors of leaf 1 are cores.
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0, EBX: the first four letters of AuthenticAMD and HygonGenuine.
const AMD_VENDORS: [u32; 2] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];

/// Extended topology, and its second version. Since 6.2 Linux offers only the first, empty
/// level of each, and a level that is missing reads as the end of the topology: each vCPU
/// would be a socket of its own.
const TOPOLOGY: [u32; 2] = [0xb, 0x1f];
/// Threads, cores, and the end.
const TOPOLOGY_LEVELS: u32 = 3;

/// The host's offer, from which each vCPU's answers are made.
#[derive(Clone)]
pub struct Template(Vec<kvm_cpuid_entry2>);

impl Template {
    /// Asks KVM what it supports.
    pub fn supported(kvm: &Kvm) -> Result<Self, kvm_ioctls::Error> {
        let mut entries = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?
            .as_slice()
            .to_vec();
        // This bit is not in the list: it depends on who emulates the local APIC.
        if kvm.check_extension(Cap::TscDeadlineTimer) {
            for entry in entries.iter_mut().filter(|e| e.function == 1) {
                entry.ecx |= TSC_DEADLINE;
            }
        }
        Ok(Self::new(entries))
    }

    fn new(mut entries: Vec<kvm_cpuid_entry2>) -> Self {
        let last = entries
            .iter()
            .find(|e| e.function == 0)
            .map_or(0, |e| e.eax);
        for leaf in TOPOLOGY {
            // The second of the two is new: hosts without it are described by the first.
            let offered = entries.iter().any(|e| e.function == leaf);
            if leaf > last || (leaf != TOPOLOGY[0] && !offered) {
                continue;
            }
            entries.retain(|e| e.function != leaf);
            entries.extend((0..TOPOLOGY_LEVELS).map(|index| kvm_cpuid_entry2 {
                function: leaf,
                index,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                ..Default::default()
            }));
        }
        Self(entries)
    }

    /// Changes entries, for hosts that need it.
    pub fn adjust(&mut self, mut change: impl FnMut(&mut kvm_cpuid_entry2)) {
        self.0.iter_mut().for_each(&mut change);
    }

    /// The answers of vCPU number `index` of `count`.
    pub fn for_vcpu(&self, index: u8, count: u8) -> Result<CpuId, kvm_ioctls::Error> {
        let mut entries = self.0.clone();
        let amd = entries
            .iter()
            .any(|e| e.function == 0 && AMD_VENDORS.contains(&e.ebx));
        for entry in &mut entries {
            place(entry, index, count);
            if amd {
                place_amd(entry, index, count);
            }
        }
        // KVM's own lists leave ample room for the few levels that were added.
        CpuId::from_entries(&entries).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))
    }
}

/// How many bits of an APIC id tell `count` cores apart.
fn id_bits(count: u8) -> u32 {
    u8::BITS - count.saturating_sub(1).leading_zeros()
}

/// What AMD's processors say of the same topology in leaves of their own (AMD APM vol. 3,
/// appendix E).
fn place_amd(entry: &mut kvm_cpuid_entry2, index: u8, count: u8) {
    match entry.function {
        0x8000_0001 if count > 1 => entry.ecx |= CMP_LEGACY,
        0x8000_0001 => entry.ecx &= !CMP_LEGACY,
        0x8000_0008 => entry.ecx = (id_bits(count) << 12) | u32::from(count.saturating_sub(1)),
        // Extended APIC id; core of one thread; one node.
        0x8000_001e => {
            (entry.eax, entry.ebx, entry.ecx) = (u32::from(index), u32::from(index), 0);
        }
        _ => {}
    }
}

/// Writes the vCPU's place in the machine into one entry: one socket of `count` cores,
/// each of one thread.
fn place(entry: &mut kvm_cpuid_entry2, index: u8, count: u8) {
    let id_bits = id_bits(count);
    match entry.function {
        1 => {
            entry.ecx |= HYPERVISOR;
            entry.ebx = (entry.ebx & 0xffff) | u32::from(count) << 16 | u32::from(index) << 24;
            if count > 1 {
                entry.edx |= HTT;
            } else {
                entry.edx &= !HTT;
            }
        }
        // Deterministic cache parameters: a level-3 cache is shared by all cores.
        4 if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 7;
            let sharing = if level >= 3 { (1 << id_bits) - 1 } else { 0 };
            let cores = (1_u32 << id_bits) - 1;
            entry.eax = (entry.eax & 0x3fff) | sharing << 14 | cores << 26;
        }
        // Extended topology: level 0 is threads, level 1 cores.
        0xb | 0x1f => {
            entry.edx = u32::from(index);
            (entry.eax, entry.ebx, entry.ecx) = match entry.index {
                0 => (0, 1, 1 << 8),
                1 => (id_bits, u32::from(count), 2 << 8 | 1),
                other => (0, 0, other),
            };
        }
        _ => {}
    }
}

#[cfg(test)]
#[path = "cpuid_test.rs"]
mod tests;
