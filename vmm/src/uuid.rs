//! A machine's UUID (RFC 9562), by which a guest's software knows "its" machine.

use std::fmt;
use std::io::Read;
use std::str::FromStr;

/// Sixteen bytes, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

/// The text is no UUID.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a UUID like 123e4567-e89b-12d3-a456-426614174000")]
pub struct BadUuid(String);

impl Uuid {
    /// A random one (version 4).
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Ok(Self(bytes))
    }
}

impl FromStr for Uuid {
    type Err = BadUuid;

    fn from_str(text: &str) -> Result<Self, BadUuid> {
        let bad = || BadUuid(text.to_owned());
        let groups: Vec<&str> = text.split('-').collect();
        if groups.iter().map(|g| g.len()).ne([8, 4, 4, 4, 12]) {
            return Err(bad());
        }
        let digits = groups.concat();
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let value = u128::from_str_radix(&digits, 16).map_err(|_| bad())?;
        Ok(Self(value.to_be_bytes()))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    //! Guards the text form.
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_and_bytes_are_the_same() {
        let text = "123e4567-e89b-12d3-a456-426614174000";
        let uuid: Uuid = text.parse().unwrap();
        assert_eq!(uuid.0[..2], [0x12, 0x3e]);
        assert_eq!(uuid.to_string(), text);
        let random = Uuid::random().unwrap();
        assert_eq!(random.to_string().parse(), Ok(random));
        for bad in [
            "",
            "123e4567e89b12d3a456426614174000",
            &text.replace('1', "+"),
        ] {
            assert!(bad.parse::<Uuid>().is_err(), "{bad}");
        }
    }
}
