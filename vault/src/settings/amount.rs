//! Lengths of time, sizes and rates as people write them. The one place that reads them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is no such amount, with how to write one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no {what}: write for instance {example}")]
pub struct AmountError {
    text: String,
    what: &'static str,
    example: &'static str,
}

/// A length of time by the clock: `90s`, `15m`, `36h`, `7d`, `2w`, or several: `1d 12h`. A day
/// has 24 hours here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(Duration);

impl Span {
    /// Of this many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Of this many hours.
    pub const fn from_hours(hours: u64) -> Self {
        Self::from_secs(hours * 3600)
    }

    /// As the standard library has it.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

/// Longest span that is read: a thousand years.
const MOST_SECONDS: u64 = 1000 * 366 * 86_400;
/// Units of spans in seconds, largest first.
const SPAN_UNITS: [(&str, u64); 5] = [
    ("w", 7 * 86_400),
    ("d", 86_400),
    ("h", 3600),
    ("m", 60),
    ("s", 1),
];

impl FromStr for Span {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let wrong = || AmountError {
            text: text.chars().take(80).collect(),
            what: "length of time",
            example: "90s, 15m, 36h, 7d, 2w",
        };
        let seconds = |(number, unit): (u64, &str)| {
            let (_, seconds) = SPAN_UNITS.iter().find(|(name, _)| *name == unit)?;
            number.checked_mul(*seconds)
        };
        let parts = parts(text).ok_or_else(wrong)?;
        let total = parts
            .into_iter()
            .try_fold(0u64, |sum, part| sum.checked_add(seconds(part)?))
            .filter(|total| *total <= MOST_SECONDS);
        total.map(Self::from_secs).ok_or_else(wrong)
    }
}

/// Splits `1y 6mo` into numbers and units; nothing when it is not made of such.
pub(crate) fn parts(text: &str) -> Option<Vec<(u64, &str)>> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number = rest[..digits].parse().ok()?;
        let unit_on = rest[digits..].trim_start();
        let end = unit_on
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(unit_on.len());
        parts.push((number, &unit_on[..end]));
        rest = unit_on[end..].trim_start();
    }
    (!parts.is_empty()).then_some(parts)
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.as_secs();
        if left == 0 {
            return f.write_str("0s");
        }
        let mut between = "";
        // Weeks are read and not written: 30d says more than 4w 2d.
        for (name, seconds) in &SPAN_UNITS[1..] {
            if left >= *seconds {
                write!(f, "{between}{}{name}", left / seconds)?;
                left %= seconds;
                between = " ";
            }
        }
        Ok(())
    }
}

/// A number of bytes: `500 GiB`, `1.5 TiB`, `200 GB`, or a bare number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

impl Size {
    /// Of this many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

const SIZE_UNITS: [(&str, u64); 12] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
];

fn read_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim());
    let (_, scale) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let places = u32::try_from(fraction.len()).ok().filter(|p| *p <= 6)?;
    let parsed = whole.parse::<u64>().ok()?.checked_mul(*scale)?;
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(*scale);
    parsed.checked_add(u64::try_from(part / 10u128.pow(places)).ok()?)
}

impl FromStr for Size {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        read_bytes(text).map(Self).ok_or_else(|| AmountError {
            text: text.chars().take(80).collect(),
            what: "size",
            example: "500 GiB, 1.5 TiB, 200 GB",
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, scale): &&(&str, u64)| self.0 >= *scale && self.0.is_multiple_of(*scale);
        match SIZE_UNITS[1..7].iter().rev().find(fits) {
            Some((name, scale)) => write!(f, "{} {name}", self.0 / scale),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// Bytes a second: `100 MiB/s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u64);

impl Rate {
    /// Of this many bytes a second.
    pub const fn from_bytes_per_second(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes a second.
    pub const fn bytes_per_second(self) -> u64 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let bytes = text.trim().strip_suffix("/s").and_then(read_bytes);
        bytes
            .filter(|bytes| *bytes > 0)
            .map(Self)
            .ok_or_else(|| AmountError {
                text: text.chars().take(80).collect(),
                what: "rate",
                example: "100 MiB/s",
            })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", Size(self.0))
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(Span, Size, Rate);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn amounts_are_read_and_shown() {
        let span = |text: &str| text.parse::<Span>().map(|s| s.duration().as_secs());
        assert_eq!(span("36h").unwrap(), 36 * 3600);
        assert_eq!(span("1d 12h"), span("36h"));
        assert_eq!(span("2w"), span("14d"));
        assert_eq!("36h".parse::<Span>().unwrap().to_string(), "1d 12h");
        assert_eq!("0s".parse::<Span>().unwrap().to_string(), "0s");
        let size = |text: &str| text.parse::<Size>().map(Size::bytes);
        assert_eq!(size("500 GiB").unwrap(), 500 << 30);
        assert_eq!(size("1.5TiB").unwrap(), 3 << 39);
        assert_eq!(size("200 GB").unwrap(), 200_000_000_000);
        assert_eq!(size("4096").unwrap(), 4096);
        assert_eq!("500 GiB".parse::<Size>().unwrap().to_string(), "500 GiB");
        assert_eq!(
            "100 MiB/s".parse::<Rate>().unwrap().bytes_per_second(),
            100 << 20
        );
        assert_eq!(
            "100 MiB/s".parse::<Rate>().unwrap().to_string(),
            "100 MiB/s"
        );
    }

    #[test]
    fn what_is_no_amount_is_refused_with_an_example() {
        for wrong in [
            "",
            "7",
            "d",
            "-1d",
            "1.5h",
            "7 parsecs",
            "99999999999999999999d",
            "9999999d",
        ] {
            let error = wrong.parse::<Span>().unwrap_err().to_string();
            assert!(error.contains("36h"), "{error}");
        }
        for wrong in [
            "",
            "GiB",
            "5 G",
            "-5 GiB",
            "1..5 GiB",
            "99999999 PiB",
            "1e3",
        ] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
        for wrong in ["100 MiB", "0 B/s", "/s"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
