//! A block device (section 5.2) that is a raw image file or a host block device.

mod request;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use super::device::{
    ActivateError, Activation, DeviceError, DeviceKind, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC,
    VirtioDevice, copy_config,
};
use super::interrupt::Interrupt;
use super::worker::{Events, Service, ServiceError, Worker, drain};
use crate::memory::GuestMemory;

/// Bytes in a sector, the unit of all offsets and sizes of the device.
pub const SECTOR: u64 = 512;

/// At most `seg_max` pieces of data in a request.
pub const F_SEG_MAX: u64 = 1 << 2;
/// The device cannot be written.
pub const F_RO: u64 = 1 << 5;
/// The configuration has the block size.
pub const F_BLK_SIZE: u64 = 1 << 6;
/// The device has a cache that can be flushed.
pub const F_FLUSH: u64 = 1 << 9;
/// The device has more than one queue.
pub const F_MQ: u64 = 1 << 12;
/// The device can discard sectors.
pub const F_DISCARD: u64 = 1 << 13;
/// The device can write zeroes without being sent them.
pub const F_WRITE_ZEROES: u64 = 1 << 14;

/// Length of `struct virtio_blk_config` up to the features used here.
pub const CONFIG_SIZE: usize = 60;
/// Offset of the number of queues in it.
pub const CONFIG_NUM_QUEUES: usize = 34;

const QUEUE_SIZE: u16 = 256;
const MAX_QUEUES: u16 = 16;
const SERIAL_SIZE: usize = 20;

/// How a [`RawBlock`] is used.
#[derive(Debug, Clone, Default)]
pub struct BlockOptions {
    /// The guest may not write.
    pub read_only: bool,
    /// What the guest shows as serial number; cut to 20 bytes. Empty for none.
    pub serial: String,
    /// Number of queues, each with a thread of its own; 1–16, 0 means 1.
    pub queues: u16,
}

/// A disk that is a file of this host.
pub struct RawBlock {
    disk: Arc<Disk>,
    path: PathBuf,
    queues: u16,
    workers: Vec<Worker>,
}

/// What the queues of a disk share.
pub(super) struct Disk {
    file: File,
    /// Usable bytes: whole sectors.
    size: u64,
    read_only: bool,
    serial: [u8; SERIAL_SIZE],
}

impl RawBlock {
    /// Opens the disk at `path`, and locks it against other virtual machines (shared when
    /// read-only). The lock ends with the device.
    pub fn open(path: &Path, options: &BlockOptions) -> Result<Self, DeviceError> {
        let failed = |source| DeviceError::Open {
            path: path.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(!options.read_only)
            .open(path)
            .map_err(failed)?;
        let lock = if options.read_only {
            file.try_lock_shared()
        } else {
            file.try_lock()
        };
        match lock {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DeviceError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let len = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if len < SECTOR {
            return Err(DeviceError::Empty {
                path: path.to_owned(),
            });
        }
        if len % SECTOR != 0 {
            tracing::warn!(path = %path.display(), len, "the disk's last sector is incomplete and left out");
        }
        let mut serial = [0; SERIAL_SIZE];
        let given = options.serial.as_bytes();
        let used = given.len().min(SERIAL_SIZE);
        serial[..used].copy_from_slice(&given[..used]);
        Ok(Self {
            disk: Arc::new(Disk {
                file,
                size: len - len % SECTOR,
                read_only: options.read_only,
                serial,
            }),
            path: path.to_owned(),
            queues: options.queues.clamp(1, MAX_QUEUES),
            workers: Vec::new(),
        })
    }

    fn config(&self) -> [u8; CONFIG_SIZE] {
        let mut config = [0; CONFIG_SIZE];
        let mut put = |at: usize, value: &[u8]| config[at..at + value.len()].copy_from_slice(value);
        put(0, &(self.disk.size / SECTOR).to_le_bytes());
        // A request's header and status take two descriptors of the queue.
        put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        put(CONFIG_NUM_QUEUES, &self.queues.to_le_bytes());
        let most = request::MAX_RANGE_SECTORS.to_le_bytes();
        put(36, &most);
        put(40, &request::MAX_RANGES.to_le_bytes());
        // Discarding less than a page of the host's file system frees nothing.
        put(44, &8_u32.to_le_bytes());
        put(48, &most);
        put(52, &request::MAX_RANGES.to_le_bytes());
        put(56, &[1]);
        config
    }
}

impl VirtioDevice for RawBlock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.queues)]
    }

    fn features(&self) -> u64 {
        let mut features =
            F_SEG_MAX | F_BLK_SIZE | F_FLUSH | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;
        if self.disk.read_only {
            features |= F_RO;
        } else {
            features |= F_DISCARD | F_WRITE_ZEROES;
        }
        if self.queues > 1 {
            features |= F_MQ;
        }
        features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.config(), offset, data);
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if activation.queues.is_empty() {
            return Err(ActivateError::Queue(0));
        }
        for active in activation.queues {
            let service = BlockQueue {
                disk: self.disk.clone(),
                // Without FLUSH the driver counts on a write being stable when it is done.
                write_through: activation.features & F_FLUSH == 0,
                memory: activation.memory.clone(),
                index: active.index,
                queue: active.queue,
                kick: active.kick,
                interrupt: activation.interrupt.clone(),
            };
            let name = format!("block-{}", active.index);
            let worker = Worker::for_device(&name, service, activation.interrupt.clone());
            match worker {
                Ok(worker) => self.workers.push(worker),
                Err(error) => {
                    self.reset();
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.workers.clear();
    }
}

impl Drop for RawBlock {
    fn drop(&mut self) {
        self.reset();
        if !self.disk.read_only
            && let Err(error) = self.disk.file.sync_data()
        {
            tracing::error!(path = %self.path.display(), %error, "the disk could not be flushed at the end");
        }
    }
}

struct BlockQueue {
    disk: Arc<Disk>,
    write_through: bool,
    memory: GuestMemory,
    index: u16,
    queue: Queue,
    kick: EventFd,
    interrupt: Interrupt,
}

impl Service for BlockQueue {
    fn register(&self, events: &Events) -> io::Result<()> {
        events.watch(&self.kick, 0)
    }

    fn ready(&mut self, events: &Events, _: u64) -> Result<(), ServiceError> {
        // Someone may have emptied it between the wait and now: a reset does.
        let _ = self.kick.read();
        let Self { disk, memory, .. } = self;
        let (disk, memory, write_through) = (&**disk, &*memory, self.write_through);
        drain(
            &mut self.queue,
            memory,
            events,
            (&self.interrupt, self.index),
            |chain| request::serve(disk, write_through, memory, chain),
        )
    }
}

impl Disk {
    /// Frees `len` bytes; what they read as afterwards is zero where the host can do it.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        match self.fallocate(mode, offset, len) {
            // Discarding is a hint (5.2.6.2): not being able to is no error.
            Err(error) if unsupported(&error) => Ok(()),
            result => result,
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let mode = if unmap {
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE
        } else {
            libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE
        };
        match self.fallocate(mode, offset, len) {
            Err(error) if unsupported(&error) => self.write_zeroes_by_hand(offset, len),
            result => result,
        }
    }

    fn write_zeroes_by_hand(&self, offset: u64, len: u64) -> io::Result<()> {
        let zeroes = vec![0; len.min(1 << 20) as usize];
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let count = (end - at).min(zeroes.len() as u64);
            self.file.write_all_at(&zeroes[..count as usize], at)?;
            at += count;
        }
        Ok(())
    }

    fn fallocate(&self, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        // SAFETY: the file is open, and the call touches no memory of this process. Offset
        // and length were checked against the file's size, which fits an off64_t.
        let result =
            unsafe { libc::fallocate64(self.file.as_raw_fd(), mode, offset as i64, len as i64) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

fn unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::EINVAL)
    )
}

#[cfg(test)]
#[path = "block_test.rs"]
mod tests;
