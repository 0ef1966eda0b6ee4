//! What was written to a disk before anybody could mark it, when that is known all the same: the
//! checks of clean file systems, which an initramfs makes before anything else runs.
//!
//! The kernel counts what was written to each partition. When that is, to the sector, what a check
//! of its clean ext2/3/4 writes, and the superblock says that it was written in this run of the
//! kernel, then there was no room for any other write.

use std::ops::Range;
use std::sync::Arc;

use super::device::{Device, node_of};
use crate::disk::Disk;
use crate::stillness::sectors_written;
use crate::used::DiskSource;
use crate::used::ext::{CheckWrites, writes_of_a_check};
use crate::used::volume::Volume;

/// Where the `total` sectors were written that the kernel counted so far, if all that wrote them
/// were checks of clean file systems.
pub(super) fn places(device: &Device, total: u64) -> Option<Vec<Range<u64>>> {
    let boot = boot_time()?;
    let disk = Disk::open(&node_of(device.number).ok()?.into()).ok()?;
    let source = DiskSource::new(&disk);
    let whole = Arc::new(source.volume(0));
    let (mut places, mut known) = (Vec::new(), 0);
    for part in device.counted_parts() {
        let sectors = sectors_written(&part.sysfs)?;
        if sectors == 0 {
            continue;
        }
        let (start, length) = (part.bytes.start, part.bytes.end - part.bytes.start);
        let volume = Volume::part(&whole, start, length).ok()?;
        let check = writes_of_a_check(&volume).ok()?;
        if !explains(&check, sectors, boot) {
            return None;
        }
        known += sectors;
        let within = check.places.iter();
        places.extend(within.map(|(from, to)| start + from..start + to));
    }
    // Counts are taken one after the other: what was written meanwhile makes them differ.
    (known == total && device.sectors_written() == Some(total)).then_some(places)
}

fn explains(check: &CheckWrites, sectors: u64, boot: u64) -> bool {
    check.written >= boot && check.sectors.contains(&sectors)
}

/// When the kernel was started, in seconds since 1970 (proc_stat(5)).
fn boot_time() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against taking any other write for a check's.
    #[test]
    fn nothing_but_a_check_of_this_run_explains_what_was_written() {
        let check = CheckWrites {
            written: 1000,
            places: Vec::new(),
            sectors: vec![10, 16],
        };
        assert!(explains(&check, 10, 1000) && explains(&check, 16, 900));
        for (sectors, boot) in [(9, 900), (18, 900), (10, 1001)] {
            assert!(!explains(&check, sectors, boot));
        }
    }
}
