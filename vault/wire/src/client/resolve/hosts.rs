//! hosts(5): an address, then its names; `#` begins a comment.

use std::net::IpAddr;

/// The addresses that a file gives a name, whatever its case, in the order of its lines.
pub fn find(text: &str, host: &str) -> Vec<IpAddr> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut fields = line.split_ascii_whitespace();
        let Some(Ok(address)) = fields.next().map(str::parse) else {
            continue;
        };
        if fields.any(|name| name.eq_ignore_ascii_case(host)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}
