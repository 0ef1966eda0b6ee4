//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use crate::virtio::device::DeviceError;

/// The address of a network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The same address for the same name, from the range for virtual machines
    /// (52:54:00), so that a guest sees the same card at every boot.
    pub fn derived_from(name: &str) -> Self {
        // FNV-1a: stable over releases, which the standard library's hasher is not.
        let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        let [a, b, c, ..] = hash.to_le_bytes();
        Self([0x52, 0x54, 0x00, a, b, c])
    }

    /// The six bytes as they stand on the wire.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let bad = || DeviceError::Mac(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        let multicast = octets[0] & 1 != 0;
        if parts.next().is_some() || multicast || octets == [0; 6] {
            return Err(bad());
        }
        Ok(Self(octets))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
