//! What comes before a boot: what the host can do, what is to be done with the image.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::process::program;
use crate::adapt::{self, AdaptError};
use crate::failure::Failure;
use crate::image::RecoveryPoint;
use crate::plan::{self, BootPlan, KernelChoice, NamedDisk, PlanError, PlanInput, StaticAddress};
use crate::serve_disk::process::serial;

/// Memory given where the server's own is not known, in MiB.
const DEFAULT_MEMORY: u64 = 1024;
/// Most memory given without being asked for, in MiB.
const MOST_MEMORY: u64 = 4096;
const LEAST_MEMORY: u64 = 512;

/// What `relevo-vmm probe` says of this host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// Machines can be run.
    pub kvm: bool,
    /// Why not.
    #[serde(default)]
    pub reason: Option<String>,
    /// What to do about it.
    #[serde(default)]
    pub remedy: Option<String>,
    /// The CPU has VT-x or AMD-V.
    #[serde(default)]
    pub hardware_virtualization: bool,
}

/// Asks the VMM what this host can do.
pub fn probe_host() -> Result<Host, Failure> {
    let vmm = program("relevo-vmm")?;
    let failed = |cause: String| {
        Failure::new(
            format!("{} probe: {cause}", vmm.display()),
            "install relevo-vmm of the same release as relevo-recover",
        )
    };
    let output = Command::new(&vmm)
        .args(["probe", "--json"])
        .output()
        .map_err(|e| failed(e.to_string()))?;
    serde_json::from_slice(&output.stdout).map_err(|e| failed(e.to_string()))
}

/// What the operator wants of the machine; the rest follows from the server.
#[derive(Clone, Debug, Default)]
pub struct MachineRequest {
    /// A kernel of this site.
    pub site_kernel: Option<PathBuf>,
    /// Insist on the image's kernel.
    pub image_kernel: bool,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Virtual CPUs.
    pub cpus: Option<u32>,
}

impl MachineRequest {
    fn memory(&self, recorded: u64) -> u64 {
        self.memory_mib.unwrap_or(match recorded >> 20 {
            0 => DEFAULT_MEMORY,
            mib => mib.clamp(LEAST_MEMORY, MOST_MEMORY),
        })
    }

    fn cpus(&self, recorded: u32, hardware_virtualization: bool) -> u32 {
        if let Some(cpus) = self.cpus {
            return cpus.max(1);
        }
        if !hardware_virtualization {
            // KVM interprets the guest's kernel there: more CPUs only wait for each other.
            return 1;
        }
        let here = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        recorded.clamp(1, here)
    }
}

/// Plans a recovery point; gives the plan and the disks that it reads.
pub fn make_plan(
    point: &RecoveryPoint,
    request: &MachineRequest,
    hardware_virtualization: bool,
    static_addresses: Vec<StaticAddress>,
) -> Result<(BootPlan, Vec<NamedDisk>), Failure> {
    let disks: Vec<NamedDisk> = point
        .disks()
        .iter()
        .map(|image| NamedDisk {
            name: image.name.clone(),
            serial: Some(serial(image)),
            disk: Arc::new(point.disk(image)),
        })
        .collect();
    let inventory = point.inventory();
    let mut input =
        PlanInput::new(disks.clone(), hardware_virtualization).with_inventory(inventory);
    input.kernel = if request.image_kernel {
        KernelChoice::Image
    } else {
        KernelChoice::Auto
    };
    input.site_kernel = request.site_kernel.clone();
    input.memory_mib = request.memory(inventory.memory);
    input.cpus = request.cpus(inventory.cpus, hardware_virtualization);
    input.static_addresses = static_addresses;
    let plan = plan::plan(&input)?;
    Ok((plan, disks))
}

/// Files that any hypervisor can boot the plan with.
#[derive(Clone, Debug)]
pub struct BootFiles {
    /// The kernel.
    pub kernel: PathBuf,
    /// All initramfs segments in one file.
    pub initrd: PathBuf,
}

/// Writes a plan's files, with one initramfs, into `dir`.
pub fn write_for_others(
    plan: &BootPlan,
    disks: &[NamedDisk],
    dir: &Path,
) -> Result<BootFiles, Failure> {
    let adapted = adapt::adapt(plan, disks, dir)?;
    let initrd = dir.join("initrd");
    let join = || -> std::io::Result<()> {
        let mut out = adapt::create_private(&initrd)?;
        for segment in &adapted.initrds {
            let mut bytes = fs::read(segment)?;
            // The kernel looks for the next segment at a multiple of four.
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            out.write_all(&bytes)?;
        }
        Ok(())
    };
    join().map_err(|e| Failure::io(&initrd, &e))?;
    Ok(BootFiles {
        kernel: adapted.kernel,
        initrd,
    })
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        let remedy = error.remedy();
        Self::new(error.to_string(), remedy)
    }
}

impl From<AdaptError> for Failure {
    fn from(error: AdaptError) -> Self {
        let remedy = error.remedy();
        Self::new(error.to_string(), remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_the_servers_within_reason() {
        let asked = MachineRequest {
            memory_mib: Some(100_000),
            cpus: Some(7),
            ..MachineRequest::default()
        };
        assert_eq!((asked.memory(1 << 30), asked.cpus(2, false)), (100_000, 7));
        let free = MachineRequest::default();
        assert_eq!(free.memory(0), 1024);
        assert_eq!(free.memory(2 << 30), 2048);
        assert_eq!(free.memory(256 << 30), 4096);
        assert_eq!(free.memory(64 << 20), 512);
        assert_eq!(free.cpus(64, false), 1);
        assert!(free.cpus(0, true) == 1 && free.cpus(1, true) == 1);
    }
}
