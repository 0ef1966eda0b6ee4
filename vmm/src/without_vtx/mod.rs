//! Measures for KVM on a CPU that offers neither VT-x (`vmx`) nor AMD-V (`svm`).
//!
//! Some cloud machines have a `/dev/kvm` that runs guest user mode natively and interprets
//! guest kernel mode in KVM's instruction emulator, about three million instructions a
//! second. That works for Linux, but only with help:
//!
//! | what is missing | measure | where |
//! | --- | --- | --- |
//! | SYSCALL does not change the privilege level | repaired at the page fault it ends in | [`syscall`] |
//! | the emulator lacks instructions | done by hand, or never used by the guest | [`instructions`], [`features`] |
//! | `vmcall` never returns | KVM's paravirtual features are hidden but for the clock | [`features`] |
//! | a timer interrupt costs milliseconds | an own timer that ticks more slowly | [`tick`] |
//! | unpacking in the guest takes minutes | kernel and initramfs are unpacked on the host | [`crate::boot`] |
//!
//! Nothing outside this module knows any of this: the machine asks [`Measures`] while it is
//! built, and a vCPU's loop calls its [`VcpuAssist`] where an ordinary vCPU would have
//! crashed. On an ordinary host there is no `Measures` and no `VcpuAssist`.

pub mod features;
pub mod instructions;
pub mod syscall;
pub mod tick;

use std::time::{Duration, Instant};

use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestMemory;
use crate::options::{QuirksOption, TickOption};
use instructions::Gap;
use syscall::SyscallRepair;

/// How often a vCPU is interrupted so that its [`VcpuAssist`] sees what has changed.
pub const HEARTBEAT: Duration = Duration::from_millis(100);

/// Whether the measures are needed, by the host's `/proc/cpuinfo`.
pub fn needed(cpuinfo: &str) -> bool {
    let flags = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags")?.split_once(':'))
        .map_or("", |(_, flags)| flags);
    !flags.split_whitespace().any(|f| f == "vmx" || f == "svm")
}

/// The host's `/proc/cpuinfo`; empty if it cannot be read.
pub fn host_cpuinfo() -> String {
    std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()
}

/// The measures of one machine.
#[derive(Debug, Clone)]
pub struct Measures {
    /// What gives the guest its timer interrupt.
    pub tick: tick::Tick,
}

impl Measures {
    /// The measures that `option` asks for on this host, for the kernel in `kernel`.
    pub fn choose(
        option: QuirksOption,
        tick: TickOption,
        kernel: &crate::boot::ImageFile,
    ) -> Option<Self> {
        let wanted = match option {
            QuirksOption::Auto => needed(&host_cpuinfo()),
            QuirksOption::On => true,
            QuirksOption::Off => false,
        };
        wanted.then(|| Self {
            tick: tick::Tick::choose(tick, kernel),
        })
    }

    /// The kernel command line with what the guest has to be told.
    ///
    /// The additions come first: behind a `--` they would be init's.
    pub fn cmdline(&self, cmdline: &str, tsc_khz: u32) -> String {
        let mut line = features::cmdline();
        if let tick::Tick::AtMost(_) = self.tick {
            line.push(' ');
            line.push_str(&tick::cmdline(tsc_khz));
        }
        if !cmdline.is_empty() {
            line.push(' ');
            line.push_str(cmdline);
        }
        line
    }
}

/// Why a vCPU cannot be helped.
#[derive(Debug, thiserror::Error)]
pub enum AssistError {
    /// KVM refused to show or change the vCPU's state.
    #[error("KVM refused {what}")]
    Kvm {
        /// What was asked of it.
        what: &'static str,
        /// The system's reason.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The emulator met an instruction for which there is no measure.
    #[error("KVM cannot emulate the instruction {bytes:02x?} at {rip:#x}")]
    Instruction {
        /// Where it is.
        rip: u64,
        /// Its first bytes.
        bytes: Vec<u8>,
    },
}

pub(crate) fn kvm(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> AssistError {
    move |source| AssistError::Kvm { what, source }
}

/// Keeps one vCPU going.
pub struct VcpuAssist {
    memory: GuestMemory,
    syscall: SyscallRepair,
    next_look: Instant,
}

impl VcpuAssist {
    /// Help for a vCPU that has not run yet.
    pub fn new(memory: GuestMemory) -> Self {
        Self {
            memory,
            syscall: SyscallRepair::default(),
            next_look: Instant::now(),
        }
    }

    /// To be called before each entry into the guest; looks at the vCPU once a
    /// [`HEARTBEAT`].
    pub fn before_entry(&mut self, vcpu: &VcpuFd) -> Result<(), AssistError> {
        let now = Instant::now();
        if now < self.next_look {
            return Ok(());
        }
        self.next_look = now + HEARTBEAT / 2;
        self.syscall.follow(vcpu, &self.memory)
    }

    /// The vCPU stopped for the debugger that it does not have: a breakpoint of ours.
    pub fn on_debug(&mut self, vcpu: &VcpuFd) -> Result<(), AssistError> {
        self.syscall.on_breakpoint(vcpu, &self.memory)
    }

    /// The emulator gave up on the instruction at RIP.
    pub fn on_emulation_failure(&mut self, vcpu: &VcpuFd) -> Result<(), AssistError> {
        let mut regs = vcpu.get_regs().map_err(kvm("registers"))?;
        let bytes = read_guest(vcpu, &self.memory, regs.rip, instructions::MAX_LEN);
        let Some(gap) = instructions::fill(&bytes, &mut regs) else {
            return Err(AssistError::Instruction {
                rip: regs.rip,
                bytes,
            });
        };
        vcpu.set_regs(&regs).map_err(kvm("registers"))?;
        if gap == Gap::Breakpoint {
            let mut events = vcpu.get_vcpu_events().map_err(kvm("pending events"))?;
            events.exception.injected = 1;
            events.exception.nr = instructions::BP_VECTOR;
            events.exception.has_error_code = 0;
            vcpu.set_vcpu_events(&events).map_err(kvm("an exception"))?;
        }
        Ok(())
    }
}

/// Up to `len` bytes of guest-virtual memory, fewer where a page is not mapped.
fn read_guest(vcpu: &VcpuFd, memory: &GuestMemory, address: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        let at = address.wrapping_add(out.len() as u64);
        let in_page = (4096 - (at & 4095)) as usize;
        let mut part = vec![0; in_page.min(len - out.len())];
        let readable = vcpu
            .translate_gva(at)
            .ok()
            .filter(|t| t.valid != 0)
            .is_some_and(|t| {
                let physical = GuestAddress(t.physical_address);
                memory.read_slice(&mut part, physical).is_ok()
            });
        if !readable {
            break;
        }
        out.extend(part);
    }
    out
}

#[cfg(test)]
mod tests {
    //! Guards the decision, and that the guest's own command line stays whole.
    use super::*;

    #[test]
    fn only_a_cpu_without_both_extensions_needs_help() {
        let with = |flags: &str| format!("processor\t: 0\nflags\t\t: fpu {flags} sse\nbugs\t: vmx");
        assert!(!needed(&with("vmx")));
        assert!(!needed(&with("svm")));
        assert!(needed(&with("vmxfoo")));
        assert!(needed(""));
    }

    #[test]
    fn the_guests_command_line_comes_last_and_unchanged() {
        let measures = Measures {
            tick: tick::Tick::Kvm,
        };
        let own = "root=/dev/vda1 -- single";
        let line = measures.cmdline(own, 2_000_000);
        assert!(line.ends_with(own), "{line}");
        assert!(line.contains("ptp_kvm_init"));
        assert!(!line.contains("tsc_early_khz"));
        let slow = Measures {
            tick: tick::Tick::AtMost(20),
        };
        assert!(
            slow.cmdline("", 2_000_000)
                .contains("tsc_early_khz=2000000")
        );
    }
}
