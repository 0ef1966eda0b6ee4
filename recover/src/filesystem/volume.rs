//! The volumes of a server: every partition of every disk, what it holds, and what names it.

use std::rc::Rc;
use std::sync::Arc;

use super::ext::ExtFileSystem;
use super::signature::{self, Content};
use crate::block::{BlockError, BlockRead};
use crate::disk_layout::{DiskLayout, LayoutError, Partition, TableKind, read_layout};

/// A disk of the server, in the order in which the virtual machine gets them.
#[derive(Clone)]
pub struct NamedDisk {
    /// Name on the server, for messages and to resolve `/dev/sda1`: `sda`, `nvme0n1`, or free text.
    pub name: String,
    /// Serial number that the virtual disk shows, so that `/dev/disk/by-id` keeps its meaning.
    pub serial: Option<String>,
    /// Its bytes.
    pub disk: Arc<dyn BlockRead>,
}

/// A partition and what is on it.
pub struct Volume {
    /// Index of its disk.
    pub disk: usize,
    /// Kind of table that lists it.
    pub table: TableKind,
    /// The partition.
    pub partition: Partition,
    /// Device in the virtual machine: `/dev/vda1`.
    pub device: String,
    /// What was recognised.
    pub content: Content,
    /// The file system, if recover reads its kind and it is whole.
    pub fs: Option<Rc<ExtFileSystem>>,
    /// Why `fs` is missing although the kind is read.
    pub problem: Option<String>,
}

impl Volume {
    /// Name in messages: device, name on the server, and content.
    pub fn in_words(&self, disks: &[NamedDisk]) -> String {
        let disk = disks.get(self.disk).map_or("?", |d| d.name.as_str());
        match self.partition.number {
            0 => format!("disk {disk} ({})", self.content.in_words()),
            number => format!(
                "partition {number} of disk {disk} ({})",
                self.content.in_words()
            ),
        }
    }

    /// Name as GRUB spells it, without parentheses.
    pub fn grub_name(&self) -> String {
        match (self.table, self.partition.number) {
            (TableKind::Gpt, n) => format!("hd{},gpt{n}", self.disk),
            (TableKind::Mbr, n) => format!("hd{},msdos{n}", self.disk),
            (TableKind::WholeDisk, _) => format!("hd{}", self.disk),
        }
    }
}

/// What was found on the disks.
pub struct Volumes {
    /// The disks as given.
    pub disks: Vec<NamedDisk>,
    /// Their partition tables, or why one could not be read.
    pub layouts: Vec<Result<DiskLayout, LayoutError>>,
    /// All volumes, in the order of disks and partitions.
    pub all: Vec<Volume>,
}

/// `/dev/vda` for 0, `/dev/vdz` for 25, `/dev/vdaa` for 26.
pub fn virtual_disk(index: usize) -> String {
    let mut letters = Vec::new();
    let mut rest = index;
    loop {
        letters.push(char::from(b'a' + (rest % 26) as u8));
        rest /= 26;
        if rest == 0 {
            break;
        }
        rest -= 1;
    }
    format!("/dev/vd{}", letters.iter().rev().collect::<String>())
}

/// Looks at every disk. A table that cannot be read is kept as that disk's result, because a
/// damaged data disk must not prevent the recovery of the system.
pub fn open_volumes(disks: &[NamedDisk]) -> Result<Volumes, BlockError> {
    let mut layouts = Vec::new();
    let mut all = Vec::new();
    for (index, named) in disks.iter().enumerate() {
        let layout = match read_layout(named.disk.as_ref()) {
            Err(LayoutError::Read(error)) => return Err(error),
            other => other,
        };
        if let Ok(layout) = &layout {
            for partition in &layout.partitions {
                all.push(open(named, index, layout.table, partition)?);
            }
        }
        layouts.push(layout);
    }
    Ok(Volumes {
        disks: disks.to_vec(),
        layouts,
        all,
    })
}

fn open(
    named: &NamedDisk,
    disk: usize,
    table: TableKind,
    partition: &Partition,
) -> Result<Volume, BlockError> {
    let content = signature::probe(named.disk.as_ref(), partition.start, partition.len)?;
    let mut device = virtual_disk(disk);
    if partition.number != 0 {
        device.push_str(&partition.number.to_string());
    }
    let mut volume = Volume {
        disk,
        table,
        partition: partition.clone(),
        device,
        content,
        fs: None,
        problem: None,
    };
    if content == Content::Ext {
        match ExtFileSystem::open(&named.disk, partition.start, partition.len) {
            Ok(fs) => volume.fs = Some(Rc::new(fs)),
            Err(super::FsError::Read(error)) => return Err(error),
            Err(error) => volume.problem = Some(error.to_string()),
        }
    }
    Ok(volume)
}

impl Volumes {
    /// Finds the volume that `spec` names, in any of the spellings of fstab(5) and `root=`.
    /// A device name of the server's own hardware is resolved by the name of the disk, or by
    /// the partition's number where there is but one disk.
    pub fn resolve(&self, spec: &str) -> Option<usize> {
        let spec = spec.trim_matches('"');
        let tag = |name: &str, dir: &str| {
            let value = spec.strip_prefix(name).or_else(|| spec.strip_prefix(dir))?;
            Some(value.trim_matches('"').to_owned())
        };
        if let Some(uuid) = tag("UUID=", "/dev/disk/by-uuid/") {
            return self.by_uuid(&uuid);
        }
        if let Some(uuid) = tag("PARTUUID=", "/dev/disk/by-partuuid/") {
            return self.position(|v| {
                v.partition
                    .part_uuid
                    .as_deref()
                    .is_some_and(|u| u.eq_ignore_ascii_case(&uuid))
            });
        }
        if let Some(label) = tag("LABEL=", "/dev/disk/by-label/") {
            return self.by_label(&label);
        }
        if let Some(name) = tag("PARTLABEL=", "/dev/disk/by-partlabel/") {
            return self.position(|v| v.partition.name.as_deref() == Some(&name));
        }
        let (disk, number) = split_device(spec.strip_prefix("/dev/")?)?;
        let index = match self
            .disks
            .iter()
            .position(|d| d.name.trim_start_matches("/dev/") == disk)
        {
            Some(index) => index,
            None if self.disks.len() == 1 => 0,
            None => (0..self.disks.len())
                .find(|i| virtual_disk(*i).trim_start_matches("/dev/") == disk)?,
        };
        self.position(|v| v.disk == index && v.partition.number == number)
    }

    /// The volume whose file system has this UUID.
    pub fn by_uuid(&self, uuid: &str) -> Option<usize> {
        self.position(|v| {
            v.fs.as_ref()
                .is_some_and(|fs| fs.uuid.eq_ignore_ascii_case(uuid))
        })
    }

    /// The volume whose file system has this label.
    pub fn by_label(&self, label: &str) -> Option<usize> {
        self.position(|v| {
            v.fs.as_ref()
                .is_some_and(|fs| fs.label.as_deref() == Some(label))
        })
    }

    fn position(&self, test: impl Fn(&Volume) -> bool) -> Option<usize> {
        self.all.iter().position(test)
    }
}

/// Splits the name of a partition into disk and number: `sda1`, `nvme0n1p2`, `xvda3`, `hda1`,
/// `cciss/c0d0p1`, `mmcblk0p1`. A disk alone has number 0.
pub fn split_device(name: &str) -> Option<(&str, u32)> {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (stem, number) = name.split_at(name.len() - digits);
    let letters_only = ["sd", "hd", "vd", "xvd", "ubd"]
        .iter()
        .any(|p| stem.starts_with(p));
    if letters_only {
        return Some((stem, if digits == 0 { 0 } else { number.parse().ok()? }));
    }
    let numbered = ["nvme", "mmcblk", "cciss/", "ida/", "rd/", "nbd", "pmem"]
        .iter()
        .any(|p| name.starts_with(p));
    if !numbered {
        return None;
    }
    match stem.strip_suffix('p') {
        Some(disk) if digits > 0 && disk.ends_with(|c: char| c.is_ascii_digit()) => {
            Some((disk, number.parse().ok()?))
        }
        _ => Some((name, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_of_every_kind_of_disk_are_split() {
        assert_eq!(split_device("sda1"), Some(("sda", 1)));
        assert_eq!(split_device("sdab12"), Some(("sdab", 12)));
        assert_eq!(split_device("sda"), Some(("sda", 0)));
        assert_eq!(split_device("nvme0n1p2"), Some(("nvme0n1", 2)));
        assert_eq!(split_device("nvme0n1"), Some(("nvme0n1", 0)));
        assert_eq!(split_device("cciss/c0d0p3"), Some(("cciss/c0d0", 3)));
        assert_eq!(split_device("mapper/vg-root"), None);
        assert_eq!(split_device("md0"), None);
    }

    #[test]
    fn virtual_disks_are_named_as_linux_names_them() {
        assert_eq!(virtual_disk(0), "/dev/vda");
        assert_eq!(virtual_disk(25), "/dev/vdz");
        assert_eq!(virtual_disk(26), "/dev/vdaa");
        assert_eq!(virtual_disk(27), "/dev/vdab");
    }
}
