//! The file systems that are mounted, whoever mounted them and wherever, by their superblocks.
//!
//! A mount's own flags say little: a sandbox shows one read-only that is written all the same.
//! So it is the superblock's state that counts, and all mount namespaces are looked at that a
//! process is in; one that only a file keeps alive is not found.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::inventory::sysfs_text;

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// `major:minor` of its superblock: of the block device, or one made up for it (btrfs).
    pub device: String,
    /// Such as `ext4`.
    pub kind: String,
    /// Whether it can be written to.
    pub writable: bool,
    /// `major:minor` of the block devices that it is on.
    pub on: Vec<String>,
    /// Where it is mounted; at least once.
    pub places: Vec<Place>,
}

/// A mount, which leads to its file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The kernel's number of the mount, in whatever namespace (proc_pid_mountinfo(5)).
    pub mount: u64,
    /// A process that sees it.
    pub process: u32,
    /// Where that process sees it.
    pub point: PathBuf,
}

impl Place {
    /// Opens the mount's root. Fails when something else is there now, or over it.
    pub fn open(&self) -> io::Result<File> {
        let root = PathBuf::from(format!("/proc/{}/root", self.process));
        let inside = self.point.strip_prefix("/").unwrap_or(&self.point);
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
            .open(root.join(inside))?;
        match mount_of(&file) {
            Some(mount) if mount == self.mount => Ok(file),
            _ => Err(io::Error::other("another file system is mounted there")),
        }
    }
}

impl FileSystem {
    /// Opens a file of it, by the first mount that lets one.
    pub fn open(&self) -> io::Result<File> {
        let mut failed = io::Error::other("it is mounted nowhere");
        for place in &self.places {
            match place.open() {
                Ok(file) => return Ok(file),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Where people know it.
    pub fn point(&self) -> String {
        let place = self.places.first();
        place.map_or(self.device.clone(), |p| p.point.display().to_string())
    }
}

/// The number of the mount through which a file was opened.
pub fn mount_of(file: &File) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    line.trim().parse().ok()
}

/// All file systems that are on block devices, in all mount namespaces with a process in them,
/// this one's first.
pub fn all() -> Vec<FileSystem> {
    let mut found = Found::default();
    let mut seen = HashSet::new();
    let own = std::process::id();
    for process in std::iter::once(own).chain(processes()) {
        let namespace = std::fs::read_link(format!("/proc/{process}/ns/mnt"));
        if namespace.is_ok_and(|namespace| seen.insert(namespace))
            && let Ok(mounts) = std::fs::read(format!("/proc/{process}/mountinfo"))
        {
            found.add(process, &mounts);
        }
    }
    found.on_devices(&btrfs_devices())
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Mounts by the number of the superblock.
#[derive(Default)]
struct Found(BTreeMap<String, (FileSystem, Vec<String>)>);

impl Found {
    /// Adds the mounts of a namespace, as `/proc/PID/mountinfo` lists them.
    fn add(&mut self, process: u32, mounts: &[u8]) {
        for line in mounts.split(|byte| *byte == b'\n') {
            let Some((device, kind, source, writable, place)) = parsed(process, line) else {
                continue;
            };
            let (file_system, sources) = self.0.entry(device.clone()).or_insert_with(|| {
                let file_system = FileSystem {
                    device,
                    kind,
                    writable,
                    on: Vec::new(),
                    places: Vec::new(),
                };
                (file_system, Vec::new())
            });
            file_system.places.push(place);
            sources.push(source);
        }
    }

    /// Those on block devices. Of btrfs the devices are looked up in `btrfs`.
    fn on_devices(self, btrfs: &[BtrfsDevices]) -> Vec<FileSystem> {
        let mut all = Vec::new();
        for (mut file_system, sources) in self.0.into_values() {
            file_system.on = match file_system.kind.as_str() {
                "btrfs" => of_btrfs(&file_system, &sources, btrfs),
                _ if file_system.device.starts_with("0:") => continue,
                _ => vec![file_system.device.clone()],
            };
            all.push(file_system);
        }
        all
    }
}

/// Number, kind, source, whether its superblock is writable, and the mount.
fn parsed(process: u32, line: &[u8]) -> Option<(String, String, String, bool, Place)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut fields = line.split(|byte| *byte == b' ');
    let mount = text(fields.next()?).parse().ok()?;
    let device = text(fields.nth(1)?);
    let point = PathBuf::from(OsString::from_vec(unescaped(fields.nth(1)?)));
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let (kind, source) = (text(fields.next()?), text(fields.next()?));
    let writable = fields.next()?.split(|b| *b == b',').any(|o| o == b"rw");
    let place = Place {
        mount,
        process,
        point,
    };
    Some((device, kind, source, writable, place))
}

/// mountinfo writes blanks and backslashes as three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, others)) = rest.split_first() {
        let octal = others.get(..3).filter(|_| *first == b'\\');
        let code =
            octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &others[3..];
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    bytes
}

/// The devices of one btrfs.
struct BtrfsDevices {
    /// Its UUID in hexadecimal digits.
    uuid: String,
    numbers: Vec<String>,
}

/// `/sys/fs/btrfs/UUID/devices` links to the block devices of each btrfs that is mounted.
fn btrfs_devices() -> Vec<BtrfsDevices> {
    let all = std::fs::read_dir("/sys/fs/btrfs").into_iter().flatten();
    let each = all.flatten().filter_map(|entry| {
        let devices = std::fs::read_dir(entry.path().join("devices")).ok()?;
        let numbers = devices.flatten();
        Some(BtrfsDevices {
            uuid: entry.file_name().to_string_lossy().replace('-', ""),
            numbers: numbers
                .filter_map(|device| sysfs_text(&device.path().join("dev")))
                .collect(),
        })
    });
    each.collect()
}

/// The devices of a btrfs, whose superblock has a number that says nothing of them: by what the
/// file system says of itself, else by what was mounted.
fn of_btrfs(file_system: &FileSystem, sources: &[String], all: &[BtrfsDevices]) -> Vec<String> {
    if let Ok(file) = file_system.open()
        && let Some(uuid) = super::freeze::btrfs_uuid(&file)
        && let Some(found) = all.iter().find(|one| one.uuid == uuid)
    {
        return found.numbers.clone();
    }
    let numbers: Vec<_> = sources
        .iter()
        .filter_map(|source| Some(device_number(std::fs::metadata(source).ok()?.rdev())))
        .collect();
    let same = |one: &&BtrfsDevices| one.numbers.iter().any(|number| numbers.contains(number));
    all.iter()
        .find(same)
        .map_or(numbers.clone(), |found| found.numbers.clone())
}

/// As sysfs names a device.
pub fn device_number(device: u64) -> String {
    format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    )
}

/// The number of the superblock of the file system that holds a file of this path.
pub fn holder_of(path: &Path, all: &[FileSystem]) -> Option<String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::PATH.bits() as i32)
        .open(path)
        .ok()?;
    let mount = mount_of(&file)?;
    let holds = |one: &&FileSystem| one.places.iter().any(|place| place.mount == mount);
    Some(all.iter().find(holds)?.device.clone())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MOUNTS: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 22 8:1 / /mnt/with\\040blank ro,relatime - ext4 /dev/sda1 rw
31 22 8:2 / /boot rw,relatime - vfat /dev/sda2 ro,fmask=0022
32 22 0:45 / /data rw - btrfs /dev/nowhere rw,space_cache
33 22 0:5 / /dev rw master:2 - devtmpfs udev rw
garbage
";

    /// Guards against taking what a sandbox sees for the file system's state, and against btrfs
    /// passing for something that is on no disk.
    #[test]
    fn superblocks_count_and_not_their_mounts() {
        let mut found = Found::default();
        found.add(1, MOUNTS);
        let btrfs = [BtrfsDevices {
            uuid: "ab".into(),
            numbers: vec!["8:3".into()],
        }];
        let all = found.on_devices(&btrfs);
        let told: Vec<_> = all
            .iter()
            .map(|one| {
                (
                    one.device.as_str(),
                    one.writable,
                    one.places.len(),
                    one.on.len(),
                )
            })
            .collect();
        // Nobody knows of this btrfs, so that it is on nothing.
        let expected = [
            ("0:45", true, 1, 0),
            ("8:1", true, 2, 1),
            ("8:2", false, 1, 1),
        ];
        assert_eq!(told, expected);
        assert_eq!(all[1].places[1].point, Path::new("/mnt/with blank"));
        assert_eq!(all[1].point(), "/");
    }

    #[test]
    fn what_is_mounted_elsewhere_by_then_is_not_opened() {
        let place = |mount| Place {
            mount,
            process: std::process::id(),
            point: "/proc".into(),
        };
        let own = mount_of(&File::open("/proc").unwrap()).unwrap();
        assert!(place(own).open().is_ok());
        assert!(place(own + 100_000).open().is_err());
    }
}
