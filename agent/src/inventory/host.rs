//! The live server, from `/sys`, `/proc` and `/etc` below a root that tests can move.

use std::path::Path;

use relevo_wire::inventory::{Firmware, Inventory, InventoryDisk, Mount};

use super::{host_network, os_release, sysfs_text};
use crate::disk::DiskArgument;

/// The inventory of the server under `root`, with its disks as described.
pub fn inventory(root: &Path, disks: Vec<InventoryDisk>) -> Inventory {
    let text = |path: &str| sysfs_text(&root.join(path));
    let lines = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let dmi = |name: &str| text(&format!("sys/class/dmi/id/{name}"));
    let cpu = lines("proc/cpuinfo");
    let product: Vec<_> = ["sys_vendor", "product_name"]
        .into_iter()
        .filter_map(dmi)
        .collect();
    let mut inventory = Inventory {
        hostname: text("proc/sys/kernel/hostname").unwrap_or_default(),
        machine_id: text("etc/machine-id"),
        firmware: if root.join("sys/firmware/efi").exists() {
            Firmware::Uefi
        } else {
            Firmware::Bios
        },
        cpus: cpu.lines().filter(|l| l.starts_with("processor")).count() as u32,
        cpu_model: cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_string())
            .unwrap_or_default(),
        memory: memory(&lines("proc/meminfo")),
        system_uuid: dmi("product_uuid").map(|uuid| uuid.to_lowercase()),
        system_serial: dmi("product_serial"),
        product: product.join(" "),
        kernel: text("proc/sys/kernel/osrelease").unwrap_or_default(),
        kernel_command_line: text("proc/cmdline").unwrap_or_default(),
        disks,
        mounts: mounts(&lines("proc/self/mounts")),
        services: services(root),
        ..Inventory::default()
    };
    let release = ["etc/os-release", "usr/lib/os-release"];
    if let Some(path) = release.iter().find(|path| root.join(path).exists()) {
        os_release(&lines(path), &mut inventory);
    }
    host_network::fill(root, &mut inventory);
    inventory
}

/// Disks with hardware behind them that hold something and stay: no optical drive, no USB stick.
pub fn local_disks(root: &Path) -> Vec<DiskArgument> {
    let entries = std::fs::read_dir(root.join("sys/block"));
    let mut found: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let attribute = |name: &str| sysfs_text(&entry.path().join(name));
            let name = entry.file_name();
            let skipped = ["sr", "fd", "mtd", "loop", "ram", "zram"];
            entry.path().join("device").exists()
                && !skipped
                    .iter()
                    .any(|s| name.to_string_lossy().starts_with(s))
                && attribute("removable").as_deref() != Some("1")
                && attribute("size").is_some_and(|size| size != "0")
        })
        .map(|entry| {
            // Names as sysfs writes them have '!' where the device's path has '/'.
            let name = entry.file_name().to_string_lossy().replace('!', "/");
            let path = root.join("dev").join(&name);
            DiskArgument {
                path,
                name: name.replace('/', "-"),
            }
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn mounts(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            let [source, target, file_system, options, ..] = fields.as_slice() else {
                return None;
            };
            let on_disk = source.starts_with("/dev/") && !source.starts_with("/dev/loop");
            on_disk.then(|| Mount {
                source: unescape(source),
                target: unescape(target),
                file_system: (*file_system).into(),
                options: (*options).into(),
            })
        })
        .collect()
}

/// proc_pid_mounts(5) writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_string(), |text, (from, to)| text.replace(from, to))
}

/// Services with processes: systemd's by their control groups, else daemons by their pid files.
fn services(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = ["", "systemd/", "unified/"]
        .iter()
        .map(|v| root.join(format!("sys/fs/cgroup/{v}system.slice")))
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flatten()
        .flatten()
        .filter(|entry| has_process(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".service").map(String::from))
        .collect();
    if names.is_empty() {
        let entries = std::fs::read_dir(root.join("run"));
        names = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let pid = sysfs_text(&entry.path())?.parse::<u32>().ok()?;
                let name = entry.file_name().into_string().ok()?;
                let name = name.strip_suffix(".pid")?;
                let runs = root.join(format!("proc/{pid}")).exists();
                runs.then(|| name.to_string())
            })
            .collect();
    }
    names.sort();
    names.dedup();
    names
}

/// A unit that has ended may leave an empty group behind. Groups below count too.
fn has_process(group: &Path) -> bool {
    let events = std::fs::read_to_string(group.join("cgroup.events"));
    match events {
        Ok(events) => events.lines().any(|line| line == "populated 1"),
        Err(_) => sysfs_text(&group.join("cgroup.procs")).is_some(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_server_is_described_from_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("proc/sys/kernel/hostname", "web1\n");
        put(
            "proc/cpuinfo",
            "processor\t: 0\nmodel name\t: Fast One\n\nprocessor\t: 1\n",
        );
        put("proc/meminfo", "MemTotal:        2048 kB\nMemFree: 1 kB\n");
        put(
            "proc/self/mounts",
            "proc /proc proc rw 0 0\n/dev/sda1 /a\\040b ext4 rw 0 0\n",
        );
        put("sys/firmware/efi/fw_platform_size", "64\n");
        put(
            "sys/fs/cgroup/system.slice/ssh.service/cgroup.events",
            "populated 1\nfrozen 0\n",
        );
        put(
            "sys/fs/cgroup/system.slice/old.service/cgroup.events",
            "populated 0\n",
        );
        put("sys/block/sda/device/model", "DISK\n");
        put("sys/block/sda/size", "100\n");
        put("sys/block/sr0/device/model", "CD\n");
        put("sys/block/sr0/size", "100\n");
        put("sys/block/dm-0/size", "100\n");
        let found = inventory(dir.path(), Vec::new());
        assert_eq!(found.hostname, "web1");
        assert_eq!((found.cpus, found.cpu_model.as_str()), (2, "Fast One"));
        assert_eq!(found.memory, 2 << 20);
        assert_eq!(found.firmware, Firmware::Uefi);
        assert_eq!(found.services, ["ssh"]);
        assert_eq!(found.mounts.len(), 1);
        assert_eq!(found.mounts[0].target, "/a b");
        let disks = local_disks(dir.path());
        assert_eq!(disks.len(), 1);
        assert_eq!(disks[0].name, "sda");
    }
}
