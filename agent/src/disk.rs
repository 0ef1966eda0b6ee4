//! A disk to image: a block device or an image file.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use relevo_wire::manifest::Consistency;

pub use crate::disk_argument::DiskArgument;
use crate::stillness;

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

/// Bytes of a page of memory.
const PAGE: u64 = 4096;

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
                .find_map(|name| crate::inventory::sysfs_text(&dir.join(name)))
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

    /// Whether it is hardware of this server, rather than an image or a loop device over one.
    pub fn is_own_hardware(&self) -> bool {
        self.device
            .as_deref()
            .is_some_and(|number| sysfs(number).join("device").exists())
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

    /// As [`read_at`](Self::read_at), and lets the kernel forget the pages, so that imaging does
    /// not push the server's own out of memory. Pages of this very disk or file that others had
    /// read go too: the kernel reads ahead, so that one cannot tell theirs from ours, and
    /// without reading ahead a run takes twice as long.
    ///
    /// Of a block device they go before it is read, too: its pages are not those of its
    /// partitions, through which a mounted file system writes, and would show what was there.
    pub fn read_aside(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        if self.device.is_some() {
            self.forget_pages(offset, buffer.len());
        }
        self.read_at(offset, buffer)?;
        self.forget_pages(offset, buffer.len());
        Ok(())
    }

    /// Pages that these bytes share with others included: the kernel keeps those that a range
    /// does not cover.
    fn forget_pages(&self, offset: u64, length: usize) {
        let start = offset / PAGE * PAGE;
        let end = (offset + length as u64).next_multiple_of(PAGE);
        if let Some(length) = std::num::NonZeroU64::new(end - start) {
            let advice = rustix::fs::Advice::DontNeed;
            // Advice only: a kernel that does not take it images as well.
            let _ = rustix::fs::fadvise(&self.file, start, Some(length), advice);
        }
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
        let same = match &self.device {
            Some(number) => stillness::sectors_written(&sysfs(number)) == self.before.written,
            None => {
                let metadata = self.file.metadata().map_err(|source| DiskError::Open {
                    path: self.path.clone(),
                    source,
                })?;
                if metadata.len() < self.size {
                    return Err(self.shrank(metadata.len()));
                }
                (metadata.mtime(), metadata.mtime_nsec()) == self.before.modified
            }
        };
        let mounted = self.before.mounted || self.mounted_writable().is_some();
        Ok(if same && !mounted {
            Consistency::Offline
        } else {
            Consistency::Fuzzy
        })
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
