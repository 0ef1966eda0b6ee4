//! The virtual machine monitor that boots recovered servers on KVM.
//!
//! One process runs one virtual machine. It has no keys and no connection to a vault: a
//! disk is a file or the socket of a vhost-user server, a network is a tap device that
//! somebody else made.
//!
//! Parts, from the outside in:
//! - [`cli`], [`options`], [`run`]: the command line and the life of one machine, with its
//!   [`control`] socket; [`probe`] looks at the host, [`manual`] writes the manual page.
//! - [`machine`] puts a machine together: [`memory`], vCPUs ([`vcpu`], [`cpuid`], [`gate`]),
//!   the board's [`devices`], the [`pci`] bus with its [`virtio`] devices
//!   ([`pci_devices`]).
//! - [`boot`] loads kernel and initramfs; [`acpi`] and [`smbios`] describe the machine.
//! - [`without_vtx`] holds all measures for KVM on CPUs without VT-x or AMD-V. Everything
//!   else knows only ordinary hosts.
//!
//! Invariants:
//! - What a guest does ends in an [`events::Event`] at most, never in a panic.
//! - Devices answer on a [`bus`] under their own lock; vCPU threads hold no other lock while
//!   they call one.
//! - A machine ends in one place, [`machine::Running::wait`]: first the vCPUs stop, then the
//!   devices, then their files and sockets are closed.

pub mod acpi;
pub mod boot;
pub mod bus;
pub mod cli;
pub mod control;
pub mod cpuid;
pub mod devices;
pub mod disk;
pub mod error;
pub mod events;
pub mod gate;
pub mod machine;
pub mod manual;
pub mod memory;
pub mod options;
pub mod pci;
pub mod pci_devices;
pub mod probe;
pub mod run;
pub mod smbios;
pub mod socket_file;
pub mod stop_signals;
pub mod uuid;
pub mod vcpu;
pub mod virtio;
pub mod watches;
pub mod without_vtx;

/// Tells the operator of a failure, on standard error.
pub fn print_failure(failure: &error::Failure) {
    eprintln!("error: {}\nremedy: {}", failure.cause, failure.remedy);
}
