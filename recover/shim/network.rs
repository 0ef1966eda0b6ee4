//! Names and addresses of network cards, by the oldest ioctls: every kernel has them, and each
//! costs one system call.

use super::say;
use super::syscalls::{control, open_socket};

const SIOCADDRT: u64 = 0x890b;
const SIOCGIFNAME: u64 = 0x8910;
const SIOCGIFFLAGS: u64 = 0x8913;
const SIOCSIFFLAGS: u64 = 0x8914;
const SIOCSIFADDR: u64 = 0x8916;
const SIOCSIFNETMASK: u64 = 0x891c;
const SIOCSIFNAME: u64 = 0x8923;
const SIOCGIFHWADDR: u64 = 0x8927;
const IFF_UP: u16 = 1;
const RTF_UP: u16 = 1;
const RTF_GATEWAY: u16 = 2;
const AF_INET: u16 = 2;
/// Interface numbers looked at: they start at 1 and are given in order of appearance.
const MOST_INTERFACES: u32 = 64;

/// `struct ifreq`: a name, and 24 bytes that each request uses in its own way.
#[repr(C, align(8))]
struct Request([u8; 40]);

impl Request {
    fn named(name: &str) -> Self {
        let mut bytes = [0; 40];
        let name = name.as_bytes();
        let len = name.len().min(15);
        bytes[..len].copy_from_slice(&name[..len]);
        Self(bytes)
    }

    fn with(mut self, at: usize, value: &[u8]) -> Self {
        self.0[at..at + value.len()].copy_from_slice(value);
        self
    }
}

/// Names every card by its hardware address.
///
/// Through a passing name, even where the card has the right one already: names may have to be
/// exchanged, and only a name given by user space is left alone by udev (`NamePolicy=keep`, and
/// before systemd 240 the same rule built in). So `net.ifnames=0` is not needed.
pub fn rename(wanted: &[([u8; 6], String)]) {
    if wanted.is_empty() {
        return;
    }
    let Some(socket) = open_socket() else {
        return say("no network in this kernel");
    };
    let mut passing = Vec::new();
    for index in 1..=MOST_INTERFACES {
        if passing.len() == wanted.len() {
            break;
        }
        let mut request = Request::named("").with(16, &index.to_ne_bytes());
        if control(socket, SIOCGIFNAME, &mut request.0).is_err() {
            continue;
        }
        let name = text(&request.0[..16]);
        let mut request = Request::named(&name);
        if control(socket, SIOCGIFHWADDR, &mut request.0).is_err() {
            continue;
        }
        let Some((_, new)) = wanted.iter().find(|(mac, _)| mac == &request.0[18..24]) else {
            continue;
        };
        let between = format!("relevo{index}");
        match set_name(socket, &name, &between) {
            Ok(()) => passing.push((between, new)),
            Err(error) => say(&format!("renaming {name}: {error}")),
        }
    }
    for (between, new) in &passing {
        if let Err(error) = set_name(socket, between, new) {
            say(&format!("naming a network card {new}: {error}"));
        }
    }
    for (mac, name) in wanted
        .iter()
        .filter(|(_, name)| !passing.iter().any(|(_, n)| *n == name))
    {
        let mac: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
        say(&format!(
            "no network card has the address {} of {name}",
            mac.join(":")
        ));
    }
}

fn set_name(socket: i32, old: &str, new: &str) -> std::io::Result<()> {
    let name = Request::named(new);
    control(
        socket,
        SIOCSIFNAME,
        &mut Request::named(old).with(16, &name.0[..16]).0,
    )
}

/// Gives addresses and default routes, for images in which nothing else does.
pub fn configure(addresses: &[(String, [u8; 4], u8)], gateways: &[(String, [u8; 4])]) {
    if addresses.is_empty() {
        return;
    }
    let Some(socket) = open_socket() else {
        return say("no network in this kernel");
    };
    let _ = bring_up(socket, "lo");
    for (name, address, prefix) in addresses {
        let mask = u32::MAX
            .checked_shl(32 - u32::from(*prefix))
            .unwrap_or(0)
            .to_be_bytes();
        let done = control(
            socket,
            SIOCSIFADDR,
            &mut Request::named(name).with(16, &socket_address(*address)).0,
        )
        .and_then(|()| {
            control(
                socket,
                SIOCSIFNETMASK,
                &mut Request::named(name).with(16, &socket_address(mask)).0,
            )
        })
        .and_then(|()| bring_up(socket, name));
        if let Err(error) = done {
            say(&format!("address of {name}: {error}"));
        }
    }
    for (name, gateway) in gateways {
        // `struct rtentry` of 64-bit machines: destination and mask stay 0.0.0.0.
        let mut route = [0u8; 120];
        route[8..24].copy_from_slice(&socket_address([0; 4]));
        route[24..40].copy_from_slice(&socket_address(*gateway));
        route[40..56].copy_from_slice(&socket_address([0; 4]));
        route[56..58].copy_from_slice(&(RTF_UP | RTF_GATEWAY).to_ne_bytes());
        if let Err(error) = control(socket, SIOCADDRT, &mut route) {
            say(&format!("default route of {name}: {error}"));
        }
    }
}

fn bring_up(socket: i32, name: &str) -> std::io::Result<()> {
    let mut request = Request::named(name);
    control(socket, SIOCGIFFLAGS, &mut request.0)?;
    let flags = u16::from_ne_bytes([request.0[16], request.0[17]]) | IFF_UP;
    control(
        socket,
        SIOCSIFFLAGS,
        &mut Request::named(name).with(16, &flags.to_ne_bytes()).0,
    )
}

/// `struct sockaddr_in` with port 0.
fn socket_address([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    let [f0, f1] = AF_INET.to_ne_bytes();
    [f0, f1, 0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn text(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take_while(|b| **b != 0)
        .map(|b| char::from(*b))
        .collect()
}
