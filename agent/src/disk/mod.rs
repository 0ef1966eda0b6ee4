//! A disk to image: a block device or an image file.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use relevo_wire::manifest::Consistency;

mod argument;
mod error;
mod reading;
mod unreadable;

pub use argument::DiskArgument;
pub use error::DiskError;
pub use reading::PageBuffer;
use unreadable::Unreadable;

use crate::inventory::sysfs_text;
use crate::stillness;

/// An open disk.
pub struct Disk {
    name: String,
    path: PathBuf,
    file: File,
    /// Past the page cache, of a block device.
    direct: Option<File>,
    size: u64,
    sector: u32,
    serial: Option<String>,
    /// `major:minor` of a block device.
    device: Option<String>,
    /// The kernel's number of this very disk, where it gives one.
    sequence: Option<String>,
    /// What could not be read.
    unreadable: Mutex<Unreadable>,
    /// Why the run goes on without it.
    lost: OnceLock<String>,
    /// Whether the kernel tells holes from data here.
    holes: bool,
    /// Whether blocks are read that nothing uses.
    all_blocks: bool,
    /// How it was when it was opened.
    before: Before,
}

/// What tells later whether a disk was held still.
struct Before {
    /// Mounted for writing.
    mounted: bool,
    /// Of an image file: when it was last written.
    modified: (i64, i64),
    /// Of a block device: sectors written since the server started.
    written: Option<u64>,
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
            let dir = sysfs(number);
            ["serial", "device/serial"]
                .iter()
                .find_map(|name| sysfs_text(&dir.join(name)))
                .or_else(|| vpd_serial(&std::fs::read(dir.join("device/vpd_pg80")).ok()?))
        });
        let before = Before {
            mounted: stillness::mounted(&path, device.as_deref()).is_some(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            written: device
                .as_deref()
                .and_then(|number| stillness::sectors_written(&sysfs(number))),
        };
        Ok(Self {
            name: argument.name.clone(),
            direct: is_device.then(|| reading::open_direct(&path)).flatten(),
            sequence: device
                .as_deref()
                .and_then(|number| sysfs_text(&sysfs(number).join("diskseq"))),
            unreadable: Mutex::default(),
            lost: OnceLock::new(),
            file,
            size,
            sector,
            serial,
            device,
            holes,
            all_blocks: false,
            before,
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

    /// `major:minor` of a block device.
    pub fn device_number(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Whether it is hardware of this server, rather than an image or a loop device over one.
    pub fn is_own_hardware(&self) -> bool {
        self.device
            .as_deref()
            .is_some_and(|number| sysfs(number).join("device").exists())
    }

    /// The next run of bytes at or after `from` that may hold data: where it begins, which is
    /// before `end`, and where it ends, wherever that is. File systems may look at each page of
    /// the run, so that whoever asks again within it spends the square of the disk.
    pub fn next_data(&self, from: u64, end: u64) -> Result<Option<(u64, u64)>, DiskError> {
        if !self.holes {
            return Ok((from < end).then_some((from, self.size)));
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
        Ok(Some((start, stop)))
    }

    /// Goes on without it.
    pub fn lose(&self, why: &DiskError) {
        // The first reason is the cause.
        let _ = self.lost.set(why.to_string());
    }

    /// Why it is not read any more, if it is not.
    pub fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// Takes all of it as used from now on.
    pub fn read_all_blocks(&mut self) {
        self.all_blocks = true;
    }

    /// Whether all of it is to be taken as used.
    pub fn reads_all_blocks(&self) -> bool {
        self.all_blocks
    }

    /// How still it was held; to be asked when it was read to its end. An image file that became
    /// shorter is an error: what was cut off would be taken for a hole.
    pub fn consistency(&self) -> Result<Consistency, DiskError> {
        let mounted = self.before.mounted || self.mounted_writable().is_some();
        Ok(if self.is_unwritten()? && !mounted {
            Consistency::Offline
        } else {
            Consistency::Fuzzy
        })
    }

    /// Whether nothing was written to it since it was opened, as far as its counts tell. The same
    /// error.
    pub fn is_unwritten(&self) -> Result<bool, DiskError> {
        let Some(number) = &self.device else {
            let metadata = self.file.metadata().map_err(|source| DiskError::Open {
                path: self.path.clone(),
                source,
            })?;
            if metadata.len() < self.size {
                return Err(self.shrank(metadata.len()));
            }
            return Ok((metadata.mtime(), metadata.mtime_nsec()) == self.before.modified);
        };
        let written = stillness::sectors_written(&sysfs(number));
        Ok(written.is_some() && written == self.before.written)
    }

    /// Where it is mounted for writing, if it is: it will then be imaged as it changes.
    pub fn mounted_writable(&self) -> Option<String> {
        stillness::mounted(&self.path, self.device.as_deref())
    }

    fn shrank(&self, offset: u64) -> DiskError {
        DiskError::Shrank {
            path: self.path.clone(),
            offset,
            expected: self.size,
        }
    }
}

/// The serial number in a SCSI unit's vital product data, page 0x80 (SPC-4, 7.8.15): four bytes
/// of header, which are no text, and then the number.
fn vpd_serial(page: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(page.get(4..)?).ok()?;
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_string())
}

/// A block device's directory in sysfs.
fn sysfs(number: &str) -> PathBuf {
    Path::new("/sys/dev/block").join(number)
}

fn device_number(device: u64) -> String {
    format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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

    #[test]
    fn serial_numbers_of_scsi_disks_are_read() {
        let page = b"\x00\x80\x00\x0a  WD-12345";
        assert_eq!(vpd_serial(page).unwrap(), "WD-12345");
        assert_eq!(vpd_serial(b"\x00\x80\x00\x00"), None);
        assert_eq!(vpd_serial(b""), None);
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
