//! Writes a disk of a recovery point to a file or a device.
//!
//! Spans are fetched side by side and written as they arrive, each at its place, so memory is
//! bounded by the number of spans under way. Every chunk was checked against its id, opened
//! with its authenticated key and found as long as the index says, before it is written. A slow
//! target holds up no worker of the runtime: the line to the vault is kept alive by the same ones.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relevo_wire::ChunkId;
use relevo_wire::index::{Extent, SPAN};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, block_in_place};

use crate::block::BlockRead;
use crate::failure::Failure;
use crate::image::PointDisk;
use crate::image::disk::Spans;
use crate::image::store::{Reason, open};

/// Spans fetched at once: 16 × 4 MiB fill a line of 1 Gbit/s and 150 ms.
const IN_FLIGHT: usize = 16;

/// What file systems allocate by, in bytes.
const BLOCK: usize = 4096;

/// How a restore is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Overwrite what exists: a file with content, a device that is in use.
    pub force: bool,
    /// Write zeros where data cannot be had, and go on.
    pub salvage: bool,
}

/// Bytes of the disk that could not be had.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// Where they begin.
    pub offset: u64,
    /// How many.
    pub length: u64,
    /// Why.
    pub reason: String,
}

/// What a restore wrote.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// Size of the disk in bytes.
    pub disk_bytes: u64,
    /// Bytes of data written.
    pub data_bytes: u64,
    /// Bytes of zeros: holes in a file, zeros on a device.
    pub zero_bytes: u64,
    /// What is zeros because it could not be had, in the order of the disk; only when salvaging.
    pub damaged: Vec<Damage>,
}

/// Progress of a restore, read from another thread.
#[derive(Default)]
pub struct Progress {
    /// Bytes of the disk done with, holes included.
    pub done: AtomicU64,
    /// Set to end the restore early.
    pub cancelled: AtomicBool,
}

/// One restore under way.
struct Job {
    spans: Spans,
    target: Target,
    salvage: bool,
    damaged: Mutex<Vec<Damage>>,
}

/// Restores `disk` to `to`. Unless forced nothing that exists is overwritten: no file with
/// content, no device that is in use.
pub fn restore(
    disk: &PointDisk,
    to: &Path,
    manner: Manner,
    progress: &Arc<Progress>,
) -> Result<Restored, Failure> {
    let job = Arc::new(Job {
        spans: disk.spans(),
        target: Target::open(to, disk.size(), manner.force)?,
        salvage: manner.salvage,
        damaged: Mutex::default(),
    });
    let (progress, working) = (progress.clone(), job.clone());
    let result = disk
        .spans()
        .store()
        .source()
        .wait_for(write_all(working, progress))
        .and_then(|result| result)
        .and_then(|(data, zeros)| {
            if data + zeros == disk.size() {
                return job.target.finish().map(|()| (data, zeros));
            }
            let cause = format!("{} of {} bytes were written", data + zeros, disk.size());
            Err(Failure::new(
                cause,
                "restore again; if it happens again, report it as a defect",
            ))
        });
    if result.is_err() {
        job.target.give_up();
    }
    let (data_bytes, zero_bytes) = result?;
    Ok(Restored {
        disk_bytes: disk.size(),
        data_bytes,
        zero_bytes,
        damaged: job.take_damaged(),
    })
}

async fn write_all(job: Arc<Job>, progress: Arc<Progress>) -> Result<(u64, u64), Failure> {
    let mut under_way = JoinSet::new();
    let result = write_spans(&mut under_way, &job, &progress).await;
    // After a failure nobody writes to the target any more.
    under_way.shutdown().await;
    result
}

async fn write_spans(
    under_way: &mut JoinSet<Result<(u64, u64), Failure>>,
    job: &Arc<Job>,
    progress: &Progress,
) -> Result<(u64, u64), Failure> {
    let (mut data, mut zeros) = (0, 0);
    let mut next = 0;
    loop {
        while under_way.len() < IN_FLIGHT && next < job.spans.count() {
            let (job, span) = (job.clone(), next);
            next += 1;
            under_way.spawn(async move { job.write_span(span).await });
        }
        let Some(done) = under_way.join_next().await else {
            return Ok((data, zeros));
        };
        let (wrote, skipped) = done.map_err(|e| {
            Failure::new(
                format!("a span could not be restored: {e}"),
                "restore again",
            )
        })??;
        data += wrote;
        zeros += skipped;
        progress.done.fetch_add(wrote + skipped, Ordering::Relaxed);
        if progress.cancelled.load(Ordering::Relaxed) {
            return Err(Failure::new(
                "interrupted before the whole disk was written",
                "restore again",
            )
            .with_code(Failure::INTERRUPTED));
        }
    }
}

impl Job {
    async fn write_span(&self, span: u64) -> Result<(u64, u64), Failure> {
        let start = span * SPAN;
        let extents = match self.spans.extents(span).await {
            Ok(extents) => extents,
            Err(reason) => {
                let length = self.spans.length(span);
                return block_in_place(|| self.unavailable(start, length, &reason));
            }
        };
        let (mut wanted, mut zeros) = (Vec::new(), 0);
        let mut at = start;
        for extent in &extents {
            match extent {
                Extent::Data { length, chunk } => wanted.push((at, *chunk, *length as usize)),
                Extent::Zero { length } => {
                    block_in_place(|| self.target.zero(at, u64::from(*length)))?;
                    zeros += u64::from(*length);
                }
            }
            at += u64::from(extent.length());
        }
        let ids: Vec<ChunkId> = wanted.iter().map(|(_, chunk, _)| chunk.id).collect();
        let mut arrived = Vec::with_capacity(ids.len());
        self.spans
            .store()
            .source()
            .fetch(&ids, |i, sealed| arrived.push((i, sealed)))
            .await;
        // All at once: each time a thread leaves the runtime's workers and comes back costs more
        // than a chunk. Of more than the processors at a time none would be done sooner, and the
        // line's driver would wait behind them.
        let _place = self.target.writers.acquire().await;
        let written = block_in_place(|| {
            let mut data = 0;
            for (i, sealed) in arrived {
                let (at, chunk, length) = &wanted[i];
                match open(sealed, chunk, *length) {
                    Ok(bytes) => {
                        self.target.write(*at, &bytes)?;
                        data += bytes.len() as u64;
                    }
                    Err(reason) => zeros += self.unavailable(*at, *length as u64, &reason)?.1,
                }
            }
            Ok(data)
        });
        written.map(|data| (data, zeros))
    }

    /// When salvaging, makes zeros of bytes that cannot be had and notes them; else fails.
    fn unavailable(
        &self,
        offset: u64,
        length: u64,
        reason: &Reason,
    ) -> Result<(u64, u64), Failure> {
        if !self.salvage {
            return Err(Failure::new(
                format!("disk data at offset {offset}: {reason}"),
                "run 'relevo-vault verify' to see what is damaged; choose an older recovery point, or \
                 write what is intact with --packs and --salvage",
            ));
        }
        self.target.zero(offset, length)?;
        let reason = reason.to_string();
        self.damaged().push(Damage {
            offset,
            length,
            reason,
        });
        Ok((0, length))
    }

    fn damaged(&self) -> MutexGuard<'_, Vec<Damage>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_damaged(&self) -> Vec<Damage> {
        let mut damaged = std::mem::take(&mut *self.damaged());
        damaged.sort_by_key(|one| one.offset);
        damaged
    }
}

/// Where the disk goes.
struct Target {
    file: File,
    path: PathBuf,
    /// Whether what was not written reads as zeros.
    blank: bool,
    is_device: bool,
    /// Made by this restore.
    is_new: bool,
    /// Places for those who open and write.
    writers: Semaphore,
}

impl Target {
    fn open(path: &Path, size: u64, force: bool) -> Result<Self, Failure> {
        let io = |e: io::Error| Failure::io(path, &e);
        match std::fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::new_file(path, size),
            Err(e) => Err(io(e)),
            Ok(meta) if meta.file_type().is_block_device() => Self::device(path, size, force),
            Ok(meta) if meta.is_file() => {
                if meta.len() > 0 && !force {
                    return Err(Failure::new(
                        format!("{} exists and is not empty", path.display()),
                        "choose another file, or overwrite it with --force",
                    ));
                }
                Self::file(
                    OpenOptions::new()
                        .write(true)
                        .truncate(true)
                        .open(path)
                        .map_err(io)?,
                    path,
                    size,
                )
            }
            Ok(_) => Err(Failure::new(
                format!("{} is neither a file nor a block device", path.display()),
                "name a file to be made, or a disk such as /dev/sdb",
            )),
        }
    }

    fn new_file(path: &Path, size: u64) -> Result<Self, Failure> {
        // All of a server's secrets are in it.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let target = Self::file(file.map_err(|e| Failure::io(path, &e))?, path, size)?;
        Ok(Self {
            is_new: true,
            ..target
        })
    }

    fn file(file: File, path: &Path, size: u64) -> Result<Self, Failure> {
        file.set_len(size).map_err(|e| Failure::io(path, &e))?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            blank: true,
            is_device: false,
            is_new: false,
            writers: writers(),
        })
    }

    fn device(path: &Path, size: u64, force: bool) -> Result<Self, Failure> {
        // O_EXCL on a block device fails while a file system or another volume holds it.
        let exclusive = if force { 0 } else { libc::O_EXCL };
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(exclusive | libc::O_CLOEXEC)
            .open(path);
        let mut file = match opened {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                return Err(Failure::new(
                    format!("{} is in use", path.display()),
                    "unmount it or stop what uses it; --force overwrites it all the same",
                ));
            }
            other => other.map_err(|e| Failure::io(path, &e))?,
        };
        let capacity =
            io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(|e| Failure::io(path, &e))?;
        if capacity < size {
            return Err(Failure::new(
                format!(
                    "{} has {capacity} bytes, the disk needs {size}",
                    path.display()
                ),
                "restore to a larger device, or to a file",
            ));
        }
        Ok(Self {
            file,
            path: path.to_path_buf(),
            blank: false,
            is_device: true,
            is_new: false,
            writers: writers(),
        })
    }

    /// Writes data. Where holes read as zeros anyway, blocks of zeros within a chunk stay
    /// holes too: a restored file takes no more room than its source.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        if !self.blank {
            return self.write_all(at, bytes);
        }
        // Runs of blocks that hold something, each written at once.
        let mut run = 0..0;
        while run.end < bytes.len() {
            let to_boundary = BLOCK - ((at + run.end as u64) % BLOCK as u64) as usize;
            let end = bytes.len().min(run.end + to_boundary);
            if bytes[run.end..end].iter().all(|&byte| byte == 0) {
                self.write_all(at + run.start as u64, &bytes[run.clone()])?;
                run = end..end;
            } else {
                run.end = end;
            }
        }
        self.write_all(at + run.start as u64, &bytes[run])?;
        Ok(())
    }

    fn write_all(&self, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.file
            .write_all_at(bytes, at)
            .map_err(|e| Failure::io(&self.path, &e))
    }

    fn zero(&self, at: u64, length: u64) -> Result<(), Failure> {
        if self.blank || (self.is_device && zero_out(&self.file, at, length)) {
            return Ok(());
        }
        let zeros = vec![0; length.min(1 << 20) as usize];
        let mut done = 0;
        while done < length {
            let part = (length - done).min(zeros.len() as u64);
            self.write(at + done, &zeros[..part as usize])?;
            done += part;
        }
        Ok(())
    }

    /// After a failure: a part of a disk must not look like a whole one.
    fn give_up(&self) {
        if self.is_device {
            return;
        }
        let undone = if self.is_new {
            std::fs::remove_file(&self.path)
        } else {
            self.file.set_len(0)
        };
        if let Err(error) = undone {
            tracing::warn!(path = %self.path.display(), %error, "an incomplete disk is left");
        }
    }

    fn finish(&self) -> Result<(), Failure> {
        self.file
            .sync_all()
            .map_err(|e| Failure::io(&self.path, &e))?;
        let meta = self
            .file
            .metadata()
            .map_err(|e| Failure::io(&self.path, &e))?;
        tracing::debug!(path = %self.path.display(), blocks = meta.blocks(), "target is on stable storage");
        Ok(())
    }
}

fn writers() -> Semaphore {
    Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from))
}

/// `BLKZEROOUT` of `linux/fs.h`: zeros a range of a device, by discarding where that is the same.
fn zero_out(device: &File, at: u64, length: u64) -> bool {
    const BLKZEROOUT: libc::c_ulong = 0x127f;
    let range = [at, length];
    // SAFETY: the descriptor is open for the call and the argument points to two u64, which
    // the kernel only reads.
    unsafe { libc::ioctl(device.as_raw_fd(), BLKZEROOUT, range.as_ptr()) == 0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn existing_content_is_not_overwritten_without_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        std::fs::write(&path, b"precious").unwrap();
        let error = Target::open(&path, 4096, false).err().unwrap();
        assert!(error.remedy.contains("--force"), "{error:?}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let target = Target::open(&path, 4096, true).unwrap();
        target.zero(0, 4096).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), vec![0; 4096]);
    }

    #[test]
    fn zeros_within_a_chunk_stay_holes_and_data_stays_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        let target = Target::open(&path, 1 << 20, false).unwrap();
        let mut chunk = vec![0; 200_000];
        chunk[0] = 1;
        chunk[50_000] = 2;
        chunk[199_999] = 3;
        target.write(1234, &chunk).unwrap();
        target.finish().unwrap();
        let mut expected = vec![0; 1 << 20];
        expected[1234..1234 + chunk.len()].copy_from_slice(&chunk);
        assert!(std::fs::read(&path).unwrap() == expected);
        assert_eq!(
            std::fs::metadata(&path).unwrap().blocks() * 512,
            3 * BLOCK as u64
        );
    }

    #[test]
    fn a_restored_disk_is_its_owners_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        let target = Target::open(&path, 4096, false).unwrap();
        let mode = target.file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_directory_is_no_target() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Target::open(dir.path(), 4096, true).is_err());
    }
}
