//! From a server's disks to a plan for starting it as a virtual machine.
//!
//! [`plan`] only reads. It goes in named steps, each a function of its own, and each leaves
//! [`Finding`]s: what was found, what is changed because of it, and why. Together they are the
//! beginning of the server's recovery procedure, and [`BootPlan`] prints them as such.
//!
//! 1. [`disks`](step::DISKS): partition tables and what is on every volume;
//! 2. [`system`]: which volume is the root, and what its fstab joins to it;
//! 3. [`boot loader`](crate::boot_loader): what the server would have booted;
//! 4. [`kernel`]: whether that kernel can run there, or a site kernel is needed;
//! 5. [`modules`]: the drivers for virtual hardware, from the image's own tree;
//! 6. [`command_line`]: arguments, root and console;
//! 7. [`network`]: cards with the recorded addresses and names.
//!
//! The image is never changed. What has to be added goes into an initramfs segment of our own,
//! which [`crate::adapt`] writes.

pub mod command_line;
mod describe;
mod error;
pub mod kernel;
pub mod modules;
pub mod network;
pub mod system;
mod words;

use std::fmt;
use std::path::PathBuf;

use relevo_wire::inventory::Inventory;
use serde::{Deserialize, Serialize};

pub use crate::filesystem::volume::NamedDisk;
pub use error::PlanError;
pub use kernel::KernelChoice;
pub use network::{PlannedNic, RecordedNetwork, RecordedNic, StaticAddress};

use crate::boot_loader::FileOnVolume;
use crate::filesystem::volume::{Volume, Volumes, open_volumes, virtual_disk};
use crate::shim_instructions::{Instructions, Mount};
use kernel::Chosen;

/// Names of the steps, as they appear in findings.
pub mod step {
    /// Partition tables and volumes.
    pub const DISKS: &str = "disks";
    /// The root and what is mounted below it.
    pub const SYSTEM: &str = "system";
    /// What the server's boot loader would boot.
    pub const BOOT_LOADER: &str = "boot loader";
    /// Which kernel is used.
    pub const KERNEL: &str = "kernel";
    /// Drivers for virtual hardware.
    pub const MODULES: &str = "drivers";
    /// The command line.
    pub const COMMAND_LINE: &str = "command line";
    /// Network cards.
    pub const NETWORK: &str = "network";
    /// Memory and CPUs.
    pub const MACHINE: &str = "machine";
    /// All of them, in the order in which a procedure tells them.
    pub const ORDER: [&str; 8] = [
        DISKS,
        SYSTEM,
        BOOT_LOADER,
        KERNEL,
        MODULES,
        COMMAND_LINE,
        NETWORK,
        MACHINE,
    ];
}

/// Something that planning saw or decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// One of [`step`].
    pub step: String,
    /// What is on the disk.
    pub found: String,
    /// What is done differently in the virtual machine, if anything.
    pub change: Option<String>,
    /// Why it matters or why it is changed.
    pub why: String,
}

impl Finding {
    fn seen(step: &str, found: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            step: step.into(),
            found: found.into(),
            change: None,
            why: why.into(),
        }
    }

    fn changed(
        step: &str,
        found: impl Into<String>,
        change: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self {
            step: step.into(),
            found: found.into(),
            change: Some(change.into()),
            why: why.into(),
        }
    }
}

/// Everything a plan is made from.
pub struct PlanInput {
    /// The server's disks in their order; the first becomes `/dev/vda`.
    pub disks: Vec<NamedDisk>,
    /// What the agent recorded, if anything.
    pub recorded: Option<RecordedNetwork>,
    /// Whether the recovery host has VT-x or AMD-V (`relevo-vmm probe`).
    pub hardware_virtualization: bool,
    /// Whose kernel to use.
    pub kernel: KernelChoice,
    /// A kernel of the recovery site (ELF or bzImage) with virtio and ext4 built in.
    pub site_kernel: Option<PathBuf>,
    /// Memory of the virtual machine in MiB.
    pub memory_mib: u64,
    /// Its number of CPUs.
    pub cpus: u32,
    /// Addresses that the shim gives itself, for images in which nothing configures the network.
    pub static_addresses: Vec<StaticAddress>,
}

impl PlanInput {
    /// Input with the defaults: kernel chosen by what the host can do, 1 GiB, one CPU.
    pub fn new(disks: Vec<NamedDisk>, hardware_virtualization: bool) -> Self {
        Self {
            disks,
            recorded: None,
            hardware_virtualization,
            kernel: KernelChoice::Auto,
            site_kernel: None,
            memory_mib: 1024,
            cpus: 1,
            static_addresses: Vec::new(),
        }
    }

    /// Takes network and host name from what the agent recorded.
    pub fn with_inventory(mut self, inventory: &Inventory) -> Self {
        self.recorded = Some(RecordedNetwork::from(inventory));
        self
    }
}

/// A file on one of the server's disks, found again without planning anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOnDisk {
    /// Index of the disk in [`BootPlan::disks`].
    pub disk: usize,
    /// First byte of its partition.
    pub partition_start: u64,
    /// Length of the partition in bytes.
    pub partition_len: u64,
    /// Path on the file system there.
    pub path: String,
}

/// Where the kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelSource {
    /// From the image.
    Image {
        /// The file.
        file: FileOnDisk,
        /// Release, as `uname -r` prints it.
        release: String,
    },
    /// From the recovery site.
    Site {
        /// The file on the recovery host.
        path: PathBuf,
    },
}

/// A part of the initramfs, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitrdSegment {
    /// Our own: the shim, its instructions and modules.
    Relevo {
        /// Modules in the order of loading.
        modules: Vec<FileOnDisk>,
        /// The text of the shim's instructions.
        instructions: String,
    },
    /// One of the image's own, unchanged.
    Image(FileOnDisk),
}

/// A disk of the virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedDisk {
    /// Name on the server.
    pub name: String,
    /// Device in the virtual machine.
    pub device: String,
    /// Serial number it shows.
    pub serial: Option<String>,
    /// Size in bytes.
    pub size: u64,
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootDevice {
    /// Device in the virtual machine.
    pub device: String,
    /// UUID of the file system.
    pub uuid: String,
    /// What the command line says after `root=`.
    pub argument: String,
}

/// How to start the server as a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootPlan {
    /// Host name, if known.
    pub hostname: Option<String>,
    /// Operating system in words, if it says.
    pub system: Option<String>,
    /// The kernel.
    pub kernel: KernelSource,
    /// Initramfs segments in the order in which they are given to the VMM.
    pub initrd: Vec<InitrdSegment>,
    /// The kernel's command line.
    pub command_line: String,
    /// Disks, in order.
    pub disks: Vec<PlannedDisk>,
    /// Network cards, in order.
    pub nics: Vec<PlannedNic>,
    /// The root.
    pub root: RootDevice,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Number of CPUs.
    pub cpus: u32,
    /// What was found and changed, step by step.
    pub findings: Vec<Finding>,
}

impl fmt::Display for BootPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        words::write(self, f)
    }
}

/// Makes the plan.
pub fn plan(input: &PlanInput) -> Result<BootPlan, PlanError> {
    if input.disks.is_empty() {
        return Err(PlanError::NoDisks);
    }
    let mut findings = Vec::new();
    let volumes = open_volumes(&input.disks)?;
    describe::disks(&volumes, &mut findings);

    let systems = system::find(&volumes)?;
    let (system, entry) = system::choose(&volumes, systems, &mut findings)?;
    describe::boot_entry(&volumes, entry.as_ref(), &mut findings);

    let own = kernel::inspect(&volumes, &system, entry.as_ref());
    let chosen = kernel::choose(own, input, &mut findings)?;

    let recorded = input.recorded.clone().unwrap_or_default();
    let hostname = recorded.hostname.clone().or_else(|| {
        system
            .tree
            .text("/etc/hostname")
            .map(|t| t.trim().to_owned())
            .filter(|t| !t.is_empty())
    });
    let nics = network::plan(&recorded, &system, &mut findings);

    let arguments = entry.as_ref().map_or("", |e| e.arguments.as_str());
    let initrds = entry.as_ref().map_or(&[][..], |e| e.initrds.as_slice());
    let own_initramfs = matches!(chosen, Chosen::Image { .. }) && !initrds.is_empty();
    let line = command_line::adapt(arguments, &volumes, &system, own_initramfs, &mut findings);

    let mut instructions = Instructions {
        renames: nics.iter().filter_map(PlannedNic::rename).collect(),
        links: system::device_links(&volumes, &system, &line.root_as_written, &mut findings),
        ..Instructions::default()
    };
    network::give_static_addresses(
        &input.static_addresses,
        &system,
        &mut instructions,
        &mut findings,
    )?;

    let (kernel, modules) = match chosen {
        Chosen::Site { path } => (KernelSource::Site { path }, Vec::new()),
        Chosen::Image {
            file,
            release,
            modules,
        } => (
            KernelSource::Image {
                file: on_disk(&volumes, &file),
                release,
            },
            modules,
        ),
    };
    let modules: Vec<FileOnDisk> = modules.iter().map(|m| on_disk(&volumes, m)).collect();
    instructions.modules = modules
        .iter()
        .map(|m| modules::path_in_initramfs(&m.path))
        .collect();
    if own_initramfs {
        instructions.exec = "/init".into();
    } else {
        instructions.mounts = mounts(&volumes, &system, &line);
        instructions.exec = line.init.clone();
    }
    // Ours comes first: a kernel reads an uncompressed segment wherever it stands, but after
    // some compressed ones (LZ4) it takes what follows for more of the same.
    let mut initrd = vec![InitrdSegment::Relevo {
        modules,
        instructions: instructions.to_string(),
    }];
    if own_initramfs {
        initrd.extend(
            initrds
                .iter()
                .map(|file| InitrdSegment::Image(on_disk(&volumes, file))),
        );
    }
    describe::machine(input, &mut findings);
    findings.sort_by_key(|f| step::ORDER.iter().position(|s| *s == f.step));
    let root = &volumes.all[system.root];
    Ok(BootPlan {
        hostname,
        system: system.name.clone(),
        kernel,
        initrd,
        command_line: line.text,
        disks: planned_disks(&input.disks),
        nics,
        root: RootDevice {
            device: root.device.clone(),
            uuid: root
                .fs
                .as_ref()
                .map(|fs| fs.uuid.clone())
                .unwrap_or_default(),
            argument: line.root,
        },
        memory_mib: input.memory_mib,
        cpus: input.cpus,
        findings,
    })
}

fn on_disk(volumes: &Volumes, file: &FileOnVolume) -> FileOnDisk {
    let volume = &volumes.all[file.volume];
    FileOnDisk {
        disk: volume.disk,
        partition_start: volume.partition.start,
        partition_len: volume.partition.len,
        path: file.path.clone(),
    }
}

/// What the shim mounts when there is no initramfs that would.
fn mounts(
    volumes: &Volumes,
    system: &system::System,
    line: &command_line::CommandLine,
) -> Vec<Mount> {
    let mount = |volume: &Volume, path: &str, read_only, options: &str| Mount {
        device: volume.device.clone(),
        path: path.into(),
        // The ext4 driver reads ext2 and ext3 as well.
        kind: "ext4".into(),
        read_only,
        options: options.into(),
    };
    let mut mounts = vec![mount(
        &volumes.all[system.root],
        "/",
        !line.read_write,
        &line.root_flags,
    )];
    // Only /usr must be there before init: everything else is mounted by the system itself.
    let usr = system.tree.mounts().find(|(at, _)| *at == "/usr");
    mounts.extend(usr.map(|(at, volume)| mount(&volumes.all[volume], at, true, "")));
    mounts
}

fn planned_disks(disks: &[NamedDisk]) -> Vec<PlannedDisk> {
    disks
        .iter()
        .enumerate()
        .map(|(index, named)| PlannedDisk {
            name: named.name.clone(),
            device: virtual_disk(index),
            serial: named.serial.clone(),
            size: named.disk.size(),
        })
        .collect()
}
