//! From a name to addresses, as a server's administrator has set it up.
//!
//! The C library's own way (`getaddrinfo`) loads modules of the very release it was built with,
//! which a static program has not. What those do everywhere is done here: literal addresses,
//! `/etc/hosts` (hosts(5)), then the servers of `/etc/resolv.conf` (resolv.conf(5)) with its
//! search list and its options `ndots`, `timeout`, `attempts` and `rotate`. Other sources of
//! `/etc/nsswitch.conf` (NIS, LDAP, multicast DNS) are not asked.

mod config;
mod hosts;
mod message;
mod query;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use config::Config;
use query::Answer;

/// Bytes of either file that are read: more than any list of hosts has.
const MOST: u64 = 16 << 20;

/// Where names are looked up.
pub struct Resolver {
    hosts: PathBuf,
    config: PathBuf,
    /// Where DNS servers listen.
    port: u16,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            hosts: "/etc/hosts".into(),
            config: "/etc/resolv.conf".into(),
            port: 53,
        }
    }
}

impl Resolver {
    /// The addresses of `HOST:PORT`, in the order to try them: those that a route leads to first
    /// (RFC 6724, rule 1), else as the file lists them, or IPv6 before IPv4. The files are read
    /// anew each time. The error says what is wrong with the name
    /// or with name service.
    pub async fn lookup(&self, host_and_port: &str) -> Result<Vec<SocketAddr>, String> {
        let (host, port) = split(host_and_port)?;
        let addresses = self.addresses(host).await?;
        let with_port = addresses.into_iter().map(|ip| SocketAddr::new(ip, port));
        let (mut all, out_of_reach): (Vec<_>, Vec<_>) = with_port.partition(has_route);
        all.extend(out_of_reach);
        Ok(all)
    }

    /// The DNS servers that are asked.
    pub fn servers(&self) -> Vec<IpAddr> {
        Config::parse(&read(&self.config), self.port).ips()
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        if let Ok(literal) = host.parse() {
            return Ok(vec![literal]);
        }
        let found = hosts::find(&read(&self.hosts), host);
        if !found.is_empty() {
            return Ok(found);
        }
        // RFC 6761, section 6.3: never asked of anybody.
        let lower = host.trim_end_matches('.').to_ascii_lowercase();
        if lower == "localhost" || lower.ends_with(".localhost") {
            return Ok(vec![[127, 0, 0, 1].into()]);
        }
        let config = Config::parse(&read(&self.config), self.port);
        let mut failure = None;
        for name in config.candidates(host) {
            match query::addresses(&config, &name).await {
                Answer::Addresses(addresses) => return Ok(addresses),
                Answer::NoSuchName => {}
                Answer::Failed(reason) => failure = failure.or(Some(reason)),
            }
        }
        Err(failure.unwrap_or_else(|| format!("no name server knows an address of '{host}'")))
    }
}

/// `[::1]:7443` is an address of IPv6, `::1:7443` nobody can tell.
fn split(host_and_port: &str) -> Result<(&str, u16), String> {
    let (host, port) = host_and_port
        .rsplit_once(':')
        .ok_or("it has no port: write HOST:PORT")?;
    let port = port
        .parse()
        .map_err(|_| format!("'{port}' is not a port: write HOST:PORT"))?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or("'[' is not closed")?,
        None if host.contains(':') => return Err("write an IPv6 address as [ADDRESS]:PORT".into()),
        None => host,
    };
    match bare.is_empty() {
        true => Err("it names no host: write HOST:PORT".into()),
        false => Ok((bare, port)),
    }
}

/// Nothing is sent: the kernel looks for a route when a datagram's socket is connected.
fn has_route(address: &SocketAddr) -> bool {
    let local: SocketAddr = match address {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    std::net::UdpSocket::bind(local).is_ok_and(|socket| socket.connect(address).is_ok())
}

/// A file that is not there says nothing.
fn read(path: &Path) -> String {
    use std::io::Read;
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(MOST).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;
