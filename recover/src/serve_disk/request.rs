//! One request of a guest to its disk (virtio 1.2, section 5.2.6). Nothing in it is trusted.

use std::io::{Read, Write};
use std::panic::AssertUnwindSafe;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemoryLoadGuard, GuestMemoryMmap};

use super::ServedDisk;
use crate::block::BlockError;

pub(super) const SECTOR: u64 = 512;
/// Largest run of one discard or write-zeroes, in sectors: 1 GiB.
pub(super) const MAX_RANGE_SECTORS: u32 = 1 << 21;
pub(super) const MAX_RANGES: u32 = 32;
/// Most bytes of one request: what 254 segments of a page carry, with room for larger ones.
const MAX_REQUEST: usize = 16 << 20;

pub(super) type Memory = GuestMemoryMmap<()>;
pub(super) type Chain = DescriptorChain<GuestMemoryLoadGuard<Memory>>;

/// How a request ends, other than well.
enum Refused {
    Unsupported,
    Failed,
}

/// How requests to one disk are done.
pub(super) struct Request<'a> {
    pub(super) disk: &'a ServedDisk,
    pub(super) serial: &'a str,
}

impl Request<'_> {
    /// Does a request; the number of bytes written to the guest.
    pub(super) fn handle(&self, chain: Chain) -> u32 {
        // The guard keeps the guest's memory mapped, whatever the front end does meanwhile.
        let memory = chain.memory().clone();
        let (Ok(mut reader), Ok(mut writer)) = (
            chain.clone().reader::<()>(&memory),
            chain.writer::<()>(&memory),
        ) else {
            return 0;
        };
        // The last writable byte is the status; what is before it is data.
        let Some(room) = writer.available_bytes().checked_sub(1) else {
            return 0;
        };
        let Ok(mut status) = writer.split_at(room) else {
            return 0;
        };
        // Without an answer the guest would wait for ever.
        let attempt = AssertUnwindSafe(|| self.perform(&mut reader, &mut writer, room));
        let outcome = std::panic::catch_unwind(attempt).unwrap_or(Err(Refused::Failed));
        let code = match outcome {
            Ok(()) => VIRTIO_BLK_S_OK,
            Err(Refused::Unsupported) => VIRTIO_BLK_S_UNSUPP,
            Err(Refused::Failed) => VIRTIO_BLK_S_IOERR,
        };
        if status.write_all(&[code as u8]).is_err() {
            return 0;
        }
        writer.bytes_written() as u32 + 1
    }

    fn perform(
        &self,
        reader: &mut impl Readable,
        writer: &mut impl Write,
        room: usize,
    ) -> Result<(), Refused> {
        let mut header = [0; 16];
        reader
            .read_exact(&mut header)
            .map_err(|_| Refused::Failed)?;
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let mut sector = [0; 8];
        sector.copy_from_slice(&header[8..]);
        let offset = u64::from_le_bytes(sector)
            .checked_mul(SECTOR)
            .ok_or(Refused::Failed)?;
        match kind {
            VIRTIO_BLK_T_IN => {
                let mut data = buffer(room)?;
                self.disk.read_at(offset, &mut data).map_err(failed)?;
                writer.write_all(&data).map_err(|_| Refused::Failed)
            }
            VIRTIO_BLK_T_OUT => {
                let mut data = buffer(reader.left())?;
                reader.read_exact(&mut data).map_err(|_| Refused::Failed)?;
                let disk = self.disk.writable().ok_or(Refused::Failed)?;
                disk.write_at(offset, &data).map_err(failed)
            }
            VIRTIO_BLK_T_FLUSH => match self.disk.writable() {
                Some(disk) => disk.flush().map_err(failed),
                None => Ok(()),
            },
            VIRTIO_BLK_T_GET_ID => {
                let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
                let serial = self.serial.as_bytes();
                let length = serial.len().min(id.len());
                id[..length].copy_from_slice(&serial[..length]);
                writer
                    .write_all(&id[..id.len().min(room)])
                    .map_err(|_| Refused::Failed)
            }
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => self.clear(reader),
            _ => Err(Refused::Unsupported),
        }
    }

    /// Discard and write-zeroes: both leave zeros.
    fn clear(&self, reader: &mut impl Readable) -> Result<(), Refused> {
        let disk = self.disk.writable().ok_or(Refused::Failed)?;
        let length = reader.left();
        if length == 0 || !length.is_multiple_of(16) || length / 16 > MAX_RANGES as usize {
            return Err(Refused::Unsupported);
        }
        for _ in 0..length / 16 {
            let mut range = [0; 16];
            reader.read_exact(&mut range).map_err(|_| Refused::Failed)?;
            let mut sector = [0; 8];
            sector.copy_from_slice(&range[..8]);
            let count = u32::from_le_bytes([range[8], range[9], range[10], range[11]]);
            if count > MAX_RANGE_SECTORS {
                return Err(Refused::Unsupported);
            }
            let offset = u64::from_le_bytes(sector)
                .checked_mul(SECTOR)
                .ok_or(Refused::Failed)?;
            disk.discard(offset, u64::from(count) * SECTOR)
                .map_err(failed)?;
        }
        Ok(())
    }
}

fn failed(error: BlockError) -> Refused {
    match error {
        // The guest's own fault, and it could fill this host's disk with complaints.
        BlockError::OutOfRange { .. } => tracing::debug!(%error, "the guest asked for too much"),
        error => tracing::error!(%error, "a disk request failed"),
    }
    Refused::Failed
}

fn buffer(length: usize) -> Result<Vec<u8>, Refused> {
    if length > MAX_REQUEST || !(length as u64).is_multiple_of(SECTOR) {
        return Err(Refused::Failed);
    }
    Ok(vec![0; length])
}

/// The guest's side of a request.
trait Readable: Read {
    /// Bytes not read yet.
    fn left(&self) -> usize;
}

impl Readable for virtio_queue::Reader<'_, ()> {
    fn left(&self) -> usize {
        self.available_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;
    use crate::block::BlockRead;

    struct Zeros;

    impl BlockRead for Zeros {
        fn size(&self) -> u64 {
            1 << 20
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
            crate::block::check_range(offset, buf.len() as u64, self.size())?;
            buf.fill(0);
            Ok(())
        }
    }

    struct Bytes(io::Cursor<Vec<u8>>);

    impl Read for Bytes {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read(buf)
        }
    }

    impl Readable for Bytes {
        fn left(&self) -> usize {
            self.0.get_ref().len() - self.0.position() as usize
        }
    }

    fn perform(kind: u32, sector: u64, body: &[u8], room: usize) -> (Result<(), u32>, Vec<u8>) {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&sector.to_le_bytes());
        bytes.extend_from_slice(body);
        let disk = ServedDisk::ReadOnly(Arc::new(Zeros));
        let request = Request {
            disk: &disk,
            serial: "WD-1",
        };
        let mut out = Vec::new();
        let result = request.perform(&mut Bytes(io::Cursor::new(bytes)), &mut out, room);
        let result = result.map_err(|refused| match refused {
            Refused::Unsupported => VIRTIO_BLK_S_UNSUPP,
            Refused::Failed => VIRTIO_BLK_S_IOERR,
        });
        (result, out)
    }

    /// Guards against guests that ask for what is not there, or not theirs to have.
    #[test]
    fn absurd_requests_fail_and_nothing_else_happens() {
        let failed = Err(VIRTIO_BLK_S_IOERR);
        assert_eq!(perform(VIRTIO_BLK_T_IN, 0, &[], 1024).1.len(), 1024);
        assert_eq!(perform(VIRTIO_BLK_T_IN, 2048, &[], 512).0, failed);
        assert_eq!(perform(VIRTIO_BLK_T_IN, u64::MAX, &[], 512).0, failed);
        assert_eq!(perform(VIRTIO_BLK_T_IN, 0, &[], 100).0, failed);
        assert_eq!(
            perform(VIRTIO_BLK_T_IN, 0, &[], MAX_REQUEST + 512).0,
            failed
        );
        assert_eq!(
            perform(VIRTIO_BLK_T_OUT, 0, &[1; 512], 0).0,
            failed,
            "read-only"
        );
        assert_eq!(
            perform(VIRTIO_BLK_T_DISCARD, 0, &[0; 16], 0).0,
            failed,
            "read-only"
        );
        assert_eq!(perform(99, 0, &[], 0).0, Err(VIRTIO_BLK_S_UNSUPP));
    }

    #[test]
    fn the_serial_number_is_told() {
        let (result, out) = perform(VIRTIO_BLK_T_GET_ID, 0, &[], 20);
        assert_eq!(result, Ok(()));
        assert_eq!(&out[..5], b"WD-1\0");
    }
}
