//! A disk to image: a block device or an image file.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use relevo_wire::manifest::Consistency;

/// Why a disk could not be imaged.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot be opened or examined.
    #[error("disk {path}: {source}")]
    Open {
        /// The disk.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is a directory, socket or the like.
    #[error("{0} is neither a block device nor an image file")]
    NotADisk(PathBuf),
    /// It has no bytes.
    #[error("disk {0} is empty")]
    Empty(PathBuf),
    /// A read failed.
    #[error("disk {path} cannot be read at byte {offset}: {source}")]
    Read {
        /// The disk.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// It became smaller while it was read.
    #[error("disk {path} ends at byte {offset}, where it had {expected} bytes when the run began")]
    Shrank {
        /// The disk.
        path: PathBuf,
        /// Where it ends now.
        offset: u64,
        /// Size at the start.
        expected: u64,
    },
}

impl DiskError {
    /// What the administrator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run the agent as root, or give it read access to the disk"
            }
            Self::Open { .. } => "check the path; 'relevo-agent inventory' lists the local disks",
            Self::NotADisk(_) => "name a block device such as /dev/sda, or a raw image file",
            Self::Empty(_) => "name the disk itself; a drive without medium cannot be imaged",
            Self::Read { .. } => {
                "look at the kernel's log (dmesg) for this disk: replace it if it reports medium \
                 errors, then run the backup again; no recovery point was made"
            }
            Self::Shrank { .. } => {
                "stop what truncates the image and run the backup again; no recovery point was made"
            }
        }
    }
}

/// A disk as named on the command line: `PATH` or `PATH=NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskArgument {
    /// Where it is.
    pub path: PathBuf,
    /// What to call it in the image.
    pub name: String,
}

impl FromStr for DiskArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, name) = match text.rsplit_once('=') {
            // A path may itself have a '=' in it.
            Some((path, name)) if !Path::new(text).exists() => (path, Some(name)),
            _ => (text, None),
        };
        if path.is_empty() {
            return Err("expected PATH or PATH=NAME".into());
        }
        match name {
            None => Ok(Self::from(PathBuf::from(path))),
            Some(name) if is_name(name) => Ok(Self {
                path: path.into(),
                name: name.into(),
            }),
            Some(name) => Err(format!(
                "'{name}' is not a disk's name: letters, digits, '-', '_' and '.' only"
            )),
        }
    }
}

impl From<PathBuf> for DiskArgument {
    /// Named after the file, without its extension.
    fn from(path: PathBuf) -> Self {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let name: String = stem
            .chars()
            .map(|c| if is_name_char(c) { c } else { '-' })
            .collect();
        let name = if name.is_empty() { "disk".into() } else { name };
        Self { path, name }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.chars().all(is_name_char)
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// An open disk.
pub struct Disk {
    name: String,
    path: PathBuf,
    file: File,
    size: u64,
    sector: u32,
    serial: Option<String>,
    /// `major:minor` of a block device.
    device: Option<String>,
    /// Whether the kernel tells holes from data here.
    holes: bool,
    modified: (i64, i64),
}

impl Disk {
    /// Opens it for reading.
    pub fn open(argument: &DiskArgument) -> Result<Self, DiskError> {
        let path = argument.path.clone();
        let fail = |source| DiskError::Open {
            path: path.clone(),
            source,
        };
        // A pipe given by mistake must not block for ever.
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
            .open(&path)
            .map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        let is_device = metadata.file_type().is_block_device();
        if !is_device && !metadata.is_file() {
            return Err(DiskError::NotADisk(path));
        }
        let size = file.seek(SeekFrom::End(0)).map_err(fail)?;
        if size == 0 {
            return Err(DiskError::Empty(path));
        }
        let device = is_device.then(|| device_number(metadata.rdev()));
        let sector = if is_device {
            rustix::fs::ioctl_blksszget(&file).unwrap_or(512)
        } else {
            512
        };
        let holes = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).is_ok();
        let serial = device.as_deref().and_then(|number| {
            let dir = Path::new("/sys/dev/block").join(number);
            ["serial", "device/serial", "device/vpd_pg80"]
                .iter()
                .find_map(|name| crate::inventory::sysfs_text(&dir.join(name)))
        });
        Ok(Self {
            name: argument.name.clone(),
            file,
            size,
            sector,
            serial,
            device,
            holes,
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            path,
        })
    }

    /// Its name in the image.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Logical sector size in bytes.
    pub fn sector(&self) -> u32 {
        self.sector
    }

    /// Serial number of the hardware, where there is one.
    pub fn serial(&self) -> Option<&str> {
        self.serial.as_deref()
    }

    /// Whether it is a block device (rather than an image file).
    pub fn is_device(&self) -> bool {
        self.device.is_some()
    }

    /// Whether it is hardware of this server, rather than an image or a loop device over one.
    pub fn is_own_hardware(&self) -> bool {
        self.device.as_deref().is_some_and(|number| {
            Path::new("/sys/dev/block")
                .join(number)
                .join("device")
                .exists()
        })
    }

    /// Reads exactly `buffer.len()` bytes. After a failure block by block, so that the error
    /// names the very place, and a drive's passing weakness is forgiven.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        match self.read_run(offset, buffer) {
            Err(DiskError::Read { .. }) => {}
            other => return other,
        }
        let mut at = offset;
        for block in buffer.chunks_mut(4096) {
            self.read_run(at, block)?;
            at += block.len() as u64;
        }
        Ok(())
    }

    fn read_run(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            match self.file.read_at(&mut buffer[done..], at) {
                Ok(0) => return Err(self.shrank(at)),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(DiskError::Read {
                        path: self.path.clone(),
                        offset: at,
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// The next run of bytes at or after `from` that may hold data, within `from..end`.
    pub fn next_data(&self, from: u64, end: u64) -> Result<Option<(u64, u64)>, DiskError> {
        if !self.holes {
            return Ok((from < end).then_some((from, end)));
        }
        let fail = |offset, e: rustix::io::Errno| DiskError::Read {
            path: self.path.clone(),
            offset,
            source: e.into(),
        };
        let start = match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(from)) {
            Ok(start) if start < end => start,
            // No data up to the end of the file.
            Ok(_) | Err(rustix::io::Errno::NXIO) => return Ok(None),
            Err(e) => return Err(fail(from, e)),
        };
        let stop = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(start))
            .map_err(|e| fail(start, e))?;
        Ok(Some((start, stop.min(end))))
    }

    /// Lets the kernel forget pages of a range, so that imaging does not push the server's own
    /// out of memory.
    pub fn forget_pages(&self, offset: u64, length: u64) {
        if let Some(length) = std::num::NonZeroU64::new(length) {
            let advice = rustix::fs::Advice::DontNeed;
            // Advice only: a kernel that does not take it images as well.
            let _ = rustix::fs::fadvise(&self.file, offset, Some(length), advice);
        }
    }

    /// How still it was held; to be asked when it was read to its end. An image file that became
    /// shorter is an error: what was cut off would be taken for a hole.
    pub fn consistency(&self) -> Result<Consistency, DiskError> {
        if let Some(number) = &self.device {
            return Ok(match writable_mount(number) {
                Some(_) => Consistency::Fuzzy,
                None => Consistency::Offline,
            });
        }
        let metadata = self.file.metadata().map_err(|source| DiskError::Open {
            path: self.path.clone(),
            source,
        })?;
        if metadata.len() < self.size {
            return Err(self.shrank(metadata.len()));
        }
        let same = (metadata.mtime(), metadata.mtime_nsec()) == self.modified;
        Ok(if same && self.attached_and_mounted().is_none() {
            Consistency::Offline
        } else {
            Consistency::Fuzzy
        })
    }

    /// Where it is mounted for writing, if it is: it will then be imaged as it changes.
    pub fn mounted_writable(&self) -> Option<String> {
        match &self.device {
            Some(number) => writable_mount(number),
            None => self.attached_and_mounted(),
        }
    }

    /// The mount point of a loop device over this image file.
    fn attached_and_mounted(&self) -> Option<String> {
        let own = std::fs::canonicalize(&self.path).ok()?;
        let devices = std::fs::read_dir("/sys/block").ok()?;
        devices.flatten().find_map(|device| {
            let backing = device.path().join("loop/backing_file");
            let backing = crate::inventory::sysfs_text(&backing)?;
            (Path::new(&backing) == own)
                .then(|| crate::inventory::sysfs_text(&device.path().join("dev")))
                .flatten()
                .and_then(|number| writable_mount(&number))
        })
    }

    fn shrank(&self, offset: u64) -> DiskError {
        DiskError::Shrank {
            path: self.path.clone(),
            offset,
            expected: self.size,
        }
    }
}

fn device_number(device: u64) -> String {
    format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    )
}

/// A mount point that writes to the device, one of its partitions, or a volume upon them.
fn writable_mount(number: &str) -> Option<String> {
    let mut numbers = Vec::new();
    dependents(&Path::new("/sys/dev/block").join(number), &mut numbers);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    // proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, options, …
    mounts.lines().find_map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        let [_, _, device, _, target, options, ..] = fields.as_slice() else {
            return None;
        };
        let writable = options.split(',').any(|option| option == "rw");
        (writable && numbers.iter().any(|n| n == device)).then(|| (*target).to_string())
    })
}

/// Numbers of a device, its partitions and whatever is stacked on them.
fn dependents(device: &Path, numbers: &mut Vec<String>) {
    let Some(number) = crate::inventory::sysfs_text(&device.join("dev")) else {
        return;
    };
    if numbers.contains(&number) {
        return;
    }
    numbers.push(number);
    for entry in std::fs::read_dir(device).into_iter().flatten().flatten() {
        if entry.path().join("partition").exists() {
            dependents(&entry.path(), numbers);
        }
    }
    let holders = std::fs::read_dir(device.join("holders"));
    for holder in holders.into_iter().flatten().flatten() {
        dependents(&holder.path(), numbers);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn disks_are_named_after_their_file_or_as_told() {
        let named = |text: &str| text.parse::<DiskArgument>().map(|d| d.name);
        assert_eq!(named("/dev/sda").unwrap(), "sda");
        assert_eq!(named("/srv/old server.raw").unwrap(), "old-server");
        assert_eq!(named("/srv/a.raw=vda").unwrap(), "vda");
        assert!(named("/srv/a.raw=a/b").is_err());
        assert!(named("").is_err());
    }

    #[test]
    fn what_is_no_disk_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let open = |path: &Path| Disk::open(&path.to_path_buf().into());
        assert!(matches!(open(dir.path()), Err(DiskError::NotADisk(_))));
        let empty = dir.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        assert!(matches!(open(&empty), Err(DiskError::Empty(_))));
        let missing = open(&dir.path().join("missing")).err().unwrap();
        assert!(missing.to_string().contains("missing"));
    }

    /// Guards against an image whose tail is silently zeros.
    #[test]
    fn a_file_truncated_while_read_is_an_error_that_names_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        std::fs::write(&path, vec![1; 10_000]).unwrap();
        let disk = Disk::open(&path.clone().into()).unwrap();
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(5000)
            .unwrap();
        let error = disk.read_at(0, &mut [0; 10_000]).unwrap_err();
        assert!(
            matches!(error, DiskError::Shrank { offset: 5000, .. }),
            "{error}"
        );
        assert!(disk.consistency().is_err());
    }
}
