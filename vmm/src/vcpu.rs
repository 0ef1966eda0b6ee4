//! One virtual CPU and its thread.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::bus::Bus;
use crate::confinement::{ThreadKind, enter_thread};
use crate::events::{Event, Notifier};
use crate::gate::{Gate, Passage};
use crate::without_vtx::VcpuAssist;

/// The two address spaces in which devices answer.
#[derive(Clone)]
pub struct Buses {
    /// I/O ports.
    pub ports: Arc<Bus>,
    /// Guest-physical memory that is not RAM.
    pub mmio: Arc<Bus>,
}

/// A vCPU that is ready to run.
pub struct Vcpu {
    /// Its number, which is also its APIC id.
    pub index: u8,
    /// KVM's end of it.
    pub fd: VcpuFd,
    /// Where its accesses go.
    pub buses: Buses,
    /// Whom it tells how it ended.
    pub notifier: Notifier,
    /// What keeps it going on a host without VT-x or AMD-V; `None` on every other.
    pub assist: Option<VcpuAssist>,
}

/// A running vCPU thread.
pub struct VcpuThread(JoinHandle<()>);

/// The last act of a vCPU thread, also of one that panics.
struct Leaving(Arc<Gate>, Notifier);

impl Drop for Leaving {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.1
                .tell(Event::Failed("a vCPU thread panicked".to_owned()));
        }
        self.0.leave();
    }
}

/// What an entry into the guest ended with, once devices have been served.
enum Outcome {
    Continue,
    Debug,
    InternalError,
    End(Event),
}

impl Vcpu {
    /// Starts the thread; it waits at `gate` first.
    pub fn spawn(mut self, gate: Arc<Gate>) -> io::Result<VcpuThread> {
        std::thread::Builder::new()
            .name(format!("vcpu{}", self.index))
            .spawn(move || {
                enter_thread(ThreadKind::Vcpu);
                let leaving = Leaving(gate, self.notifier.clone());
                self.run(&leaving.0);
                // Whoever waits for the thread's leave finds its devices released.
                drop(self);
            })
            .map(VcpuThread)
    }

    fn run(&mut self, gate: &Gate) {
        loop {
            match gate.pass() {
                Passage::Open => {}
                // Tells a guest that uses KVM's clock that it stood still, so that its
                // watchdogs do not bite. Refused where the guest does not use that clock.
                Passage::Waited => drop(self.fd.kvmclock_ctrl()),
                Passage::End => return,
            }
            if let Some(assist) = &mut self.assist
                && let Err(error) = assist.before_entry(&self.fd)
            {
                return self
                    .notifier
                    .tell(Event::Failed(crate::error::chain(&error)));
            }
            let helped = match self.enter() {
                Outcome::Continue => continue,
                Outcome::End(event) => return self.notifier.tell(event),
                Outcome::Debug => self.assist.as_mut().map(|a| a.on_debug(&self.fd)),
                Outcome::InternalError => self
                    .assist
                    .as_mut()
                    .map(|a| a.on_emulation_failure(&self.fd)),
            };
            match helped {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    let text = crate::error::chain(&error);
                    return self.notifier.tell(self.crash(&text));
                }
                None => return self.notifier.tell(self.crash("KVM gave up on the guest")),
            }
        }
    }

    fn enter(&mut self) -> Outcome {
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(error) => {
                return match error.errno() {
                    // A signal, or an application processor that has not been started.
                    libc::EINTR | libc::EAGAIN => Outcome::Continue,
                    _ => Outcome::End(Event::Failed(format!("KVM cannot run a vCPU: {error}"))),
                };
            }
        };
        match exit {
            VcpuExit::IoIn(port, data) => {
                if !self.buses.ports.read(u64::from(port), data) {
                    data.fill(0xff);
                }
            }
            VcpuExit::IoOut(port, data) => {
                self.buses.ports.write(u64::from(port), data);
            }
            VcpuExit::MmioRead(address, data) => {
                if !self.buses.mmio.read(address, data) {
                    data.fill(0xff);
                }
            }
            VcpuExit::MmioWrite(address, data) => {
                self.buses.mmio.write(address, data);
            }
            VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Hlt => {}
            VcpuExit::Debug(_) => return Outcome::Debug,
            VcpuExit::InternalError => return Outcome::InternalError,
            VcpuExit::Shutdown => {
                return Outcome::End(self.crash("triple fault"));
            }
            VcpuExit::SystemEvent(kind, _) => {
                return Outcome::End(match kind {
                    kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN => Event::PowerOff,
                    kvm_bindings::KVM_SYSTEM_EVENT_RESET => Event::Reset,
                    _ => self.crash(&format!("system event {kind}")),
                });
            }
            VcpuExit::FailEntry(reason, _) => {
                return Outcome::End(self.crash(&format!("entry failed, reason {reason:#x}")));
            }
            other => {
                let text = format!("unhandled exit {other:?}");
                return Outcome::End(self.crash(&text));
            }
        }
        Outcome::Continue
    }

    /// The end of a guest that cannot go on, with where it was.
    fn crash(&self, what: &str) -> Event {
        let place = match (self.fd.get_regs(), self.fd.get_sregs()) {
            (Ok(regs), Ok(sregs)) => format!(
                "rip={:#x} rsp={:#x} rflags={:#x} cs={:#x} cr0={:#x} cr2={:#x} cr3={:#x} cr4={:#x} efer={:#x}",
                regs.rip,
                regs.rsp,
                regs.rflags,
                sregs.cs.selector,
                sregs.cr0,
                sregs.cr2,
                sregs.cr3,
                sregs.cr4,
                sregs.efer
            ),
            _ => "registers unknown".to_owned(),
        };
        Event::Crash(format!("vCPU {}: {what} ({place})", self.index))
    }
}

impl VcpuThread {
    /// Interrupts the guest, so that the thread passes its gate.
    pub fn kick(&self) {
        // An error means that the thread has ended, which is as good.
        let _ = self.0.kill(SIGRTMIN());
    }

    /// Waits for the thread's end.
    pub fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("a vCPU thread panicked");
        }
    }
}

/// Makes the signal that [`VcpuThread::kick`] sends harmless. To be called once, before
/// any vCPU runs.
pub fn install_kick_handler() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), nothing)
        .map_err(|e| io::Error::from_raw_os_error(e.errno()))
}
