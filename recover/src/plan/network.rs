//! Network cards: the same hardware addresses and names as on the server, so that the image's own
//! network configuration applies without a change.

use relevo_wire::inventory::Inventory;
use serde::{Deserialize, Serialize};

use super::system::System;
use super::{Finding, PlanError, step};
use crate::shim_instructions::{Instructions, parse_mac};

/// What the agent recorded of the server, as far as planning uses it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedNetwork {
    /// Host name.
    pub hostname: Option<String>,
    /// Network cards.
    pub nics: Vec<RecordedNic>,
    /// Gateway of the default route and its interface.
    pub default_route: Option<(String, String)>,
    /// Name servers.
    pub dns: Vec<String>,
    /// Memory of the server in bytes; 0 when unknown.
    pub memory: u64,
    /// Its number of CPUs; 0 when unknown.
    pub cpus: u32,
}

/// A card as recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedNic {
    /// Interface name.
    pub name: String,
    /// Hardware address with colons.
    pub mac: String,
    /// Addresses with prefix length.
    pub addresses: Vec<String>,
    /// A bridge, bond or the like: the server makes it itself, from its cards.
    #[serde(default)]
    pub is_virtual: bool,
}

impl From<&Inventory> for RecordedNetwork {
    fn from(inventory: &Inventory) -> Self {
        // A running server's cards were seen on their bus; an image's files tell of no hardware,
        // and names are all there is to go by.
        let seen_on_bus = inventory.interfaces.iter().any(|i| i.bus.is_some());
        let default = inventory.routes.iter().find(|r| r.destination == "default");
        Self {
            hostname: Some(inventory.hostname.clone()).filter(|h| !h.is_empty()),
            nics: inventory
                .interfaces
                .iter()
                .map(|i| RecordedNic {
                    name: i.name.clone(),
                    mac: i.mac.clone(),
                    addresses: i.addresses.clone(),
                    is_virtual: if seen_on_bus {
                        i.bus.is_none()
                    } else {
                        is_virtual_name(&i.name)
                    },
                })
                .collect(),
            default_route: default.and_then(|r| Some((r.interface.clone(), r.gateway.clone()?))),
            dns: inventory.dns_servers.clone(),
            memory: inventory.memory,
            cpus: inventory.cpus,
        }
    }
}

/// A card of the virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedNic {
    /// Name that the shim gives it; `None` leaves it to the image.
    pub name: Option<String>,
    /// Hardware address.
    pub mac: String,
    /// Addresses that the server had on it, for checks and reports.
    pub addresses: Vec<String>,
}

impl PlannedNic {
    /// The shim's instruction.
    pub(super) fn rename(&self) -> Option<([u8; 6], String)> {
        Some((parse_mac(&self.mac)?, self.name.clone()?))
    }
}

/// An address that the shim sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticAddress {
    /// Interface, by the name it has in the plan.
    pub interface: String,
    /// IPv4 address with prefix length, as `192.0.2.5/24`.
    pub address: String,
    /// Gateway of the default route.
    pub gateway: Option<String>,
}

/// Longest interface name that Linux takes.
const LONGEST_NAME: usize = 15;

/// Plans the cards.
pub fn plan(
    recorded: &RecordedNetwork,
    system: &System,
    findings: &mut Vec<Finding>,
) -> Vec<PlannedNic> {
    let mut nics: Vec<PlannedNic> = Vec::new();
    for nic in recorded.nics.iter().filter(|nic| !nic.is_virtual) {
        let made_up = nic.mac.is_empty();
        let mac = if made_up {
            made_up_mac(system, &nic.name)
        } else {
            nic.mac.to_ascii_lowercase()
        };
        let usable = parse_mac(&mac).is_some_and(|mac| mac != [0; 6] && mac[0] & 1 == 0);
        let is_first = nics.iter().all(|n| n.mac != mac);
        if !usable || !is_first || !is_interface_name(&nic.name) {
            findings.push(Finding::seen(
                step::NETWORK,
                format!(
                    "{} was recorded with the hardware address {:?}",
                    nic.name, nic.mac
                ),
                "that is no address of a card of its own, so it gets none",
            ));
            continue;
        }
        let (hardware, same) = if made_up {
            (
                "no recorded hardware address".to_owned(),
                format!("the made-up address {mac}"),
            )
        } else {
            (
                format!("hardware address {mac}"),
                "the same address".to_owned(),
            )
        };
        findings.push(Finding::changed(
            step::NETWORK,
            format!("{} with {hardware} and {}", nic.name, list(&nic.addresses)),
            format!(
                "a virtio card with {same}, named {} before init starts",
                nic.name
            ),
            "the image's own network configuration finds its card by name or address",
        ));
        nics.push(PlannedNic {
            name: Some(nic.name.clone()),
            mac,
            addresses: nic.addresses.clone(),
        });
    }
    if nics.is_empty() {
        let name = configured_interface(system);
        let mac = made_up_mac(system, name.as_deref().unwrap_or_default());
        let found = match &name {
            Some(name) => format!("no card was recorded; the image configures {name}"),
            None => "no card was recorded, and the image's configuration names none".to_owned(),
        };
        findings.push(Finding::changed(
            step::NETWORK,
            found,
            format!("one virtio card with the made-up hardware address {mac}"),
            "a server without a network serves nobody",
        ));
        nics.push(PlannedNic {
            name,
            mac,
            addresses: Vec::new(),
        });
    }
    for nic in recorded.nics.iter().filter(|nic| nic.is_virtual) {
        // Whoever looks for the server at these addresses finds it behind the card that a
        // bridge or bond took its hardware address from.
        let mac = nic.mac.to_ascii_lowercase();
        let below = nics.iter().position(|n| n.mac == mac).unwrap_or(0);
        let Some(card) = nics.get_mut(below) else {
            continue;
        };
        card.addresses.extend(nic.addresses.iter().cloned());
        findings.push(Finding::seen(
            step::NETWORK,
            format!(
                "{} with {}, which is no hardware",
                nic.name,
                list(&nic.addresses)
            ),
            "the server makes it itself, so it gets no card",
        ));
    }
    nics
}

/// Adds addresses for the shim to set, with a default route only where the image does not
/// configure that interface itself: its own `route add default` would fail on ours, and a strict
/// start-up script would stop there.
pub fn give_static_addresses(
    addresses: &[StaticAddress],
    system: &System,
    instructions: &mut Instructions,
    findings: &mut Vec<Finding>,
) -> Result<(), PlanError> {
    for wanted in addresses {
        let bad = |reason: &str| PlanError::BadAddress {
            address: wanted.address.clone(),
            reason: reason.into(),
        };
        let ipv4 = |text: &str| text.parse::<std::net::Ipv4Addr>().map(|a| a.octets());
        let (address, prefix) = wanted
            .address
            .split_once('/')
            .ok_or_else(|| bad("the prefix length is missing"))?;
        let address = ipv4(address).map_err(|_| bad("not an IPv4 address"))?;
        let prefix = prefix
            .parse()
            .ok()
            .filter(|p| *p <= 32)
            .ok_or_else(|| bad("not a prefix length"))?;
        if !is_interface_name(&wanted.interface) {
            return Err(bad("the interface's name is not one"));
        }
        instructions
            .addresses
            .push((wanted.interface.clone(), address, prefix));
        let configured = configured_interfaces(system).contains(&wanted.interface);
        if let Some(gateway) = &wanted.gateway {
            let gateway = ipv4(gateway).map_err(|_| bad("the gateway is not an IPv4 address"))?;
            if !configured {
                instructions
                    .gateways
                    .push((wanted.interface.clone(), gateway));
            }
        }
        let change = if configured {
            "the shim sets it before init starts; the default route is left to the image's own configuration"
        } else {
            "the shim sets it and the default route before init starts"
        };
        findings.push(Finding::changed(
            step::NETWORK,
            format!("{} is to have {}", wanted.interface, wanted.address),
            change,
            "asked for with --network",
        ));
    }
    Ok(())
}

fn is_interface_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && name
            .chars()
            .all(|c| c.is_ascii_graphic() && c != '/' && c != ':')
}

fn list(addresses: &[String]) -> String {
    if addresses.is_empty() {
        "no address".into()
    } else {
        addresses.join(", ")
    }
}

/// The first interface that the image configures.
fn configured_interface(system: &System) -> Option<String> {
    configured_interfaces(system)
        .into_iter()
        .find(|name| !is_virtual_name(name))
}

/// Interfaces that the image's configuration names, as ifupdown, NetworkManager, the network
/// scripts or systemd-networkd have it.
fn configured_interfaces(system: &System) -> Vec<String> {
    let tree = &system.tree;
    let mut names = Vec::new();
    let mut ifupdown = vec!["/etc/network/interfaces".to_owned()];
    ifupdown.extend(
        tree.list("/etc/network/interfaces.d")
            .iter()
            .map(|f| format!("/etc/network/interfaces.d/{f}")),
    );
    for text in ifupdown.iter().filter_map(|p| tree.text(p)) {
        names.extend(text.lines().filter_map(|l| {
            l.trim()
                .strip_prefix("iface ")?
                .split_whitespace()
                .next()
                .map(str::to_owned)
        }));
    }
    for (directory, key) in [
        ("/etc/NetworkManager/system-connections", "interface-name="),
        ("/etc/sysconfig/network-scripts", "DEVICE="),
        ("/etc/systemd/network", "Name="),
    ] {
        for file in tree.list(directory) {
            let text = tree
                .text(&format!("{directory}/{file}"))
                .unwrap_or_default();
            names
                .extend(text.lines().filter_map(|l| {
                    Some(l.trim().strip_prefix(key)?.trim_matches('"').to_owned())
                }));
        }
    }
    names.retain(|n| n != "lo" && is_interface_name(n) && !n.contains(['*', '?', '.']));
    names
}

/// Whether a name is one that tools give to what has no hardware; VLANs and aliases go by their
/// card's name and a number behind a dot or colon.
fn is_virtual_name(name: &str) -> bool {
    let kinds = [
        "lo", "br", "bond", "team", "vlan", "virbr", "docker", "veth", "vnet", "tun", "tap", "wg",
        "dummy", "ifb", "vxlan",
    ];
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    kinds.contains(&stem) || name.starts_with("br-") || name.contains(['.', ':'])
}

/// The same address for the same interface of the same image each time, in the range that QEMU
/// and KVM use: locally administered.
fn made_up_mac(system: &System, interface: &str) -> String {
    let seed = system.tree.text("/etc/machine-id").unwrap_or_default()
        + &system.tree.text("/etc/hostname").unwrap_or_default()
        + interface;
    // FNV-1a: spread is all that is asked of it.
    let hash = seed.bytes().fold(0x811c_9dc5_u32, |h, b| {
        (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
    });
    let [a, b, c, _] = hash.to_be_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

#[cfg(test)]
#[path = "network_test.rs"]
mod tests;
