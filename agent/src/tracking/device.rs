//! What the kernel says of a block device: which it is, and how much was written to it.

use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::inventory::sysfs_text;
use crate::stillness;

/// A whole disk of this server, as sysfs shows it.
#[derive(Clone, Debug)]
pub struct Device {
    sysfs: PathBuf,
    /// Major and minor number.
    pub number: (u32, u32),
    /// Counts the disks that the kernel has seen: another one of the same number has another.
    pub sequence: u64,
    /// Bytes.
    pub size: u64,
}

/// A part of a disk whose writes the kernel counts by themselves.
pub struct Part {
    /// Where it is on the disk.
    pub bytes: Range<u64>,
    /// What sysfs shows of it.
    pub sysfs: PathBuf,
}

impl Device {
    /// The device of this path. The error says why writes to it cannot be tracked.
    pub fn of(path: &Path) -> Result<Self, String> {
        let metadata = std::fs::metadata(path).map_err(|e| e.to_string())?;
        if !metadata.file_type().is_block_device() {
            return Err("it is a file, and no disk of this server".into());
        }
        let number = metadata.rdev();
        Self::numbered(rustix::fs::major(number), rustix::fs::minor(number))
    }

    /// All disks whose writes can be tracked.
    pub fn all() -> Vec<Self> {
        let disks = std::fs::read_dir("/sys/block")
            .into_iter()
            .flatten()
            .flatten();
        let numbers = disks.filter_map(|disk| {
            let number = sysfs_text(&disk.path().join("dev"))?;
            let (major, minor) = number.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        numbers
            .filter_map(|(major, minor)| Self::numbered(major, minor).ok())
            .collect()
    }

    fn numbered(major: u32, minor: u32) -> Result<Self, String> {
        let number = (major, minor);
        let sysfs = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        if sysfs.join("partition").exists() {
            return Err("it is a partition: writes are tracked of whole disks".into());
        }
        if !sysfs.join("mq").is_dir() {
            return Err("its driver takes no requests (a volume upon disks, for instance)".into());
        }
        let text = |name: &str| sysfs_text(&sysfs.join(name));
        let counted = text("queue/iostats").is_some_and(|on| on != "0");
        if !counted {
            return Err("the kernel does not count its writes (queue/iostats is 0)".into());
        }
        let parsed = |name: &str| text(name).and_then(|text| text.parse::<u64>().ok());
        let sequence = parsed("diskseq").ok_or("the kernel gives disks no sequence number")?;
        let size = parsed("size").ok_or("the kernel does not say its size")? * 512;
        Ok(Self {
            sysfs,
            number,
            sequence,
            size,
        })
    }

    /// Hardware queues, and requests that each may have under way.
    pub fn queues(&self) -> (u64, u64) {
        let number = |path: &Path| sysfs_text(path)?.parse().ok();
        let queues = std::fs::read_dir(self.sysfs.join("mq"));
        let queues = queues.into_iter().flatten().flatten();
        let tags: Vec<u64> = queues
            .filter_map(|queue| number(&queue.path().join("nr_tags")))
            .collect();
        // A scheduler has numbers of its own.
        let scheduled = number(&self.sysfs.join("queue/nr_requests")).unwrap_or(0);
        let depth = tags.iter().copied().max().unwrap_or(0).max(scheduled);
        (tags.len() as u64, depth)
    }

    /// Sectors written and discarded since the kernel saw the disk.
    pub fn sectors_written(&self) -> Option<u64> {
        stillness::sectors_written(&self.sysfs)
    }

    /// The bytes of the disk, and those of each of its partitions.
    pub fn parts(&self) -> Vec<Range<u64>> {
        let partitions = self.partitions().into_iter().map(|part| part.bytes);
        std::iter::once(0..self.size).chain(partitions).collect()
    }

    /// Its partitions; all of it when there are none.
    pub fn counted_parts(&self) -> Vec<Part> {
        let partitions = self.partitions();
        if !partitions.is_empty() {
            return partitions;
        }
        let (bytes, sysfs) = (0..self.size, self.sysfs.clone());
        vec![Part { bytes, sysfs }]
    }

    fn partitions(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        let entries = std::fs::read_dir(&self.sysfs)
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries.filter(|entry| entry.path().join("partition").exists()) {
            let number = |name: &str| sysfs_text(&entry.path().join(name))?.parse::<u64>().ok();
            if let (Some(start), Some(size)) = (number("start"), number("size")) {
                parts.push(Part {
                    bytes: start * 512..(start + size) * 512,
                    sysfs: entry.path(),
                });
            }
        }
        parts
    }

    /// What tells this disk from another: what its maker or its host gave it.
    pub fn identity(&self) -> String {
        let names = [
            "wwid",
            "serial",
            "device/serial",
            "device/wwid",
            "loop/backing_file",
        ];
        let found = names
            .iter()
            .find_map(|name| sysfs_text(&self.sysfs.join(name)));
        found.unwrap_or_default()
    }
}

/// The file in /dev of a block device, under the name that the kernel gave it.
pub fn node_of((major, minor): (u32, u32)) -> io::Result<PathBuf> {
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent"))?;
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let name = name.ok_or_else(|| io::Error::other("the kernel does not name the device"))?;
    Ok(Path::new("/dev").join(name))
}

/// Tells one run of the kernel from another.
pub fn boot_id() -> Option<String> {
    sysfs_text(Path::new("/proc/sys/kernel/random/boot_id"))
}
