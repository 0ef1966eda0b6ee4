//! resolv.conf(5): which servers are asked, for what, and how long.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// Servers that are asked at most, as the C library does (`MAXNS`).
const MOST_SERVERS: usize = 3;

/// What a file says; what it does not say is as the manual has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Servers, in the order to ask them.
    pub servers: Vec<SocketAddr>,
    /// Domains that are tried behind a name.
    search: Vec<String>,
    /// Dots from which on a name is first tried as it is.
    ndots: usize,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// How often all servers are asked.
    pub attempts: usize,
    /// Whether another server is asked first each time.
    pub rotate: bool,
}

impl Config {
    /// Lines that mean nothing are passed over, as the C library does. Servers listen on `port`.
    pub fn parse(text: &str, port: u16) -> Self {
        let mut config = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
        };
        for line in text.lines() {
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") if config.servers.len() < MOST_SERVERS => {
                    config
                        .servers
                        .extend(words.next().and_then(|text| server(text, port)));
                }
                // The last of either counts.
                Some("domain") => config.search = words.take(1).map(String::from).collect(),
                Some("search") => config.search = words.map(String::from).collect(),
                Some("options") => words.for_each(|option| config.option(option)),
                _ => {}
            }
        }
        if config.servers.is_empty() {
            let own = (Ipv4Addr::LOCALHOST, port);
            config.servers.push(own.into());
        }
        config
    }

    fn option(&mut self, option: &str) {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        let number: Option<usize> = value.parse().ok();
        match (name, number) {
            ("ndots", Some(dots)) => self.ndots = dots.min(15),
            ("timeout", Some(seconds)) => {
                self.timeout = Duration::from_secs(seconds.clamp(1, 30) as u64);
            }
            ("attempts", Some(times)) => self.attempts = times.clamp(1, 5),
            ("rotate", _) => self.rotate = true,
            _ => {}
        }
    }

    /// The servers' addresses.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.servers.iter().map(SocketAddr::ip).collect()
    }

    /// The full names that a name may mean, the likeliest first.
    pub fn candidates(&self, host: &str) -> Vec<String> {
        if host.ends_with('.') {
            return vec![host.trim_end_matches('.').into()];
        }
        let searched = self.search.iter().map(|domain| {
            let domain = domain.trim_matches('.');
            match domain.is_empty() {
                true => host.to_string(),
                false => format!("{host}.{domain}"),
            }
        });
        let mut names: Vec<String> = searched.collect();
        let as_it_is = match host.matches('.').count() >= self.ndots {
            true => 0,
            false => names.len(),
        };
        names.insert(as_it_is, host.into());
        names
    }
}

/// `fe80::1%eth0` names the interface that leads there.
fn server(text: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, port));
    }
    let (address, interface) = text.split_once('%')?;
    let path = format!("/sys/class/net/{interface}/ifindex");
    let index = match interface.parse() {
        Ok(index) => index,
        Err(_) => std::fs::read_to_string(path).ok()?.trim().parse().ok()?,
    };
    Some(SocketAddrV6::new(address.parse().ok()?, port, 0, index).into())
}
