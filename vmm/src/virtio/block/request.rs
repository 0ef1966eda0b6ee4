//! One request to a block device (section 5.2.6).

use virtio_queue::DescriptorChain;

use super::Target;
use crate::buffers::Buffers;
use crate::disk::{AccessError, Disk};
use crate::memory::GuestMemory;
use crate::virtio::LogBudget;
use crate::virtio::chain::split;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

const HEADER_SIZE: usize = 16;
const RANGE_SIZE: usize = 16;
const RANGE_UNMAP: u32 = 1;

/// Most ranges in one discard or write-zeroes request.
pub const MAX_RANGES: u32 = 64;
/// Most sectors in one such range (2 GiB).
pub const MAX_RANGE_SECTORS: u32 = 1 << 22;

static COMPLAINTS: LogBudget = LogBudget::new();
static FAILURES: LogBudget = LogBudget::new();

/// Why a request failed, as the status byte will say it.
enum Failure {
    Unsupported,
    Invalid(&'static str),
    Refused(AccessError),
}

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        Self::Refused(error)
    }
}

/// Does the request in `chain` and returns the bytes written into it, 0 for a chain that
/// has no room for a status.
pub(super) fn serve(
    target: &Target,
    write_through: bool,
    memory: &GuestMemory,
    chain: DescriptorChain<&GuestMemory>,
) -> u32 {
    let (readable, mut writable) = match split(memory, chain) {
        Ok(sides) => sides,
        Err(error) => {
            if COMPLAINTS.allows() {
                tracing::warn!(%error, "a block driver sent a broken chain");
            }
            return 0;
        }
    };
    let mut status = writable.take_end(1);
    if status.is_empty() {
        if COMPLAINTS.allows() {
            tracing::warn!("a block driver sent a request without a status byte");
        }
        return 0;
    }
    let data_len = writable.len() as u32;
    let result = perform(target, readable, writable);
    let result = match result {
        Ok(Done::Wrote) if write_through => target.disk.flush().map_err(Failure::from).map(|()| 0),
        Ok(Done::Wrote) => Ok(0),
        Ok(Done::Filled) => Ok(data_len),
        Err(failure) => Err(failure),
    };
    let (code, filled) = match result {
        Ok(filled) => (OK, filled),
        Err(Failure::Unsupported) => (UNSUPPORTED, 0),
        Err(Failure::Invalid(reason)) => {
            if COMPLAINTS.allows() {
                tracing::warn!(reason, "a block driver sent an invalid request");
            }
            (IO_ERROR, 0)
        }
        Err(Failure::Refused(reason)) if !matches!(reason, AccessError::Io(_)) => {
            if COMPLAINTS.allows() {
                tracing::warn!(%reason, "a block driver sent an invalid request");
            }
            (IO_ERROR, 0)
        }
        Err(Failure::Refused(error)) => {
            if FAILURES.allows() {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "a request failed");
            }
            (IO_ERROR, 0)
        }
    };
    status.write_from(&[code]);
    filled.saturating_add(1)
}

enum Done {
    Filled,
    Wrote,
}

fn perform(
    target: &Target,
    mut readable: Buffers<'_>,
    mut writable: Buffers<'_>,
) -> Result<Done, Failure> {
    let mut header = [0; HEADER_SIZE];
    if !readable.read_into(&mut header) {
        return Err(Failure::Invalid("no header"));
    }
    let disk = &target.disk;
    let kind = le_u32(&header[..4]);
    let sector = le_u64(&header[8..]);
    match kind {
        IN => {
            disk.read(sector, &mut writable)?;
            Ok(Done::Filled)
        }
        OUT => {
            disk.write(sector, &mut readable)?;
            Ok(Done::Wrote)
        }
        FLUSH => {
            disk.flush()?;
            Ok(Done::Filled)
        }
        GET_ID => {
            if !writable.write_all(&target.serial) {
                return Err(Failure::Invalid("no room for the serial number"));
            }
            Ok(Done::Filled)
        }
        DISCARD | WRITE_ZEROES => {
            each_range(disk, kind, readable)?;
            Ok(Done::Wrote)
        }
        _ => Err(Failure::Unsupported),
    }
}

fn each_range(disk: &Disk, kind: u32, mut readable: Buffers<'_>) -> Result<(), Failure> {
    let count = readable.len() / RANGE_SIZE;
    if count == 0 || count > MAX_RANGES as usize || !readable.len().is_multiple_of(RANGE_SIZE) {
        return Err(Failure::Invalid("a list of ranges of the wrong length"));
    }
    for _ in 0..count {
        let mut range = [0; RANGE_SIZE];
        readable.read_into(&mut range);
        let sectors = le_u32(&range[8..12]);
        let flags = le_u32(&range[12..]);
        let unmap = flags & RANGE_UNMAP != 0;
        if flags & !RANGE_UNMAP != 0 || (kind == DISCARD && unmap) {
            return Err(Failure::Unsupported);
        }
        if sectors > MAX_RANGE_SECTORS {
            return Err(Failure::Invalid("a range that is too long"));
        }
        let (sector, sectors) = (le_u64(&range[..8]), u64::from(sectors));
        if kind == DISCARD {
            disk.discard(sector, sectors)?;
        } else {
            disk.write_zeroes(sector, sectors, unmap)?;
        }
    }
    Ok(())
}

fn le_u32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn le_u64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}
