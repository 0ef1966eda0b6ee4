//! What a recovery needs to know of the lost server besides its disks.
//!
//! Recorded by the agent with each image, as JSON in a sealed chunk: unknown fields are
//! ignored and missing ones take their defaults, so that old and new releases read each other's.

use serde::{Deserialize, Serialize};

pub use crate::load::{Load, LoadDay, LoadFigures, LoadHour, Spread};

/// A server as the agent saw it when the image was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// Host name.
    pub hostname: String,
    /// `/etc/machine-id`.
    pub machine_id: Option<String>,
    /// How the firmware starts it.
    pub firmware: Firmware,
    /// Number of logical CPUs; 0 when unknown.
    pub cpus: u32,
    /// CPU model, for people.
    pub cpu_model: String,
    /// Memory in bytes; 0 when unknown.
    pub memory: u64,
    /// SMBIOS system UUID.
    pub system_uuid: Option<String>,
    /// SMBIOS system serial number.
    pub system_serial: Option<String>,
    /// Maker and product name, for people.
    pub product: String,
    /// `PRETTY_NAME` of os-release.
    pub os: String,
    /// `ID` of os-release.
    pub os_id: String,
    /// `VERSION_ID` of os-release.
    pub os_version: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// Command line of the running kernel.
    pub kernel_command_line: String,
    /// Disks that were imaged.
    pub disks: Vec<InventoryDisk>,
    /// Mounted file systems that live on a disk.
    pub mounts: Vec<Mount>,
    /// Network interfaces with hardware behind them.
    pub interfaces: Vec<Interface>,
    /// Routes of the main table.
    pub routes: Vec<Route>,
    /// DNS servers.
    pub dns_servers: Vec<String>,
    /// DNS search domains.
    pub dns_search: Vec<String>,
    /// Services that ran.
    pub services: Vec<String>,
    /// TCP ports that were listened on, other than on loopback.
    pub listening_ports: Vec<u16>,
    /// What its work asked of processors, memory, disks and network; none where the agent does
    /// not run all the time.
    pub load: Option<Load>,
}

/// How a server's firmware finds its boot loader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// Not recorded.
    #[default]
    Unknown,
    /// From the disk's first sector.
    Bios,
    /// From an EFI system partition.
    Uefi,
}

/// A disk and what is on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryDisk {
    /// Kernel name, such as `sda`.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Logical sector size in bytes.
    pub sector: u32,
    /// Hardware model.
    pub model: Option<String>,
    /// Hardware serial number.
    pub serial: Option<String>,
    /// World-wide name.
    pub wwn: Option<String>,
    /// `gpt`, `mbr` or empty.
    pub table: String,
    /// Its partitions.
    pub partitions: Vec<InventoryPartition>,
}

/// A partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryPartition {
    /// Number in the table, from 1.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// GPT type GUID or MBR type byte (`0x83`).
    pub kind: String,
    /// GPT unique GUID.
    pub uuid: Option<String>,
    /// GPT label.
    pub label: Option<String>,
    /// File system found on it, such as `ext4`; empty when none was recognised.
    pub file_system: String,
    /// The file system's UUID.
    pub file_system_uuid: Option<String>,
}

/// A mounted file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// What is mounted, such as `/dev/sda2`.
    pub source: String,
    /// Where.
    pub target: String,
    /// File system type.
    pub file_system: String,
    /// Options.
    pub options: String,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Name, such as `enp3s0`.
    pub name: String,
    /// MAC address, lower case with colons.
    pub mac: String,
    /// Addresses with prefix lengths, such as `10.1.2.3/24`.
    pub addresses: Vec<String>,
    /// MTU in bytes; 0 when unknown.
    pub mtu: u32,
    /// PCI address or other place on the bus.
    pub bus: Option<String>,
    /// Driver in use.
    pub driver: Option<String>,
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// Destination with prefix length, or `default`.
    pub destination: String,
    /// Gateway; none when directly connected.
    pub gateway: Option<String>,
    /// Interface.
    pub interface: String,
}
