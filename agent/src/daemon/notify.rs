//! Tells a service manager how it goes (sd_notify(3)), when there is one that asks.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager's socket.
pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    said: String,
}

impl Notify {
    /// As the environment says.
    pub fn from_environment() -> Self {
        Self {
            socket: socket(),
            watchdog: watchdog(),
            said: String::new(),
        }
    }

    /// How often [`alive`](Self::alive) must be said, at least.
    pub fn every(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 2)
    }

    /// The daemon works.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// It still does.
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            self.send("WATCHDOG=1");
        }
    }

    /// It ends.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// In one line, for `systemctl status`. The same is said once.
    pub fn status(&mut self, line: &str) {
        if self.said != line {
            self.said = line.into();
            self.send(&format!("STATUS={line}"));
        }
    }

    fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::debug!("the service manager was not told: {error}");
        }
    }
}

fn socket() -> Option<(UnixDatagram, SocketAddr)> {
    let path = std::env::var_os("NOTIFY_SOCKET")?;
    let address = match path.as_bytes() {
        [b'@', name @ ..] => {
            use std::os::linux::net::SocketAddrExt;
            SocketAddr::from_abstract_name(name).ok()?
        }
        _ => SocketAddr::from_pathname(&path).ok()?,
    };
    Some((UnixDatagram::unbound().ok()?, address))
}

fn watchdog() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let micros = number("WATCHDOG_USEC")?;
    let pid = number("WATCHDOG_PID").unwrap_or(std::process::id().into());
    (pid == u64::from(std::process::id())).then(|| Duration::from_micros(micros))
}
