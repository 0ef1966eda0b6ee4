//! The live server's network: interfaces with hardware, addresses, routes, name service, ports.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sys::socket::SockaddrStorage;
use relevo_wire::inventory::{Interface, Inventory, Route};

use super::sysfs_text;

/// Fills in what concerns the network.
pub fn fill(root: &Path, inventory: &mut Inventory) {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    inventory.interfaces = interfaces(root);
    inventory.routes = routes_v4(&read("proc/net/route"));
    inventory
        .routes
        .extend(routes_v6(&read("proc/net/ipv6_route")));
    let mut resolv = read("etc/resolv.conf");
    if resolv.contains("127.0.0.53") {
        // systemd-resolved's stub: the servers behind it are what a recovery needs.
        resolv = read("run/systemd/resolve/resolv.conf");
    }
    (inventory.dns_servers, inventory.dns_search) = resolv_conf(&resolv);
    let mut ports = BTreeSet::new();
    for path in ["proc/net/tcp", "proc/net/tcp6"] {
        ports.extend(listening(&read(path)));
    }
    inventory.listening_ports = ports.into_iter().collect();
}

fn interfaces(root: &Path) -> Vec<Interface> {
    let class = root.join("sys/class/net");
    let addresses: Vec<InterfaceAddress> = match getifaddrs() {
        Ok(all) => all.collect(),
        Err(error) => {
            tracing::warn!("addresses of the interfaces: {error}");
            Vec::new()
        }
    };
    let mut names: Vec<_> = std::fs::read_dir(&class)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != "lo")
        .collect();
    names.sort();
    names
        .into_iter()
        .filter_map(|name| {
            let dir = class.join(&name);
            let own: Vec<_> = addresses
                .iter()
                .filter(|a| a.interface_name == name)
                .filter_map(prefixed)
                .collect();
            // A bridge or bond has no hardware but may carry the server's address.
            if !dir.join("device").exists() && own.is_empty() {
                return None;
            }
            let link = |path: &str| {
                let target = std::fs::read_link(dir.join(path)).ok()?;
                Some(target.file_name()?.to_string_lossy().into_owned())
            };
            Some(Interface {
                mac: sysfs_text(&dir.join("address")).unwrap_or_default(),
                mtu: sysfs_text(&dir.join("mtu"))
                    .and_then(|mtu| mtu.parse().ok())
                    .unwrap_or(0),
                addresses: own,
                bus: link("device"),
                driver: link("device/driver"),
                name,
            })
        })
        .collect()
}

fn prefixed(address: &InterfaceAddress) -> Option<String> {
    let ip = ip_of(address.address.as_ref()?)?;
    let ones = match ip_of(address.netmask.as_ref()?)? {
        IpAddr::V4(mask) => u32::from(mask).count_ones(),
        IpAddr::V6(mask) => u128::from(mask).count_ones(),
    };
    let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    // Link-local addresses follow from the MAC and tell nothing.
    (!link_local).then(|| format!("{ip}/{ones}"))
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

/// `/proc/net/route`: destination, gateway and mask in the processor's byte order.
fn routes_v4(text: &str) -> Vec<Route> {
    let parsed = text.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let address = |at: usize| {
            let raw = u32::from_str_radix(fields.get(at)?, 16).ok()?;
            Some(Ipv4Addr::from(raw.to_ne_bytes()))
        };
        let (destination, gateway, mask) = (address(1)?, address(2)?, address(7)?);
        let prefix = u32::from(mask).count_ones();
        Some(Route {
            destination: if prefix == 0 {
                "default".into()
            } else {
                format!("{destination}/{prefix}")
            },
            gateway: (!gateway.is_unspecified()).then(|| gateway.to_string()),
            interface: (*fields.first()?).into(),
        })
    });
    parsed.collect()
}

/// `/proc/net/ipv6_route`: destination, prefix length, source, its length, next hop, metric,
/// references, uses, flags, interface. Only routes by a gateway, as the rest follow from the
/// addresses.
fn routes_v6(text: &str) -> Vec<Route> {
    let parsed = text.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let address = |at: usize| {
            let raw = u128::from_str_radix(fields.get(at)?, 16).ok()?;
            Some(Ipv6Addr::from(raw))
        };
        let (destination, gateway) = (address(0)?, address(4)?);
        let prefix = u8::from_str_radix(fields.get(1)?, 16).ok()?;
        let interface = *fields.get(9)?;
        (!gateway.is_unspecified() && interface != "lo").then(|| Route {
            destination: if prefix == 0 {
                "default".into()
            } else {
                format!("{destination}/{prefix}")
            },
            gateway: Some(gateway.to_string()),
            interface: interface.into(),
        })
    });
    parsed.collect()
}

/// Servers and search domains of a resolv.conf(5).
pub fn resolv_conf(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut servers, mut search) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => servers.extend(words.next().map(String::from)),
            Some("search" | "domain") => search = words.map(String::from).collect(),
            _ => {}
        }
    }
    (servers, search)
}

/// Ports in state LISTEN (0A) on other than loopback addresses.
fn listening(text: &str) -> Vec<u16> {
    let parsed = text.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (address, port) = fields.get(1)?.split_once(':')?;
        let loopback = match address.len() {
            8 => address.ends_with("7F"),
            _ => address == "00000000000000000000000001000000",
        };
        let listens = *fields.get(3)? == "0A" && !loopback;
        listens
            .then(|| u16::from_str_radix(port, 16).ok())
            .flatten()
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_tables_are_read_as_documented() {
        let routes = routes_v4(
            "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
             eth0 00000000 0102000A 0003 0 0 0 00000000 0 0 0\n\
             eth0 0002000A 00000000 0001 0 0 0 00FFFFFF 0 0 0\ngarbage\n",
        );
        assert_eq!(routes.len(), 2);
        assert_eq!(routes[0].destination, "default");
        assert_eq!(routes[0].gateway.as_deref(), Some("10.0.2.1"));
        assert_eq!(routes[1].destination, "10.0.2.0/24");
        let ports = listening(
            "  sl local rem st\n 0: 00000000:0016 00000000:0000 0A x\n \
             1: 0100007F:0019 00000000:0000 0A x\n 2: 00000000:0050 00000000:0000 01 x\n",
        );
        assert_eq!(ports, [22]);
        let (servers, search) = resolv_conf("search a.example b.example\nnameserver 10.0.0.1\n");
        assert_eq!(servers, ["10.0.0.1"]);
        assert_eq!(search, ["a.example", "b.example"]);
    }
}
