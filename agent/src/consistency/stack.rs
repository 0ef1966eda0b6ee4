//! What is stacked on what: partitions on disks, volumes on partitions, file systems on those, and
//! file systems in files of others.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::mounts::{self, FileSystem, device_number, holder_of};
use crate::inventory::sysfs_text;

/// Numbers (`major:minor`) of a device, its partitions and whatever is stacked on them.
pub fn upon(number: &str) -> HashSet<String> {
    let mut numbers = HashSet::new();
    climb(&sysfs(number), &mut numbers);
    numbers
}

fn climb(device: &Path, numbers: &mut HashSet<String>) {
    let Some(number) = sysfs_text(&device.join("dev")) else {
        return;
    };
    if !numbers.insert(number) {
        return;
    }
    for entry in entries(device) {
        if entry.join("partition").exists() {
            climb(&entry, numbers);
        }
    }
    for holder in entries(&device.join("holders")) {
        climb(&holder, numbers);
    }
}

/// File systems that write to these disks (`major:minor`), in the order in which they can be
/// frozen: one in a file of another comes before that other, which would not take what the first
/// has still to write. Those that take no write are not among them.
pub fn to_freeze<'a>(disks: impl IntoIterator<Item = &'a str>) -> Vec<FileSystem> {
    let disks: HashSet<String> = disks.into_iter().flat_map(upon).collect();
    let mut all = mounts::all();
    all.retain(|one| one.writable);
    let held = all.iter().map(|one| {
        let loops = one.on.iter().flat_map(|number| loops_below(number));
        let holders = loops.filter_map(|device| holder_of_loop(&device, &all));
        (one.device.clone(), holders.collect())
    });
    let held: HashMap<String, Vec<String>> = held.collect();
    ordered(all, &disks, &held)
}

/// `held` names, for the file systems that are in files of others, those others.
fn ordered(
    mut all: Vec<FileSystem>,
    disks: &HashSet<String>,
    held: &HashMap<String, Vec<String>>,
) -> Vec<FileSystem> {
    let mut depths: HashMap<String, usize> = HashMap::new();
    let on_disk = |one: &&FileSystem| one.on.iter().any(|number| disks.contains(number));
    for one in all.iter().filter(on_disk) {
        depths.insert(one.device.clone(), 0);
    }
    // Each turn goes one file system further in; none can be within itself.
    for _ in 0..all.len() {
        let mut changed = false;
        for one in &all {
            let holders = held.get(&one.device).into_iter().flatten();
            let Some(outer) = holders.filter_map(|holder| depths.get(holder)).max() else {
                continue;
            };
            let inner = outer + 1;
            if depths.get(&one.device).is_none_or(|depth| *depth < inner) {
                depths.insert(one.device.clone(), inner);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    all.retain(|one| depths.contains_key(&one.device));
    all.sort_by_key(|one| std::cmp::Reverse(depths.get(&one.device).copied()));
    all
}

/// Loop devices that a device is or is stacked on.
fn loops_below(number: &str) -> Vec<PathBuf> {
    let mut loops = Vec::new();
    descend(&sysfs(number), &mut HashSet::new(), &mut loops);
    loops
}

fn descend(device: &Path, seen: &mut HashSet<PathBuf>, loops: &mut Vec<PathBuf>) {
    let Ok(device) = device.canonicalize() else {
        return;
    };
    if !seen.insert(device.clone()) {
        return;
    }
    if device.join("loop/backing_file").exists() {
        loops.push(device.clone());
    }
    if device.join("partition").exists()
        && let Some(disk) = device.parent()
    {
        descend(disk, seen, loops);
    }
    for slave in entries(&device.join("slaves")) {
        descend(&slave, seen, loops);
    }
}

/// The superblock of the file system that holds a loop device's file.
fn holder_of_loop(device: &Path, all: &[FileSystem]) -> Option<String> {
    let path = PathBuf::from(sysfs_text(&device.join("loop/backing_file"))?);
    let file = LoopFile::of(device);
    // The path is that of whoever set the device up, and may lead elsewhere here.
    let same = |file: &LoopFile| {
        std::fs::metadata(&path).is_ok_and(|m| (m.dev(), m.ino()) == (file.device, file.inode))
    };
    match file {
        Some(file) if !same(&file) => Some(device_number(file.device)),
        _ => holder_of(&path, all),
    }
}

/// The file behind a loop device, as the kernel knows it.
struct LoopFile {
    device: u64,
    inode: u64,
}

impl LoopFile {
    fn of(device: &Path) -> Option<Self> {
        let node = Path::new("/dev").join(device.file_name()?);
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
            .open(node)
            .ok()?;
        loop_file(&file)
    }
}

mod call {
    #![allow(missing_docs)]
    // LOOP_GET_STATUS64 (linux/loop.h) has a number from before there was a scheme.
    nix::ioctl_read_bad!(loop_status, 0x4c05, [u64; 29]);
}

fn loop_file(device: &File) -> Option<LoopFile> {
    // struct loop_info64, 232 bytes: the numbers of the file's device and of its inode come first.
    let mut info = [0; 29];
    // SAFETY: the descriptor is open, and the kernel writes its 232 bytes, which are there.
    unsafe { call::loop_status(device.as_raw_fd(), &mut info) }.ok()?;
    Some(LoopFile {
        device: info[0],
        inode: info[1],
    })
}

fn sysfs(number: &str) -> PathBuf {
    Path::new("/sys/dev/block").join(number)
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file_system(device: &str) -> FileSystem {
        FileSystem {
            device: device.into(),
            kind: "ext4".into(),
            writable: true,
            on: vec![device.into()],
            places: Vec::new(),
        }
    }

    /// Guards a server against freezing what another frozen file system has still to write to,
    /// which would wait for ever; and file systems of other disks against being frozen.
    #[test]
    fn what_is_in_a_file_is_frozen_before_what_holds_the_file() {
        let all = ["8:1", "7:0", "7:1", "8:17", "7:2"]
            .map(file_system)
            .to_vec();
        let disks = HashSet::from(["8:0".to_string(), "8:1".into()]);
        let within = |inner: &str, outer: &str| (inner.to_string(), vec![outer.to_string()]);
        let held = HashMap::from([
            within("7:0", "8:1"),
            within("7:1", "7:0"),
            // On another disk.
            within("7:2", "8:17"),
        ]);
        let order: Vec<_> = ordered(all, &disks, &held)
            .into_iter()
            .map(|one| one.device)
            .collect();
        assert_eq!(order, ["7:1", "7:0", "8:1"]);
    }

    #[test]
    fn what_holds_itself_ends() {
        let all = vec![file_system("7:0")];
        let held = HashMap::from([("7:0".to_string(), vec!["7:0".to_string()])]);
        assert_eq!(
            ordered(all, &HashSet::from(["7:0".to_string()]), &held).len(),
            1
        );
    }
}
