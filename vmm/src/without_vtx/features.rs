//! What the guest must not use: hidden in CPUID, and named on the kernel's command line
//! because these hosts let some bits of the real CPU show through whatever CPUID says.

use kvm_bindings::kvm_cpuid_entry2;

/// Linux's names (`arch/x86/include/asm/cpufeatures.h`) of features whose instructions or
/// modes the emulator lacks.
const CLEARED: &str = "smap,smep,umip,xsave,pcid,cx16,invpcid,popcnt,ssse3,sse4_1,sse4_2,aes,\
pclmulqdq,avx,movbe,erms,fsrm,bmi1,bmi2,rdseed,adx,sha_ni";

/// Initialisations that end in a `vmcall`.
const BLACKLISTED: &str = "ptp_kvm_init";

/// Leaf 1, ECX: PCLMULQDQ, SSSE3, FMA, CX16, PCID, SSE4.1, SSE4.2, MOVBE, POPCNT, AES,
/// XSAVE, OSXSAVE, AVX, F16C, and the APIC timer's TSC-deadline mode.
const LEAF_1_ECX: u32 = 1
    | 1 << 9
    | 1 << 12
    | 1 << 13
    | 1 << 17
    | 1 << 19
    | 1 << 20
    | 1 << 22
    | 1 << 23
    | 1 << 24
    | 1 << 25
    | 1 << 26
    | 1 << 27
    | 1 << 28
    | 1 << 29;
/// Leaf 7, EBX: FSGSBASE alone stays.
const LEAF_7_EBX_KEPT: u32 = 1;
/// KVM's feature leaf.
const KVM_FEATURES: u32 = 0x4000_0001;
/// KVM's features that need no hypercall: both clocks, and that the clock is stable.
const KVM_FEATURES_KEPT: u32 = 1 | 1 << 3 | 1 << 24;

/// Initialisations that cost seconds of interpreted instructions and that no server needs:
/// 256 BSD pseudo-terminals, and probing for serial ports that are not there.
const SPARED: &str = "pty.legacy_count=0 8250.nr_uarts=1";

/// The kernel parameters that go with [`hide`].
pub fn cmdline() -> String {
    format!(
        "noxsave clearcpuid={CLEARED} nokaslr mitigations=off \
         initcall_blacklist={BLACKLISTED} {SPARED}"
    )
}

/// Takes out of one CPUID entry what the guest must not use.
pub fn hide(entry: &mut kvm_cpuid_entry2) {
    match entry.function {
        1 => entry.ecx &= !LEAF_1_ECX,
        7 if entry.index == 0 => {
            entry.ebx &= LEAF_7_EBX_KEPT;
            (entry.eax, entry.ecx, entry.edx) = (0, 0, 0);
        }
        7 | 0xd => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        KVM_FEATURES => {
            entry.eax &= KVM_FEATURES_KEPT;
            entry.edx = 0;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    //! Guards that nothing the emulator cannot run is offered.
    use super::*;

    fn hidden(function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut entry = kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        hide(&mut entry);
        entry
    }

    #[test]
    fn offers_are_what_the_emulator_can_keep() {
        let one = hidden(1, 0);
        assert_eq!(one.ecx & (1 << 26), 0, "XSAVE");
        assert_eq!(one.ecx & (1 << 13), 0, "CMPXCHG16B");
        assert_eq!(one.edx, u32::MAX, "SSE2 and older are always there");
        assert_eq!(hidden(7, 0).ebx, 1);
        assert_eq!(hidden(7, 1).eax, 0);
        assert_eq!(hidden(0xd, 0).eax, 0);
        assert_eq!(hidden(KVM_FEATURES, 0).eax, 0x0100_0009);
        assert_eq!(hidden(0x8000_0001, 0).edx, u32::MAX);
    }
}
