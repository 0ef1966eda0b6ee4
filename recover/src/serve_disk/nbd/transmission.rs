//! What a client asks of an export: the protocol's transmission phase with simple replies.

use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::{MAX_PAYLOAD, Shut, array, invalid};
use crate::block::BlockError;
use crate::serve_disk::ServedDisk;
use crate::serve_disk::workers::Workers;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;

const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_DISC: u16 = 2;
const CMD_FLUSH: u16 = 3;
const CMD_TRIM: u16 = 4;
const CMD_WRITE_ZEROES: u16 = 6;
const CMD_FLAG_FUA: u16 = 1;

const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const ENOTSUP: u32 = 95;

/// Requests of one connection that are done side by side, and that may wait.
const WORKERS: usize = 8;
const WAITING: usize = 8;
/// Bytes that the requests of one connection may hold: two of the largest.
const MAX_HELD: usize = 2 * MAX_PAYLOAD as usize;

struct Command {
    flags: u16,
    kind: u16,
    cookie: [u8; 8],
    offset: u64,
    length: u32,
    data: Vec<u8>,
}

impl Command {
    /// Bytes of memory that it takes until it is answered.
    fn needs(&self) -> usize {
        match self.kind {
            CMD_READ | CMD_WRITE => self.length.min(MAX_PAYLOAD) as usize,
            _ => 0,
        }
    }
}

/// What the requests of one connection may hold, so that a client that asks for much and reads
/// nothing fills its own share only.
#[derive(Clone, Default)]
struct Memory(Arc<(Mutex<usize>, Condvar)>);

/// A part of it, given back when dropped.
struct Held {
    memory: Memory,
    bytes: usize,
}

impl Memory {
    /// Waits until there is room.
    fn take(&self, bytes: usize) -> Held {
        let (used, freed) = &*self.0;
        let guard = used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut guard = freed
            .wait_while(guard, |used| *used + bytes > MAX_HELD)
            .unwrap_or_else(PoisonError::into_inner);
        *guard += bytes;
        Held {
            memory: self.clone(),
            bytes,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (used, freed) = &*self.memory.0;
        *used.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        freed.notify_all();
    }
}

/// Answers requests until the client leaves.
pub(super) fn transmit<S: Write + Shut + Send + 'static>(
    input: &mut impl Read,
    output: S,
    disk: &ServedDisk,
) -> io::Result<()> {
    let output = Arc::new(Mutex::new(output));
    let memory = Memory::default();
    let workers = Workers::start("nbd-request", WORKERS, WAITING)?;
    loop {
        let mut command = match read_command(input) {
            Ok(command) => command,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        };
        let held = memory.take(command.needs());
        if command.kind == CMD_WRITE {
            command.data = vec![0; command.length as usize];
            input.read_exact(&mut command.data)?;
        }
        if command.kind == CMD_DISC {
            // Dropping the workers finishes what is under way.
            return Ok(());
        }
        let (disk, output) = (disk.clone(), output.clone());
        workers.give(move || {
            let _held = held;
            let mut bytes = SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
            let (code, data) = match perform(&command, &disk) {
                Ok(data) => (0, data),
                Err(code) => (code, Vec::new()),
            };
            bytes.extend_from_slice(&u32::to_be_bytes(code));
            bytes.extend_from_slice(&command.cookie);
            let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
            if output
                .write_all(&bytes)
                .and_then(|()| output.write_all(&data))
                .is_err()
            {
                output.shut();
            }
        });
    }
}

/// The head of a request, before its data.
fn read_command(input: &mut impl Read) -> io::Result<Command> {
    if u32::from_be_bytes(array(input)?) != REQUEST_MAGIC {
        return Err(invalid("not an NBD request"));
    }
    let command = Command {
        flags: u16::from_be_bytes(array(input)?),
        kind: u16::from_be_bytes(array(input)?),
        cookie: array(input)?,
        offset: u64::from_be_bytes(array(input)?),
        length: u32::from_be_bytes(array(input)?),
        data: Vec::new(),
    };
    if command.kind == CMD_WRITE && command.length > MAX_PAYLOAD {
        return Err(invalid("an NBD write too long"));
    }
    Ok(command)
}

fn perform(command: &Command, disk: &ServedDisk) -> Result<Vec<u8>, u32> {
    let (offset, length) = (command.offset, u64::from(command.length));
    let code = |error: BlockError| match &error {
        BlockError::OutOfRange { .. } if command.kind == CMD_READ => EINVAL,
        BlockError::OutOfRange { .. } => ENOSPC,
        BlockError::Io { source, .. } if source.raw_os_error() == Some(libc::ENOSPC) => ENOSPC,
        other => {
            tracing::error!(error = %other, "an NBD request failed");
            EIO
        }
    };
    let mut answer = Vec::new();
    match command.kind {
        CMD_READ => {
            if command.length > MAX_PAYLOAD {
                return Err(EINVAL);
            }
            answer = vec![0; command.length as usize];
            disk.read_at(offset, &mut answer).map_err(code)?;
        }
        CMD_FLUSH => {
            if let Some(disk) = disk.writable() {
                disk.flush().map_err(code)?;
            }
        }
        CMD_WRITE | CMD_TRIM | CMD_WRITE_ZEROES => {
            let disk = disk.writable().ok_or(EPERM)?;
            if command.kind == CMD_WRITE {
                disk.write_at(offset, &command.data).map_err(code)?;
            } else {
                disk.discard(offset, length).map_err(code)?;
            }
            if command.flags & CMD_FLAG_FUA != 0 {
                disk.flush().map_err(code)?;
            }
        }
        _ => return Err(ENOTSUP),
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::exports;
    use super::*;

    #[test]
    fn writes_to_a_read_only_export_and_beyond_the_end_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let exports = exports(dir.path());
        let command = |kind, offset, length: u32| Command {
            flags: 0,
            kind,
            cookie: [0; 8],
            offset,
            length,
            data: vec![1; length as usize],
        };
        let (rw, ro) = (&exports[0].disk, &exports[1].disk);
        assert_eq!(perform(&command(CMD_WRITE, 0, 512), ro), Err(EPERM));
        assert_eq!(perform(&command(CMD_WRITE, 1 << 20, 512), rw), Err(ENOSPC));
        assert_eq!(perform(&command(CMD_READ, u64::MAX, 512), rw), Err(EINVAL));
        assert_eq!(perform(&command(CMD_WRITE, 0, 512), rw), Ok(vec![]));
        assert_eq!(perform(&command(CMD_READ, 0, 512), rw), Ok(vec![1; 512]));
        assert_eq!(
            perform(&command(CMD_READ, 512, 512), ro).unwrap(),
            vec![1; 512]
        );
        assert_eq!(perform(&command(77, 0, 0), rw), Err(ENOTSUP));
    }

    /// Guards the server's memory against clients that ask for much and read nothing.
    #[test]
    fn requests_wait_for_the_memory_that_earlier_ones_hold() {
        let memory = Memory::default();
        let first = memory.take(MAX_PAYLOAD as usize);
        let _second = memory.take(MAX_PAYLOAD as usize);
        let (tell, hear) = std::sync::mpsc::channel();
        let (waiting, told) = (memory.clone(), tell.clone());
        let thread = std::thread::spawn(move || {
            let held = waiting.take(1);
            told.send("taken").unwrap();
            held
        });
        tell.send("given back").unwrap();
        drop(first);
        thread.join().unwrap();
        assert_eq!(*memory.0.0.lock().unwrap(), MAX_PAYLOAD as usize);
        assert_eq!(
            hear.iter().take(2).collect::<Vec<_>>(),
            ["given back", "taken"]
        );
    }
}
