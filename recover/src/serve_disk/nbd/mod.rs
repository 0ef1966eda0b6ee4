//! A server of the network block device protocol, fixed newstyle with simple replies
//! (the NBD project's `doc/proto.md`).
//!
//! A flush on one connection covers the writes of all, so `CAN_MULTI_CONN` is true. There is
//! no encryption and no authentication: it listens on loopback or on a Unix socket only.
//!
//! * `handshake`: how a client comes to an export.
//! * `transmission`: what it then asks.

mod handshake;
mod transmission;

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::ServedDisk;
use crate::failure::Failure;

/// Most bytes of one read or write: what clients assume unless told otherwise.
const MAX_PAYLOAD: u32 = 32 << 20;
const MAX_CONNECTIONS: usize = 16;

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
                remove_dead_socket(path);
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
        let place = Place::take(&self.connections);
        if place.others >= MAX_CONNECTIONS {
            tracing::warn!("an NBD client was turned away: {MAX_CONNECTIONS} are connected");
            return Ok(());
        }
        std::thread::Builder::new()
            .name("nbd".into())
            .spawn(move || {
                let _place = place;
                if let Err(error) = converse(input, output, &exports) {
                    tracing::debug!(%error, "an NBD client left");
                }
            })
            .map(drop)
    }
}

/// A connection's place among those that may be open, given back however the connection ends.
struct Place {
    connections: Arc<AtomicUsize>,
    others: usize,
}

impl Place {
    fn take(connections: &Arc<AtomicUsize>) -> Self {
        Self {
            others: connections.fetch_add(1, Ordering::AcqRel),
            connections: connections.clone(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Makes room for a socket where a process that is gone left one. Nothing else is touched: a
/// mistyped path may name anything.
fn remove_dead_socket(path: &Path) {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() {
        let _ = std::fs::remove_file(path);
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
    let Some(export) = handshake::negotiate(&mut input, &mut output, exports)? else {
        return Ok(());
    };
    transmission::transmit(&mut input, output, &export.disk)
}

fn array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::block::RawDisk;
    use crate::overlay::Overlay;

    pub(in crate::serve_disk::nbd) fn exports(dir: &std::path::Path) -> Vec<Export> {
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

    /// Guards files whose path was given by mistake.
    #[test]
    fn only_dead_sockets_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "content").unwrap();
        let address = NbdAddress::Unix(path.clone());
        assert!(NbdServer::bind(&address, exports(dir.path())).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"content");
        std::fs::remove_file(&path).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        NbdServer::bind(&address, Vec::new()).unwrap();
    }
}
