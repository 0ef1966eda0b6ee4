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
}

impl From<&Inventory> for RecordedNetwork {
    fn from(inventory: &Inventory) -> Self {
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
    let mut nics = Vec::new();
    for nic in &recorded.nics {
        let usable = parse_mac(&nic.mac).is_some_and(|mac| mac != [0; 6] && mac[0] & 1 == 0);
        if !usable || !is_interface_name(&nic.name) {
            findings.push(Finding::seen(
                step::NETWORK,
                format!(
                    "{} was recorded with the hardware address {:?}",
                    nic.name, nic.mac
                ),
                "that is no address of a card, so it gets none",
            ));
            continue;
        }
        findings.push(Finding::changed(
            step::NETWORK,
            format!(
                "{} with hardware address {} and {}",
                nic.name,
                nic.mac,
                list(&nic.addresses)
            ),
            format!(
                "a virtio card with the same address, named {} before init starts",
                nic.name
            ),
            "the image's own network configuration finds its card by name or address",
        ));
        nics.push(PlannedNic {
            name: Some(nic.name.clone()),
            mac: nic.mac.to_ascii_lowercase(),
            addresses: nic.addresses.clone(),
        });
    }
    if nics.is_empty() {
        let name = configured_interface(system);
        let mac = made_up_mac(system);
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
    nics
}

/// Adds addresses for the shim to set.
pub fn give_static_addresses(
    addresses: &[StaticAddress],
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
        if let Some(gateway) = &wanted.gateway {
            let gateway = ipv4(gateway).map_err(|_| bad("the gateway is not an IPv4 address"))?;
            instructions
                .gateways
                .push((wanted.interface.clone(), gateway));
        }
        findings.push(Finding::changed(
            step::NETWORK,
            format!("{} is to have {}", wanted.interface, wanted.address),
            "the shim sets it before init starts",
            "asked for, because nothing in the image does",
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

/// The first interface that the image's configuration names, as ifupdown, NetworkManager, the
/// network scripts or systemd-networkd have it.
fn configured_interface(system: &System) -> Option<String> {
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
    names
        .into_iter()
        .find(|n| n != "lo" && is_interface_name(n) && !n.contains(['*', '?', '.']))
}

/// The same address for the same image each time, in the range that QEMU and KVM use.
fn made_up_mac(system: &System) -> String {
    let seed = system.tree.text("/etc/machine-id").unwrap_or_default()
        + &system.tree.text("/etc/hostname").unwrap_or_default();
    // FNV-1a: spread is all that is asked of it.
    let hash = seed.bytes().fold(0x811c_9dc5_u32, |h, b| {
        (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
    });
    let [a, b, c, _] = hash.to_be_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}
