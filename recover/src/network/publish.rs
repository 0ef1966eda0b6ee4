//! A TCP port of the host's loopback that leads to a server inside a namespace.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::namespace;
use crate::failure::Failure;

const MOST_CONNECTIONS: usize = 256;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// What is published where: `127.0.0.1:8080=80`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Publish {
    /// Where the host listens, on loopback; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The server's port.
    pub port: u16,
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not ADDRESS:PORT=PORT, such as 127.0.0.1:8080=80");
        let (listen, port) = text.split_once('=').ok_or_else(wrong)?;
        let publish = Self {
            listen: listen.parse().map_err(|_| wrong())?,
            port: port.parse().map_err(|_| wrong())?,
        };
        if publish.port == 0 {
            return Err(wrong());
        }
        if !publish.listen.ip().is_loopback() {
            return Err(format!(
                "{} is not a loopback address; put a proxy in front where others are to reach it",
                publish.listen.ip()
            ));
        }
        Ok(publish)
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.listen, self.port)
    }
}

/// Listens on the host and connects inside the namespace.
pub struct Forwarder {
    listener: TcpListener,
    namespace: Option<PathBuf>,
    server: IpAddr,
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Forwarder {
    /// Listens. `namespace` is the file of the namespace; without one, connections are made
    /// in the process's own.
    pub fn bind(
        publish: &Publish,
        namespace: Option<&Path>,
        server: IpAddr,
    ) -> Result<Self, Failure> {
        let listener = TcpListener::bind(publish.listen).map_err(|e| {
            Failure::new(
                format!("cannot publish on {}: {e}", publish.listen),
                "choose another port (0 lets the system choose), or stop what listens there",
            )
        })?;
        Ok(Self {
            listener,
            namespace: namespace.map(Path::to_path_buf),
            server,
            port: publish.port,
            connections: Arc::default(),
        })
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the process ends.
    pub fn serve(&self) {
        loop {
            match self.listener.accept() {
                Ok((client, _)) => self.start(client),
                Err(error) => {
                    tracing::warn!(%error, "a published port could not accept a connection");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn start(&self, client: TcpStream) {
        let connections = self.connections.clone();
        if connections.fetch_add(1, Ordering::AcqRel) >= MOST_CONNECTIONS {
            connections.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let (namespace, target) = (
            self.namespace.clone(),
            SocketAddr::new(self.server, self.port),
        );
        let count = connections.clone();
        let started = std::thread::Builder::new()
            .name("published".into())
            .spawn(move || {
                if let Err(error) = forward(client, namespace.as_deref(), target) {
                    tracing::debug!(%error, %target, "a published connection ended");
                }
                count.fetch_sub(1, Ordering::AcqRel);
            });
        if started.is_err() {
            connections.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Connects from inside a namespace.
pub fn connect_in(
    namespace: Option<&Path>,
    target: SocketAddr,
    timeout: Duration,
) -> io::Result<TcpStream> {
    match namespace {
        Some(path) => namespace::run_in(path, || TcpStream::connect_timeout(&target, timeout))
            .map_err(io::Error::other)?,
        None => TcpStream::connect_timeout(&target, timeout),
    }
}

fn forward(client: TcpStream, namespace: Option<&Path>, target: SocketAddr) -> io::Result<()> {
    let server = connect_in(namespace, target, CONNECT_TIMEOUT)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| pipe(&client, &server));
        pipe(&server, &client);
    });
    Ok(())
}

/// Copies one direction and passes its end on; a failure ends both directions.
fn pipe(mut from: &TcpStream, mut to: &TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(n) if to.write_all(&buffer[..n]).is_ok() => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            _ => {
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_loopback_ports_are_published() {
        assert!("0.0.0.0:80=80".parse::<Publish>().is_err());
        assert!("127.0.0.1:80".parse::<Publish>().is_err());
        assert!("127.0.0.1:80=0".parse::<Publish>().is_err());
        let publish: Publish = "127.0.0.1:0=80".parse().unwrap();
        assert_eq!((publish.listen.port(), publish.port), (0, 80));
    }

    #[test]
    fn bytes_and_their_end_go_both_ways() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let publish = Publish {
            listen: "127.0.0.1:0".parse().unwrap(),
            port,
        };
        let forwarder = Forwarder::bind(&publish, None, "127.0.0.1".parse().unwrap()).unwrap();
        let at = forwarder.address().unwrap();
        std::thread::spawn(move || forwarder.serve());
        std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap();
            heard.reverse();
            stream.write_all(&heard).unwrap();
        });
        let mut client = TcpStream::connect(at).unwrap();
        client.write_all(b"relevo").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "oveler");
    }
}
