//! Signs that somebody writes to a disk while it is imaged: mounts, and counts of writes.

use std::path::Path;

use crate::consistency::mounts::{self, FileSystem};
use crate::consistency::stack;
use crate::inventory::sysfs_text;

/// Where a disk is mounted for writing: a block device by its number (`major:minor`), an image
/// file by the loop device over it.
pub fn mounted(path: &Path, number: Option<&str>) -> Option<String> {
    match number {
        Some(number) => writable_mount(number),
        None => attached_and_mounted(path),
    }
}

/// Sectors of 512 bytes written to a block device and discarded, its partitions included, since
/// the kernel saw it, when they were completed: the seventh and, since Linux 4.18, the fourteenth
/// number of its `stat` (Documentation/block/stat.rst of Linux).
pub fn sectors_written(device: &Path) -> Option<u64> {
    let stat = sysfs_text(&device.join("stat"))?;
    let mut numbers = stat.split_whitespace().map(|number| number.parse().ok());
    let written: u64 = numbers.nth(6)??;
    let discarded = numbers.nth(6).unwrap_or(Some(0))?;
    Some(written + discarded)
}

/// The mount point of a loop device over an image file.
fn attached_and_mounted(path: &Path) -> Option<String> {
    let own = std::fs::canonicalize(path).ok()?;
    let devices = std::fs::read_dir("/sys/block").ok()?;
    devices.flatten().find_map(|device| {
        let backing = sysfs_text(&device.path().join("loop/backing_file"))?;
        (Path::new(&backing) == own)
            .then(|| sysfs_text(&device.path().join("dev")))
            .flatten()
            .and_then(|number| writable_mount(&number))
    })
}

/// Where a file system is mounted that is on the device, one of its partitions, or a volume upon
/// them, and takes writes.
fn writable_mount(number: &str) -> Option<String> {
    let numbers = stack::upon(number);
    let writes = |one: &FileSystem| one.writable && one.on.iter().any(|n| numbers.contains(n));
    mounts::all()
        .iter()
        .find(|one| writes(one))
        .map(FileSystem::point)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards against calling an image consistent that somebody wrote to by the device itself.
    #[test]
    fn writes_to_a_device_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(sectors_written(dir.path()), None);
        let stat = "  75 0 9912 31 4 5 816 7 0 52 60 0 0 0 0 0 0\n";
        std::fs::write(dir.path().join("stat"), stat).unwrap();
        assert_eq!(sectors_written(dir.path()), Some(816));
        let stat = "75 0 9912 31 4 5 816 7 0 52 60 1 0 24 0 0 0\n";
        std::fs::write(dir.path().join("stat"), stat).unwrap();
        assert_eq!(sectors_written(dir.path()), Some(840));
        std::fs::write(dir.path().join("stat"), "75 0 9912 31 4 5 816 7 0 52 60").unwrap();
        assert_eq!(sectors_written(dir.path()), Some(816));
    }
}
