#![allow(clippy::unwrap_used)]
use std::rc::Rc;

use relevo_wire::inventory::Interface;

use super::*;
use crate::filesystem::tree::Tree;
use crate::filesystem::{FileSystem, FsError, Node};

/// A root with one file.
struct OneFile(&'static str, &'static str);

impl FileSystem for OneFile {
    fn node(&self, path: &str) -> Result<Option<Node>, FsError> {
        let is_above = self
            .0
            .starts_with(&format!("{}/", path.trim_end_matches('/')));
        Ok(match path {
            path if path == self.0 => Some(Node::File(self.1.len() as u64)),
            _ if is_above => Some(Node::Directory),
            _ => None,
        })
    }

    fn list(&self, _: &str) -> Result<Vec<String>, FsError> {
        Ok(Vec::new())
    }

    fn read(&self, _: &str) -> Result<Vec<u8>, FsError> {
        Ok(self.1.as_bytes().to_vec())
    }
}

fn system(path: &'static str, content: &'static str) -> System {
    System {
        root: 0,
        tree: Tree::of(0, Rc::new(OneFile(path, content))),
        fstab: Vec::new(),
        name: None,
    }
}

fn planned(interfaces: &[(&str, &str, Option<&str>, &str)], system: &System) -> Vec<PlannedNic> {
    let interfaces = interfaces
        .iter()
        .map(|(name, mac, bus, address)| Interface {
            name: (*name).into(),
            mac: (*mac).into(),
            bus: bus.map(Into::into),
            addresses: vec![(*address).into()],
            ..Interface::default()
        });
    let inventory = Inventory {
        interfaces: interfaces.collect(),
        ..Inventory::default()
    };
    plan(&RecordedNetwork::from(&inventory), system, &mut Vec::new())
}

/// Guards images of which nobody saw the hardware: every card keeps its name and addresses.
#[test]
fn cards_without_a_recorded_address_get_one_each_that_stays() {
    let cards = [
        ("eth0", "", None, "10.0.0.5/24"),
        ("eth1", "", None, "10.1.0.5/24"),
        ("eth1.7", "", None, "10.7.0.5/24"),
    ];
    let first = planned(&cards, &system("/etc/machine-id", "abc"));
    let names: Vec<_> = first.iter().map(|n| n.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["eth0", "eth1"]);
    assert_eq!(first[1].addresses, ["10.1.0.5/24"]);
    assert_ne!(first[0].mac, first[1].mac);
    for nic in &first {
        assert_eq!(
            parse_mac(&nic.mac).unwrap()[0] & 3,
            2,
            "locally administered, unicast"
        );
    }
    assert_eq!(first, planned(&cards, &system("/etc/machine-id", "abc")));
    let other = planned(&cards, &system("/etc/machine-id", "abd"));
    assert_ne!(first[0].mac, other[0].mac, "another server");
}

/// Guards servers that carry their address on a bridge with its card's hardware address.
#[test]
fn a_bridge_gets_no_card_and_its_address_counts_for_the_card_below() {
    let mac = "52:54:00:00:00:09";
    let seen = [
        ("br0", mac, None, "10.0.0.5/24"),
        (
            "eno1",
            "52:54:00:00:00:08",
            Some("0000:00:02.0"),
            "10.9.0.5/24",
        ),
        ("eno2", mac, Some("0000:00:03.0"), "192.0.2.1/24"),
    ];
    let nics = planned(&seen, &system("/etc/machine-id", "abc"));
    let names: Vec<_> = nics.iter().map(|n| n.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["eno1", "eno2"]);
    assert_eq!(nics[1].addresses, ["192.0.2.1/24", "10.0.0.5/24"]);
}

/// Guards start-up scripts that stop when the default route is there already.
#[test]
fn the_default_route_is_the_images_where_it_configures_the_interface() {
    let wanted = StaticAddress {
        interface: "eth0".into(),
        address: "10.0.0.5/24".into(),
        gateway: Some("10.0.0.1".into()),
    };
    let gateways = |content| {
        let system = system("/etc/network/interfaces", content);
        let mut told = Instructions::default();
        give_static_addresses(
            std::slice::from_ref(&wanted),
            &system,
            &mut told,
            &mut Vec::new(),
        )
        .unwrap();
        assert_eq!(told.addresses.len(), 1);
        told.gateways.len()
    };
    assert_eq!(gateways("auto eth0\niface eth0 inet static\n"), 0);
    assert_eq!(gateways("iface eth1 inet dhcp\n"), 1);
}
