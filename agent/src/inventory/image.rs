//! What disks tell of a server that is not this one: partition tables, and the configuration in
//! an ext2, ext3 or ext4 root file system.

use std::cell::Cell;
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;

use ext4_view::{Ext4, Ext4Read};
use relevo_wire::inventory::{Firmware, Inventory, InventoryDisk, Mount};

use super::host_network::resolv_conf;
use super::{network_files, os_release};
use crate::disk::Disk;

/// Partition types (lower case) of an EFI system partition and of GRUB's home on GPT disks.
const EFI_SYSTEM: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
const BIOS_BOOT: &str = "21686148-6449-6e6f-744e-656564454649";
/// Bytes of configuration that are read in all, and most of a directory: an image may be made
/// to be read for ever.
const MAX_TEXT: u64 = 512 << 10;
/// Names in a directory that are looked at.
const MAX_NAMES: usize = 1024;
/// Bytes that are read of a file system in all; a journal to be replayed is the most of them.
const MAX_READ: u64 = 1 << 30;

/// The inventory that the disks themselves tell.
pub fn inventory(disks: &[Disk], described: Vec<InventoryDisk>) -> Inventory {
    let mut inventory = Inventory {
        firmware: firmware(&described),
        ..Inventory::default()
    };
    let root = disks
        .iter()
        .zip(&described)
        .find_map(|(disk, description)| root_of(disk, description));
    inventory.disks = described;
    match root {
        Some(root) => root.fill(&mut inventory),
        None => tracing::warn!(
            "no root file system that the agent can read was found on the disks: the inventory \
             has their layout only; give the rest with --inventory FILE"
        ),
    }
    inventory
}

fn firmware(disks: &[InventoryDisk]) -> Firmware {
    let has = |kind: &str| {
        disks
            .iter()
            .flat_map(|d| &d.partitions)
            .any(|p| p.kind == kind)
    };
    // Images made for both start by either; BIOS needs less of a recovery.
    if has(BIOS_BOOT) || disks.iter().any(|d| d.table == "mbr") {
        Firmware::Bios
    } else if has(EFI_SYSTEM) || has("0xef") {
        Firmware::Uefi
    } else {
        Firmware::Unknown
    }
}

fn root_of(disk: &Disk, description: &InventoryDisk) -> Option<Root> {
    let partitions = description.partitions.iter().map(|p| (p.start, p.size));
    // A file system may fill the disk without any table.
    let whole = (description.table.is_empty()).then_some((0, disk.size()));
    partitions.chain(whole).find_map(|(start, size)| {
        let file = File::open(disk.path()).ok()?;
        let reader = Window {
            file,
            start,
            size,
            left: MAX_READ,
        };
        let root = Root {
            files: Ext4::load(Box::new(reader)).ok()?,
            text_left: Cell::new(MAX_TEXT),
        };
        root.is_root().then_some(root)
    })
}

/// A part of a disk.
struct Window {
    file: File,
    start: u64,
    size: u64,
    /// Bytes that may still be read.
    left: u64,
}

impl Ext4Read for Window {
    fn read(&mut self, start: u64, bytes: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let length = bytes.len() as u64;
        let end = start.checked_add(length);
        let at = self.start.checked_add(start);
        let Some(at) = at.filter(|_| end.is_some_and(|end| end <= self.size)) else {
            return Err("beyond the end of the partition".into());
        };
        let left = self.left.checked_sub(length);
        self.left = left.ok_or("the file system takes more reading than a sound one")?;
        Ok(self.file.read_exact_at(bytes, at)?)
    }
}

/// A root file system.
struct Root {
    files: Ext4,
    text_left: Cell<u64>,
}

impl Root {
    fn is_root(&self) -> bool {
        ["/etc/os-release", "/etc/fstab", "/etc/hostname"]
            .iter()
            .any(|path| self.files.exists(*path).unwrap_or(false))
    }

    fn text(&self, path: &str) -> Option<String> {
        let size = self.files.metadata(path).ok()?.len();
        self.text_left.set(self.text_left.get().checked_sub(size)?);
        self.files.read_to_string(path).ok()
    }

    /// Names in a directory, sorted.
    fn names(&self, path: &str) -> Vec<String> {
        let small = |m: &ext4_view::Metadata| m.len() <= MAX_TEXT;
        if !self.files.metadata(path).as_ref().is_ok_and(small) {
            return Vec::new();
        }
        let entries = self.files.read_dir(path).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries
            .take(MAX_NAMES)
            .filter_map(|entry| entry.file_name().as_str().ok().map(String::from))
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        names
    }

    fn fill(&self, inventory: &mut Inventory) {
        let line = |path| {
            let text = self.text(path)?;
            let line = text
                .lines()
                .map(str::trim)
                .find(|l| !l.is_empty() && !l.starts_with('#'));
            line.map(String::from)
        };
        inventory.hostname = line("/etc/hostname").unwrap_or_default();
        inventory.machine_id = line("/etc/machine-id").filter(|id| id != "uninitialized");
        let release = ["/etc/os-release", "/usr/lib/os-release"];
        if let Some(text) = release.iter().find_map(|path| self.text(path)) {
            os_release(&text, inventory);
        }
        inventory.kernel = self.newest_kernel();
        inventory.mounts = self
            .text("/etc/fstab")
            .map(|t| fstab(&t))
            .unwrap_or_default();
        inventory.services = self.enabled_services();
        self.fill_network(inventory);
    }

    fn fill_network(&self, inventory: &mut Inventory) {
        type Reader = fn(&str, &mut Inventory);
        let places: [(&str, &str, Reader); 5] = [
            ("/etc/network/interfaces.d", "", network_files::debian),
            ("/etc/systemd/network", ".network", network_files::networkd),
            ("/etc/netplan", ".yaml", network_files::netplan),
            (
                "/etc/NetworkManager/system-connections",
                "",
                network_files::network_manager,
            ),
            ("/etc/udev/rules.d", ".rules", network_files::udev_names),
        ];
        if let Some(text) = self.text("/etc/network/interfaces") {
            network_files::debian(&text, inventory);
        }
        for (dir, ending, reader) in places {
            let names = self.names(dir);
            for name in names.iter().filter(|name| name.ends_with(ending)) {
                if let Some(text) = self.text(&format!("{dir}/{name}")) {
                    reader(&text, inventory);
                }
            }
        }
        if inventory.dns_servers.is_empty()
            && let Some(text) = self.text("/etc/resolv.conf")
        {
            (inventory.dns_servers, inventory.dns_search) = resolv_conf(&text);
        }
    }

    /// The kernel that its boot loader's link names, else the highest in `/lib/modules`.
    fn newest_kernel(&self) -> String {
        let linked = ["/vmlinuz", "/boot/vmlinuz"].iter().find_map(|path| {
            let target = self.files.read_link(*path).ok()?;
            let target = target.to_str().ok()?.to_string();
            Some(target.rsplit_once("vmlinuz-")?.1.to_string())
        });
        linked.unwrap_or_else(|| {
            let modules = ["/lib/modules", "/usr/lib/modules"];
            let names = modules.iter().flat_map(|dir| self.names(dir));
            names
                .max_by_key(|name| version_key(name))
                .unwrap_or_default()
        })
    }

    /// What the server starts: which of it ran cannot be seen from its disk.
    fn enabled_services(&self) -> Vec<String> {
        let units = self.names("/etc/systemd/system/multi-user.target.wants");
        let mut services: Vec<_> = units
            .iter()
            .filter_map(|name| name.strip_suffix(".service").map(String::from))
            .collect();
        if services.is_empty() {
            services = self
                .names("/etc/rc2.d")
                .iter()
                .filter_map(|name| Some(name.strip_prefix('S')?.get(2..)?.to_string()))
                .collect();
        }
        services.sort();
        services.dedup();
        services
    }
}

/// Numbers of a version, so that 6.10 comes after 6.9.
fn version_key(name: &str) -> Vec<u64> {
    let numbers = name.split(|c: char| !c.is_ascii_digit());
    numbers.filter_map(|n| n.parse().ok()).collect()
}

fn fstab(text: &str) -> Vec<Mount> {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [source, target, file_system, rest @ ..] = fields.as_slice() else {
                return None;
            };
            let on_disk = ["/dev/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="];
            on_disk
                .iter()
                .any(|p| source.starts_with(p))
                .then(|| Mount {
                    source: (*source).into(),
                    target: (*target).into(),
                    file_system: (*file_system).into(),
                    options: rest.first().copied().unwrap_or_default().into(),
                })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::load::history;

    #[test]
    fn kernels_are_ordered_by_number() {
        assert!(version_key("6.10.0-1-amd64") > version_key("6.9.12-amd64"));
    }

    /// Guards against partitions at the end of the number range, and against file systems that
    /// are never read to their end.
    #[test]
    fn a_window_stays_within_its_partition_and_its_budget() {
        let window = |start, size, left: u64| Window {
            file: File::open("/dev/zero").unwrap(),
            start,
            size,
            left,
        };
        assert!(window(0, 100, 100).read(50, &mut [0; 50]).is_ok());
        assert!(window(0, 100, 100).read(51, &mut [0; 50]).is_err());
        assert!(
            window(u64::MAX, u64::MAX, 100)
                .read(50, &mut [0; 50])
                .is_err()
        );
        let mut spent = window(0, 100, 99);
        assert!(spent.read(0, &mut [0; 50]).is_ok());
        assert!(spent.read(0, &mut [0; 50]).is_err());
    }

    /// Guards: an image's inventory must never describe the machine that images it.
    #[test]
    fn an_unreadable_disk_says_nothing_of_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        std::fs::write(&path, vec![0xa5; 100_000]).unwrap();
        let disk = Disk::open(&path.into()).unwrap();
        let (load, now) = (dir.path().join("load"), relevo_wire::Timestamp::now());
        let minute = history::Minute {
            number: history::minute_of(now),
            figures: [1; 8],
        };
        let history = history::History::open(&load).unwrap();
        history.keep(&minute).unwrap();
        assert!(crate::load::of(&load, now).is_some());
        let found = crate::inventory::of_disks(&[disk], &load);
        let expected = Inventory {
            disks: found.disks.clone(),
            ..Inventory::default()
        };
        assert_eq!(found, expected);
        assert_eq!(found.disks[0].size, 100_000);
    }

    #[test]
    fn fstab_lines_of_disks_are_mounts() {
        let mounts = fstab("# x\nUUID=ab / ext4 defaults 0 1\nproc /proc proc defaults 0 0\n");
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].target, "/");
    }
}
