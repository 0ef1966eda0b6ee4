//! A server of the network block device protocol, fixed newstyle with simple replies
//! (the NBD project's `doc/proto.md`).
//!
//! A flush on one connection covers the writes of all, so `CAN_MULTI_CONN` is true. There is
//! no encryption and no authentication: it listens on loopback or on a Unix socket only.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::ServedDisk;
use super::workers::Workers;
use crate::block::BlockError;
use crate::failure::Failure;

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;

const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_LIST: u32 = 3;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;

const REP_ACK: u32 = 1;
const REP_SERVER: u32 = 2;
const REP_INFO: u32 = 3;
const REP_ERR_UNSUP: u32 = 0x8000_0001;
const REP_ERR_INVALID: u32 = 0x8000_0003;
const REP_ERR_UNKNOWN: u32 = 0x8000_0006;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

const HAS_FLAGS: u16 = 1;
const READ_ONLY: u16 = 1 << 1;
const SEND_FLUSH: u16 = 1 << 2;
const SEND_FUA: u16 = 1 << 3;
const SEND_TRIM: u16 = 1 << 5;
const SEND_WRITE_ZEROES: u16 = 1 << 6;
const CAN_MULTI_CONN: u16 = 1 << 8;

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

/// Most bytes of one read or write: what clients assume unless told otherwise.
const MAX_PAYLOAD: u32 = 32 << 20;
const MAX_OPTION: u32 = 8192;
const MAX_CONNECTIONS: usize = 16;
/// Requests of one connection that are done side by side, and that may wait.
const WORKERS: usize = 8;
const WAITING: usize = 8;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NbdAddress {
    /// TCP. Must be a loopback address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for NbdAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let address: SocketAddr = text
            .parse()
            .map_err(|_| format!("'{text}' is neither ADDRESS:PORT nor unix:PATH"))?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "{} is not a loopback address: NBD has no encryption; forward it through SSH instead",
                address.ip()
            ));
        }
        Ok(Self::Tcp(address))
    }
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One disk under its name.
#[derive(Clone)]
pub struct Export {
    /// What a client asks for; the first export is also had by the empty name.
    pub name: String,
    /// The disk.
    pub disk: ServedDisk,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The server.
pub struct NbdServer {
    socket: Socket,
    address: NbdAddress,
    exports: Arc<Vec<Export>>,
    connections: Arc<AtomicUsize>,
}

impl NbdServer {
    /// Listens. A Unix socket that a dead process left is replaced.
    pub fn bind(address: &NbdAddress, exports: Vec<Export>) -> Result<Self, Failure> {
        let failed = |e: io::Error| {
            Failure::new(
                format!("cannot listen on {address}: {e}"),
                "choose another address, or stop what listens there",
            )
        };
        let (socket, address) = match address {
            NbdAddress::Tcp(at) => {
                let listener = TcpListener::bind(at).map_err(failed)?;
                let at = listener.local_addr().map_err(failed)?;
                (Socket::Tcp(listener), NbdAddress::Tcp(at))
            }
            NbdAddress::Unix(path) => {
                if UnixStream::connect(path).is_err() {
                    let _ = std::fs::remove_file(path);
                }
                let listener = UnixListener::bind(path).map_err(failed)?;
                (Socket::Unix(listener), NbdAddress::Unix(path.clone()))
            }
        };
        Ok(Self {
            socket,
            address,
            exports: Arc::new(exports),
            connections: Arc::default(),
        })
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> &NbdAddress {
        &self.address
    }

    /// Serves until the process ends; each connection on a thread of its own.
    pub fn serve(&self) -> Result<(), Failure> {
        loop {
            let accepted = match &self.socket {
                Socket::Tcp(listener) => listener.accept().and_then(|(stream, _)| {
                    stream.set_nodelay(true)?;
                    self.start(stream.try_clone()?, stream)
                }),
                Socket::Unix(listener) => listener
                    .accept()
                    .and_then(|(stream, _)| self.start(stream.try_clone()?, stream)),
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "an NBD client could not be served");
                // Out of descriptors, most likely: no hot loop.
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
    }

    fn start<S: Read + Write + Shut + Send + 'static>(
        &self,
        input: S,
        output: S,
    ) -> io::Result<()> {
        let exports = self.exports.clone();
        let connections = self.connections.clone();
        if connections.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            connections.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!("an NBD client was turned away: {MAX_CONNECTIONS} are connected");
            return Ok(());
        }
        std::thread::Builder::new()
            .name("nbd".into())
            .spawn(move || {
                if let Err(error) = converse(input, output, &exports) {
                    tracing::debug!(%error, "an NBD client left");
                }
                connections.fetch_sub(1, Ordering::AcqRel);
            })
            .map(drop)
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        if let NbdAddress::Unix(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Ends both directions, so that the reading side notices too.
trait Shut {
    fn shut(&self);
}

impl Shut for TcpStream {
    fn shut(&self) {
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

impl Shut for UnixStream {
    fn shut(&self) {
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

fn converse<S: Read + Write + Shut + Send + 'static>(
    input: S,
    mut output: S,
    exports: &[Export],
) -> io::Result<()> {
    let mut input = BufReader::new(input);
    let Some(export) = negotiate(&mut input, &mut output, exports)? else {
        return Ok(());
    };
    transmit(&mut input, output, &export.disk)
}

fn array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn negotiate<'a>(
    input: &mut impl Read,
    output: &mut impl Write,
    exports: &'a [Export],
) -> io::Result<Option<&'a Export>> {
    let mut hello = MAGIC.to_be_bytes().to_vec();
    hello.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    hello.extend_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    output.write_all(&hello)?;
    let client = u32::from_be_bytes(array(input)?);
    let no_zeroes = client & u32::from(NO_ZEROES) != 0;
    loop {
        if u64::from_be_bytes(array(input)?) != OPTION_MAGIC {
            return Err(invalid("not an NBD option"));
        }
        let option = u32::from_be_bytes(array(input)?);
        let length = u32::from_be_bytes(array(input)?);
        if length > MAX_OPTION {
            return Err(invalid("an NBD option too long"));
        }
        let mut data = vec![0; length as usize];
        input.read_exact(&mut data)?;
        let mut reply = |kind: u32, payload: &[u8]| {
            let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
            bytes.extend_from_slice(&option.to_be_bytes());
            bytes.extend_from_slice(&kind.to_be_bytes());
            bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
            bytes.extend_from_slice(payload);
            output.write_all(&bytes)
        };
        match option {
            OPT_EXPORT_NAME => {
                let Some(export) = find(exports, &data) else {
                    // The protocol has no words for this case.
                    return Ok(None);
                };
                let mut bytes = export.disk.size().to_be_bytes().to_vec();
                bytes.extend_from_slice(&flags(&export.disk).to_be_bytes());
                if !no_zeroes {
                    bytes.resize(bytes.len() + 124, 0);
                }
                output.write_all(&bytes)?;
                return Ok(Some(export));
            }
            OPT_ABORT => {
                reply(REP_ACK, &[])?;
                return Ok(None);
            }
            OPT_LIST => {
                for export in exports {
                    let mut entry = (export.name.len() as u32).to_be_bytes().to_vec();
                    entry.extend_from_slice(export.name.as_bytes());
                    reply(REP_SERVER, &entry)?;
                }
                reply(REP_ACK, &[])?;
            }
            OPT_INFO | OPT_GO => match parse_info(&data) {
                None => reply(REP_ERR_INVALID, b"malformed")?,
                Some(name) => match find(exports, name) {
                    None => reply(REP_ERR_UNKNOWN, b"no such export")?,
                    Some(export) => {
                        let mut info = INFO_EXPORT.to_be_bytes().to_vec();
                        info.extend_from_slice(&export.disk.size().to_be_bytes());
                        info.extend_from_slice(&flags(&export.disk).to_be_bytes());
                        reply(REP_INFO, &info)?;
                        let mut sizes = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
                        for size in [1, 4096, MAX_PAYLOAD] {
                            sizes.extend_from_slice(&size.to_be_bytes());
                        }
                        reply(REP_INFO, &sizes)?;
                        reply(REP_ACK, &[])?;
                        if option == OPT_GO {
                            return Ok(Some(export));
                        }
                    }
                },
            },
            _ => reply(REP_ERR_UNSUP, &[])?,
        }
    }
}

/// The name in the data of INFO and GO.
fn parse_info(data: &[u8]) -> Option<&[u8]> {
    let (length, rest) = data.split_first_chunk::<4>()?;
    rest.get(..u32::from_be_bytes(*length) as usize)
}

fn find<'a>(exports: &'a [Export], name: &[u8]) -> Option<&'a Export> {
    if name.is_empty() {
        return exports.first();
    }
    exports.iter().find(|export| export.name.as_bytes() == name)
}

fn flags(disk: &ServedDisk) -> u16 {
    let common = HAS_FLAGS | SEND_FLUSH | CAN_MULTI_CONN;
    match disk.writable() {
        Some(_) => common | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES,
        None => common | READ_ONLY,
    }
}

struct Command {
    flags: u16,
    kind: u16,
    cookie: [u8; 8],
    offset: u64,
    length: u32,
    data: Vec<u8>,
}

fn transmit<S: Write + Shut + Send + 'static>(
    input: &mut impl Read,
    output: S,
    disk: &ServedDisk,
) -> io::Result<()> {
    let output = Arc::new(Mutex::new(output));
    let workers = Workers::start("nbd-request", WORKERS, WAITING)?;
    loop {
        let command = match read_command(input) {
            Ok(command) => command,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        };
        if command.kind == CMD_DISC {
            // Dropping the workers finishes what is under way.
            return Ok(());
        }
        let (disk, output) = (disk.clone(), output.clone());
        workers.give(move || {
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

fn read_command(input: &mut impl Read) -> io::Result<Command> {
    if u32::from_be_bytes(array(input)?) != REQUEST_MAGIC {
        return Err(invalid("not an NBD request"));
    }
    let mut command = Command {
        flags: u16::from_be_bytes(array(input)?),
        kind: u16::from_be_bytes(array(input)?),
        cookie: array(input)?,
        offset: u64::from_be_bytes(array(input)?),
        length: u32::from_be_bytes(array(input)?),
        data: Vec::new(),
    };
    if command.kind == CMD_WRITE {
        if command.length > MAX_PAYLOAD {
            return Err(invalid("an NBD write too long"));
        }
        command.data = vec![0; command.length as usize];
        input.read_exact(&mut command.data)?;
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
    use super::*;
    use crate::block::RawDisk;
    use crate::overlay::Overlay;

    fn exports(dir: &std::path::Path) -> Vec<Export> {
        let path = dir.join("base.raw");
        let content: Vec<u8> = (0..1u32 << 20).map(|i| (i / 512 % 255) as u8).collect();
        std::fs::write(&path, content).unwrap();
        let base = || Box::new(RawDisk::open(&path).unwrap());
        let overlay = Overlay::open(&dir.join("overlay"), base(), "p/sda").unwrap();
        vec![
            Export {
                name: "sda".into(),
                disk: ServedDisk::Writable(Arc::new(overlay)),
            },
            Export {
                name: "ro".into(),
                disk: ServedDisk::ReadOnly(Arc::from(base() as Box<dyn crate::block::BlockRead>)),
            },
        ]
    }

    /// Guards the server against whatever bytes a client sends.
    #[test]
    fn rubbish_ends_the_conversation_only() {
        let dir = tempfile::tempdir().unwrap();
        let exports = exports(dir.path());
        for rubbish in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 100], &[]] {
            let (server, mut client) = UnixStream::pair().unwrap();
            client.write_all(rubbish).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert!(converse(server.try_clone().unwrap(), server, &exports).is_err());
        }
    }

    #[test]
    fn only_loopback_is_listened_on() {
        assert!("0.0.0.0:10809".parse::<NbdAddress>().is_err());
        assert!("127.0.0.1:10809".parse::<NbdAddress>().is_ok());
        assert_eq!("unix:/x".parse(), Ok(NbdAddress::Unix("/x".into())));
    }

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
}
