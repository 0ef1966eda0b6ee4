//! The network that a recovered server is given: which cables, which addresses, where.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use relevo_wire::ServerId;
use relevo_wire::inventory::Inventory;

use super::record::RunNetwork;
use crate::failure::Failure;
use crate::network::{Cidr, NetworkNamespace, namespace, tap};
use crate::plan::PlannedNic;

/// Longest name of an interface.
const LONGEST_NAME: usize = 15;

/// What network the operator wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkRequest {
    /// Where the server's cables end.
    pub place: NetworkPlace,
    /// The host's address in the namespace; by default the server's own gateway.
    pub gateway: Option<Cidr>,
    /// The server's address, where the recovery point does not know it.
    pub address: Option<Cidr>,
}

/// Where the cables end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetworkPlace {
    /// In a namespace of its own with a name that follows from the server.
    #[default]
    OwnNamespace,
    /// In a namespace of its own with this name.
    Namespace(String),
    /// On a bridge of the host.
    Bridge(String),
    /// Nowhere.
    None,
}

impl FromStr for NetworkRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut request = Self::default();
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("netns", name)) if !name.is_empty() => {
                    request.place = NetworkPlace::Namespace(name.into());
                }
                Some(("bridge", name)) if !name.is_empty() => {
                    request.place = NetworkPlace::Bridge(name.into());
                }
                Some(("gateway", cidr)) => request.gateway = Some(cidr.parse()?),
                Some(("address", cidr)) => request.address = Some(cidr.parse()?),
                None if part == "none" => request.place = NetworkPlace::None,
                _ => {
                    return Err(format!(
                        "'{part}' is none of netns=NAME, bridge=NAME, none, gateway=CIDR, address=CIDR"
                    ));
                }
            }
        }
        if let (Some(gateway), Some(address)) = (&request.gateway, &request.address)
            && gateway.address == address.address
        {
            return Err(
                "gateway and address are the host's and the server's end: they differ".into(),
            );
        }
        Ok(request)
    }
}

/// One cable: a tap and the card at its other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cable {
    /// The tap.
    pub tap: String,
    /// The card's hardware address.
    pub mac: String,
    /// The host's address at this end.
    pub host: Option<Cidr>,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cables {
    /// Namespace that is to be made.
    pub namespace: Option<String>,
    /// Bridge that they are put on.
    pub bridge: Option<String>,
    /// One per card, in the cards' order.
    pub cables: Vec<Cable>,
    /// Where the server is reached, the first choice first.
    pub addresses: Vec<IpAddr>,
}

impl Cables {
    /// What `request` means for these cards.
    pub fn plan(
        request: &NetworkRequest,
        server: ServerId,
        nics: &[PlannedNic],
        inventory: &Inventory,
    ) -> Self {
        let own: Vec<(usize, Cidr)> = nics
            .iter()
            .enumerate()
            .flat_map(|(card, nic)| {
                let addresses = addresses_of(nic, nics.len(), inventory);
                addresses.into_iter().map(move |cidr| (card, cidr))
            })
            .collect();
        let own = match request.address {
            Some(address) => [vec![(0, address)], own].concat(),
            None => own,
        };
        let gateway = request.gateway.or_else(|| default_gateway(&own, inventory));
        let gateway_card = gateway.map_or(0, |gateway| {
            own.iter()
                .find(|(_, cidr)| gateway.contains(cidr.address))
                .map_or(0, |(card, _)| *card)
        });
        let (namespace, bridge, count) = match &request.place {
            NetworkPlace::OwnNamespace => {
                (Some(format!("relevo-{}", server.short())), None, nics.len())
            }
            NetworkPlace::Namespace(name) => (Some(name.clone()), None, nics.len()),
            NetworkPlace::Bridge(name) => (None, Some(name.clone()), nics.len()),
            NetworkPlace::None => (None, None, 0),
        };
        let cables = nics
            .iter()
            .take(count)
            .enumerate()
            .map(|(card, nic)| {
                let mut tap = match namespace {
                    Some(_) => format!("tap{card}"),
                    None => format!("rl{}{card}", server.short()),
                };
                tap.truncate(LONGEST_NAME);
                Cable {
                    tap,
                    mac: nic.mac.clone(),
                    host: gateway.filter(|_| namespace.is_some() && card == gateway_card),
                }
            })
            .collect();
        // Those that the host's end can reach come first.
        let mut reachable: Vec<Ipv4Addr> = own.iter().map(|(_, cidr)| cidr.address).collect();
        reachable.sort_by_key(|address| !gateway.is_some_and(|g| g.contains(*address)));
        reachable.dedup();
        Self {
            namespace,
            bridge,
            cables,
            addresses: reachable.into_iter().map(IpAddr::V4).collect(),
        }
    }

    /// What has to be written down before any of it is made.
    pub fn record(&self) -> RunNetwork {
        RunNetwork {
            namespace: self.namespace.clone(),
            taps: match self.namespace {
                Some(_) => Vec::new(),
                None => self.cables.iter().map(|cable| cable.tap.clone()).collect(),
            },
        }
    }

    /// An error when something is there already that would have to be made.
    pub fn check_free(&self) -> Result<(), Failure> {
        if let Some(name) = &self.namespace
            && namespace::exists(name)
        {
            return Err(Failure::new(
                format!("network namespace {name} exists already"),
                "choose another with --network netns=NAME; 'ip netns delete' removes one that nothing uses",
            ));
        }
        if let Some(bridge) = &self.bridge
            && !tap::exists(bridge)
        {
            return Err(Failure::new(
                format!("there is no bridge {bridge}"),
                "make it first ('ip link add NAME type bridge'), or use --network netns=NAME",
            ));
        }
        let taken = self.record().taps.into_iter().find(|tap| tap::exists(tap));
        match taken {
            Some(tap) => Err(Failure::new(
                format!("network device {tap} exists already"),
                "remove it with 'ip link delete', if nothing uses it",
            )),
            None => Ok(()),
        }
    }

    /// Makes it all. What was made before a failure is for the caller to remove.
    pub fn make(&self) -> Result<Option<NetworkNamespace>, Failure> {
        match &self.namespace {
            Some(name) => {
                let namespace = NetworkNamespace::create(name)?;
                namespace.run(|| self.lay())??;
                Ok(Some(namespace))
            }
            None => {
                self.lay()?;
                Ok(None)
            }
        }
    }

    fn lay(&self) -> Result<(), Failure> {
        for cable in &self.cables {
            tap::create(&cable.tap)?;
            if let Some(host) = &cable.host {
                tap::set_address(&cable.tap, host)?;
            }
            if let Some(bridge) = &self.bridge {
                tap::join_bridge(&cable.tap, bridge)?;
            }
            tap::set_up(&cable.tap)?;
        }
        Ok(())
    }
}

/// The addresses of a card. Where nobody recorded the hardware, as in an image of a disk alone,
/// the card is known by its name only, or by being the only one.
fn addresses_of(nic: &PlannedNic, cards: usize, inventory: &Inventory) -> Vec<Cidr> {
    let mut texts: Vec<&String> = nic.addresses.iter().collect();
    if texts.is_empty() {
        let is_its = |name: &String| match &nic.name {
            Some(own) => own == name,
            None => cards == 1,
        };
        let of_name = inventory.interfaces.iter().filter(|i| is_its(&i.name));
        texts = of_name.flat_map(|i| &i.addresses).collect();
    }
    texts
        .iter()
        .filter_map(|text| text.parse().ok())
        .filter(|cidr: &Cidr| !cidr.address.is_loopback() && !cidr.address.is_link_local())
        .collect()
}

/// The server's own gateway with its network's prefix; where none is known, a neighbour.
fn default_gateway(own: &[(usize, Cidr)], inventory: &Inventory) -> Option<Cidr> {
    let routed = inventory
        .routes
        .iter()
        .filter(|route| route.destination == "default")
        .filter_map(|route| route.gateway.as_ref()?.parse::<Ipv4Addr>().ok())
        .find_map(|gateway| {
            let (_, cidr) = own.iter().find(|(_, cidr)| cidr.contains(gateway))?;
            Some(Cidr {
                address: gateway,
                prefix: cidr.prefix,
            })
        });
    routed.or_else(|| {
        let (_, cidr) = own.first()?;
        Some(Cidr {
            address: cidr.neighbour()?,
            prefix: cidr.prefix,
        })
    })
}

/// Removes what a record names.
pub fn remove(network: &RunNetwork) -> Vec<String> {
    let mut left = Vec::new();
    if let Some(name) = &network.namespace
        && let Err(error) = namespace::remove(name)
    {
        left.push(error.to_string());
    }
    for name in &network.taps {
        if let Err(error) = tap::remove(name) {
            left.push(error.to_string());
        }
    }
    left
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use relevo_wire::inventory::Route;

    fn nic(mac: &str, addresses: &[&str]) -> PlannedNic {
        PlannedNic {
            name: None,
            mac: mac.into(),
            addresses: addresses.iter().map(|a| (*a).to_string()).collect(),
        }
    }

    #[test]
    fn the_hosts_end_is_the_servers_gateway_on_the_right_cable() {
        let server = ServerId::from_bytes([0xab; 16]);
        let nics = [
            nic("02:00:00:00:00:01", &["192.168.5.9/24", "fe80::1/64"]),
            nic("02:00:00:00:00:02", &["10.77.0.10/24"]),
        ];
        let route = Route {
            destination: "default".into(),
            gateway: Some("10.77.0.254".into()),
            interface: "eth1".into(),
        };
        let inventory = Inventory {
            routes: vec![route],
            ..Inventory::default()
        };
        let cables = Cables::plan(&NetworkRequest::default(), server, &nics, &inventory);
        assert_eq!(cables.namespace.as_deref(), Some("relevo-abababab"));
        assert_eq!(cables.cables[0].host, None);
        assert_eq!(
            cables.cables[1].host,
            Some("10.77.0.254/24".parse().unwrap())
        );
        assert_eq!(cables.addresses[0], "10.77.0.10".parse::<IpAddr>().unwrap());

        let asked = "netns=x,gateway=192.168.5.1/24".parse().unwrap();
        let cables = Cables::plan(&asked, server, &nics, &inventory);
        assert_eq!(
            cables.cables[0].host,
            Some("192.168.5.1/24".parse().unwrap())
        );
        assert_eq!(
            cables.addresses[0],
            "192.168.5.9".parse::<IpAddr>().unwrap()
        );
    }

    #[test]
    fn without_any_record_there_is_a_cable_and_no_address() {
        let nics = [nic("02:00:00:00:00:01", &[])];
        let server = ServerId::from_bytes([1; 16]);
        let cables = Cables::plan(
            &NetworkRequest::default(),
            server,
            &nics,
            &Inventory::default(),
        );
        assert_eq!(cables.cables.len(), 1);
        assert!(cables.addresses.is_empty() && cables.cables[0].host.is_none());
        let asked = "bridge=br0,address=10.1.1.5/24".parse().unwrap();
        let cables = Cables::plan(&asked, server, &nics, &Inventory::default());
        assert_eq!(cables.record().taps, ["rl010101010"]);
        assert_eq!(cables.addresses, ["10.1.1.5".parse::<IpAddr>().unwrap()]);
    }

    /// Guards images of a disk alone: the agent never saw the card, but its configuration.
    #[test]
    fn a_card_without_recorded_hardware_is_known_by_its_name() {
        let nics = [PlannedNic {
            name: Some("enp3s0".into()),
            ..nic("02:00:00:00:00:01", &[])
        }];
        let interface = relevo_wire::inventory::Interface {
            name: "enp3s0".into(),
            addresses: vec!["10.77.0.10/24".into()],
            ..Default::default()
        };
        let inventory = Inventory {
            interfaces: vec![interface],
            ..Inventory::default()
        };
        let server = ServerId::from_bytes([1; 16]);
        let cables = Cables::plan(&NetworkRequest::default(), server, &nics, &inventory);
        assert_eq!(cables.addresses, ["10.77.0.10".parse::<IpAddr>().unwrap()]);
        assert_eq!(cables.cables[0].host, Some("10.77.0.1/24".parse().unwrap()));
    }

    #[test]
    fn requests_are_read_and_others_explained() {
        assert_eq!(
            "none".parse::<NetworkRequest>().unwrap().place,
            NetworkPlace::None
        );
        for wrong in [
            "",
            "netns=",
            "x=y",
            "netns=a,gateway=1.2.3.4",
            "netns=a,gateway=10.0.0.1/24,address=10.0.0.1/24",
        ] {
            assert!(wrong.parse::<NetworkRequest>().is_err(), "{wrong}");
        }
    }
}
