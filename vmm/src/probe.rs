//! What this host's KVM can do, asked without starting a machine.

use std::path::Path;

use kvm_ioctls::{Cap, Kvm};
use serde::Serialize;

use crate::error::Failure;
use crate::without_vtx;

/// The device that KVM is reached by.
pub const DEVICE: &str = "/dev/kvm";
/// The one version of KVM's interface there is.
const API_VERSION: i32 = 12;

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Machines can be run.
    pub kvm: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The CPU has VT-x or AMD-V. Without them machines run, with a slow kernel mode.
    pub hardware_virtualization: bool,
    /// The most vCPUs a machine can have here; 0 without KVM.
    pub max_cpus: usize,
}

/// Opens KVM and makes sure that it has what a machine needs.
pub fn open() -> Result<Kvm, Failure> {
    let kvm = Kvm::new().map_err(|error| Failure {
        cause: format!("cannot open {DEVICE}: {error}"),
        remedy: remedy_for(error.errno()),
    })?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(Failure {
            cause: format!("KVM speaks version {version} of its interface, not {API_VERSION}"),
            remedy: "use a Linux kernel from 2.6.22 on".to_owned(),
        });
    }
    let needed = [
        (Cap::Irqchip, "interrupt controllers"),
        (Cap::UserMemory, "user memory"),
        (Cap::Irqfd, "irqfd"),
        (Cap::Ioeventfd, "ioeventfd"),
        (Cap::SignalMsi, "message-signalled interrupts"),
        (Cap::ExtCpuid, "CPUID"),
    ];
    for (capability, name) in needed {
        if !kvm.check_extension(capability) {
            return Err(Failure {
                cause: format!("KVM here has no {name}"),
                remedy: "use a host whose kernel has a complete KVM".to_owned(),
            });
        }
    }
    Ok(kvm)
}

fn remedy_for(errno: i32) -> String {
    let text = match errno {
        libc::ENOENT if Path::new("/sys/module/kvm").exists() => {
            "load the module for this CPU: modprobe kvm_intel, or modprobe kvm_amd"
        }
        libc::ENOENT => {
            "switch on virtualization in the firmware (or nested virtualization for this \
             virtual machine), then: modprobe kvm_intel, or modprobe kvm_amd"
        }
        libc::EACCES | libc::EPERM => "add the user to the group kvm, or run as root",
        libc::ENODEV | libc::ENXIO => "load the module for this CPU: modprobe kvm_intel",
        _ => "see the kernel's log (dmesg) for KVM's reason",
    };
    text.to_owned()
}

/// Looks at the host.
pub fn report() -> Report {
    let hardware_virtualization = !without_vtx::needed(&without_vtx::host_cpuinfo());
    match open() {
        Ok(kvm) => Report {
            kvm: true,
            reason: None,
            remedy: None,
            hardware_virtualization,
            max_cpus: kvm.get_max_vcpus(),
        },
        Err(failure) => Report {
            kvm: false,
            reason: Some(failure.cause),
            remedy: Some(failure.remedy),
            hardware_virtualization,
            max_cpus: 0,
        },
    }
}

impl Report {
    /// As one JSON object.
    pub fn json(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// For a person.
    pub fn text(&self) -> String {
        let hardware = if self.hardware_virtualization {
            "hardware virtualization: yes"
        } else {
            "hardware virtualization: no (guest kernels are interpreted: give them one vCPU, \
             a small kernel and patience)"
        };
        match (&self.reason, &self.remedy) {
            (Some(reason), Some(remedy)) => {
                format!("KVM: not usable: {reason}\n  {remedy}\n{hardware}")
            }
            _ => format!("KVM: usable, up to {} vCPUs\n{hardware}", self.max_cpus),
        }
    }
}

#[cfg(test)]
mod tests {
    //! Guards the form that other programs read.
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_report_has_the_promised_fields() {
        let report = Report {
            kvm: false,
            reason: Some("r".to_owned()),
            remedy: Some("m".to_owned()),
            hardware_virtualization: true,
            max_cpus: 0,
        };
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["kvm"], false);
        assert_eq!(json["reason"], "r");
        assert_eq!(json["remedy"], "m");
        assert_eq!(json["hardware_virtualization"], true);
        assert!(report.text().contains("not usable"));
    }
}
