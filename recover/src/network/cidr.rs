//! IPv4 addresses with the length of their network's prefix.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An address in its network, such as `10.77.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub address: Ipv4Addr,
    /// Bits of the network, at most 32.
    pub prefix: u8,
}

impl Cidr {
    /// The network's mask.
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from(
            u32::MAX
                .checked_shl(32 - u32::from(self.prefix))
                .unwrap_or(0),
        )
    }

    /// Whether `other` is in the same network.
    pub fn contains(&self, other: Ipv4Addr) -> bool {
        let mask = u32::from(self.mask());
        u32::from(self.address) & mask == u32::from(other) & mask
    }

    /// The first host address of the network, or the second where the first is this one.
    pub fn neighbour(&self) -> Option<Ipv4Addr> {
        if self.prefix > 30 {
            return None;
        }
        let network = u32::from(self.address) & u32::from(self.mask());
        let first = Ipv4Addr::from(network + 1);
        Some(if first == self.address {
            Ipv4Addr::from(network + 2)
        } else {
            first
        })
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("'{text}' is not an IPv4 address with a prefix length, such as 10.77.0.1/24")
        };
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if prefix > 32 {
            return Err(wrong());
        }
        Ok(Self {
            address: address.parse().map_err(|_| wrong())?,
            prefix,
        })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl serde::Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn networks_and_neighbours() {
        let server: Cidr = "10.77.0.10/24".parse().unwrap();
        assert_eq!(server.mask(), Ipv4Addr::new(255, 255, 255, 0));
        assert!(server.contains(Ipv4Addr::new(10, 77, 0, 1)));
        assert!(!server.contains(Ipv4Addr::new(10, 77, 1, 1)));
        assert_eq!(server.neighbour(), Some(Ipv4Addr::new(10, 77, 0, 1)));
        let first: Cidr = "10.77.0.1/24".parse().unwrap();
        assert_eq!(first.neighbour(), Some(Ipv4Addr::new(10, 77, 0, 2)));
        assert_eq!("10.0.0.1/32".parse::<Cidr>().unwrap().neighbour(), None);
        assert!(
            "10.0.0.1/0"
                .parse::<Cidr>()
                .unwrap()
                .contains(Ipv4Addr::new(1, 2, 3, 4))
        );
        for wrong in ["10.0.0.1", "10.0.0.1/33", "x/24", "10.0.0.1/-1", "::1/64"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }
}
