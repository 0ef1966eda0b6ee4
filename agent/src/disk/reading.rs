//! Reads a disk as it is, and goes on where it cannot be read.
//!
//! Block devices are read past the page cache. A device's pages in memory are not those of its
//! partitions, through which mounted file systems write: they would show what was there when
//! somebody last looked. Image files are read through the cache, which is theirs.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::PoisonError;

use rustix::io::Errno;

use super::{Disk, DiskError, Unreadable, sysfs};
use crate::inventory::sysfs_text;

/// What is read past the page cache begins and ends with these, on the disk and in memory: no
/// disk has larger sectors.
const PAGE: u64 = 4096;
/// Runs that are nearer to each other are read in one: what lies between costs less than another
/// request.
const NEAR: u64 = 64 << 10;
/// What cannot be read at once is tried in pieces of so many bytes.
const PIECES: [u64; 2] = [64 << 10, PAGE];
/// A disk of which more cannot be read is given up.
const MOST_UNREADABLE: u64 = 64 << 20;

/// Memory that begins on a page, as reads past the page cache demand.
#[derive(Default)]
pub struct PageBuffer {
    bytes: Vec<u8>,
}

impl PageBuffer {
    /// `length` bytes of it, of any content.
    pub fn of(&mut self, length: usize) -> &mut [u8] {
        let room = length + PAGE as usize;
        if self.bytes.len() < room {
            // Memory that is zeros already costs nothing until it is touched.
            self.bytes = vec![0; room];
        }
        let at = self.bytes.as_ptr().align_offset(PAGE as usize);
        &mut self.bytes[at..at + length]
    }
}

/// A second way to a block device, past the page cache; none where its driver refuses.
pub(super) fn open_direct(path: &Path) -> Option<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::DIRECT;
    let mut options = File::options();
    let options = options.read(true).custom_flags(flags.bits() as i32);
    let file = options.open(path).ok()?;
    let mut room = PageBuffer::default();
    let refused = |e: &io::Error| Errno::from_io_error(e) == Some(Errno::INVAL);
    match file.read_at(room.of(PAGE as usize), 0) {
        Err(error) if refused(&error) => None,
        _ => Some(file),
    }
}

impl Disk {
    /// Reads exactly `buffer.len()` bytes, or fails.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        if self.direct.is_none() {
            return self.read_run(offset, buffer);
        }
        let window = self.whole_pages(offset..offset + buffer.len() as u64);
        let mut room = PageBuffer::default();
        let bytes = room.of((window.end - window.start) as usize);
        self.read_run(window.start, bytes)?;
        let at = (offset - window.start) as usize;
        buffer.copy_from_slice(&bytes[at..at + buffer.len()]);
        Ok(())
    }

    /// Reads these runs, which ascend, into a buffer that begins at `start` of the disk and on a
    /// page; all else in the buffer becomes zeros. So does what cannot be read, which
    /// [`unreadable`](Self::unreadable) tells. `start` is a multiple of 4096.
    pub fn read_runs(
        &self,
        start: u64,
        runs: &[(u64, u64)],
        buffer: &mut [u8],
    ) -> Result<(), DiskError> {
        let within =
            |bytes: &Range<u64>| (bytes.start - start) as usize..(bytes.end - start) as usize;
        for window in self.windows(runs) {
            match self.read_run(window.start, &mut buffer[within(&window)]) {
                Ok(()) => self.note(window, false)?,
                Err(error) if is_weakness(&error) => {
                    // What lies between runs is nobody's loss.
                    let inside = |run: &&(u64, u64)| window.contains(&run.0);
                    for &(from, to) in runs.iter().filter(inside) {
                        let pages = self.whole_pages(from..to);
                        let bytes = &mut buffer[within(&pages)];
                        self.read_pieces(pages, bytes, &PIECES)?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let mut end = start;
        for (from, to) in runs {
            buffer[within(&(end..*from))].fill(0);
            end = *to;
        }
        let rest = (end - start) as usize;
        buffer[rest..].fill(0);
        Ok(())
    }

    /// Bytes that could not be read since the run began, and are zeros in what was read.
    pub fn unreadable(&self) -> Vec<(u64, u64)> {
        self.weak().to_vec()
    }

    /// Reads all anew.
    pub fn forget_unreadable(&self) {
        *self.weak() = Unreadable::default();
    }

    fn weak(&self) -> std::sync::MutexGuard<'_, Unreadable> {
        // Each change is whole by itself.
        self.unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What is read in one, ascending.
    fn windows(&self, runs: &[(u64, u64)]) -> Vec<Range<u64>> {
        let mut windows: Vec<Range<u64>> = Vec::new();
        for &(from, to) in runs {
            let next = match self.direct {
                Some(_) => self.whole_pages(from..to),
                None => from..to,
            };
            match windows.last_mut() {
                Some(last) if self.direct.is_some() && next.start <= last.end + NEAR => {
                    last.end = last.end.max(next.end);
                }
                _ => windows.push(next),
            }
        }
        windows
    }

    fn whole_pages(&self, bytes: Range<u64>) -> Range<u64> {
        bytes.start / PAGE * PAGE
            ..bytes
                .end
                .next_multiple_of(PAGE)
                .min(self.size)
                .max(bytes.end)
    }

    fn read_run(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        let file = self.direct.as_ref().unwrap_or(&self.file);
        if self.direct.is_none() && self.device.is_some() {
            self.forget_pages(offset, buffer.len());
        }
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            match file.read_at(&mut buffer[done..], at) {
                Ok(0) => return Err(self.shrank(at)),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let path = self.path.clone();
                    return Err(match self.is_gone(&source) {
                        true => DiskError::Gone {
                            path,
                            offset: at,
                            source,
                        },
                        false => DiskError::Read {
                            path,
                            offset: at,
                            source,
                        },
                    });
                }
            }
        }
        if self.direct.is_none() {
            self.forget_pages(offset, buffer.len());
        }
        Ok(())
    }

    /// Lets the kernel forget pages that were read, so that imaging does not push the server's own
    /// out of memory. Pages that others had read go too: the kernel reads ahead, so that one
    /// cannot tell theirs from ours. Pages that these bytes share with others included: the
    /// kernel keeps those that a range does not cover.
    fn forget_pages(&self, offset: u64, length: usize) {
        let start = offset / PAGE * PAGE;
        let end = (offset + length as u64).next_multiple_of(PAGE);
        if let Some(length) = std::num::NonZeroU64::new(end - start) {
            let advice = rustix::fs::Advice::DontNeed;
            // Advice only: a kernel that does not take it images as well.
            let _ = rustix::fs::fadvise(&self.file, start, Some(length), advice);
        }
    }

    /// Reads in ever smaller pieces; what fails even in sectors is zeros.
    fn read_pieces(
        &self,
        bytes: Range<u64>,
        buffer: &mut [u8],
        sizes: &[u64],
    ) -> Result<(), DiskError> {
        let (piece, smaller) = match sizes {
            [piece, smaller @ ..] => (*piece, smaller),
            // A drive of larger physical sectors fails all of one.
            [] => (
                self.direct.as_ref().map_or(PAGE, |_| self.sector.into()),
                sizes,
            ),
        };
        let mut at = bytes.start;
        for part in buffer.chunks_mut(piece as usize) {
            let end = at + part.len() as u64;
            match self.read_run(at, part) {
                Ok(()) => self.note(at..end, false)?,
                Err(error) if !is_weakness(&error) => return Err(error),
                Err(_) if !sizes.is_empty() => self.read_pieces(at..end, part, smaller)?,
                Err(error) => {
                    tracing::debug!("{error}: {} bytes are zeros in the image", part.len());
                    part.fill(0);
                    self.note(at..end, true)?;
                }
            }
            at = end;
        }
        Ok(())
    }

    /// Remembers what could, or could not, be read.
    fn note(&self, bytes: Range<u64>, failed: bool) -> Result<(), DiskError> {
        let mut weak = self.weak();
        match failed {
            true => weak.add(bytes.clone()),
            false if weak.is_empty() => {}
            false => weak.remove(bytes.clone()),
        }
        match weak.bytes() {
            lost if lost > MOST_UNREADABLE => Err(DiskError::Failing {
                path: self.path.clone(),
                offset: bytes.end,
                bytes: lost,
            }),
            _ => Ok(()),
        }
    }

    /// Whether an error means that the disk is not there any more.
    fn is_gone(&self, error: &io::Error) -> bool {
        let gone = [
            Errno::NXIO,
            Errno::NODEV,
            Errno::NOMEDIUM,
            Errno::SHUTDOWN,
            Errno::NOLINK,
        ];
        let said = Errno::from_io_error(error).is_some_and(|errno| gone.contains(&errno));
        let Some(number) = self.device.as_deref() else {
            return said;
        };
        said || !is_there(&sysfs(number), self.sequence.as_deref())
    }
}

/// Whether the drive is there and could not read some of it: what the kernel makes of a medium
/// error differs (`blk_errors` in block/blk-core.c of Linux).
fn is_weakness(error: &DiskError) -> bool {
    let medium = [
        Errno::IO,
        Errno::NODATA,
        Errno::ILSEQ,
        Errno::REMOTEIO,
        Errno::TIMEDOUT,
    ];
    match error {
        DiskError::Read { source, .. } => {
            Errno::from_io_error(source).is_some_and(|errno| medium.contains(&errno))
        }
        _ => false,
    }
}

/// Whether the device of this directory is the one of that sequence number, and works.
fn is_there(device: &Path, sequence: Option<&str>) -> bool {
    let text = |name: &str| sysfs_text(&device.join(name));
    // Of a SCSI unit (scsi_device_state in include/scsi/scsi_device.h) or an NVMe controller.
    let lost = [
        "offline",
        "transport-offline",
        "cancel",
        "deleted",
        "dead",
        "deleting",
    ];
    let state = text("device/state");
    let works = state.is_none_or(|state| !lost.iter().any(|lost| state.starts_with(lost)));
    works && device.exists() && (sequence.is_none() || text("diskseq").as_deref() == sequence)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards against taking a disk that was pulled for one with a great many bad sectors, which
    /// would take hours to find out.
    #[test]
    fn a_disk_that_is_not_there_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("8:0");
        assert!(!is_there(&device, None));
        std::fs::create_dir_all(device.join("device")).unwrap();
        std::fs::write(device.join("diskseq"), "7\n").unwrap();
        assert!(is_there(&device, Some("7")) && is_there(&device, None));
        assert!(!is_there(&device, Some("6")));
        for (state, there) in [("running", true), ("live", true), ("offline", false)] {
            std::fs::write(device.join("device/state"), format!("{state}\n")).unwrap();
            assert_eq!(is_there(&device, Some("7")), there, "{state}");
        }
    }

    /// Guards reads past the page cache, which the kernel refuses elsewhere.
    #[test]
    fn a_page_buffer_begins_on_a_page() {
        let mut buffer = PageBuffer::default();
        for length in [1, 5000, 4096, 4 << 20] {
            let bytes = buffer.of(length);
            assert_eq!(bytes.len(), length);
            assert_eq!(bytes.as_ptr() as usize % PAGE as usize, 0);
        }
    }
}
