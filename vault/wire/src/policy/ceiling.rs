//! How fast may be sent, and how much of the processors used.

use std::fmt;
use std::str::FromStr;

use super::Window;

/// A text that is no ceiling, with how to write one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no {what}: write for instance {example}")]
pub struct CeilingError {
    text: String,
    what: &'static str,
    example: &'static str,
}

impl CeilingError {
    fn new(text: &str, what: &'static str, example: &'static str) -> Self {
        Self {
            text: text.chars().take(80).collect(),
            what,
            example,
        }
    }
}

/// Bits a second, in the units that lines are sold in: `100 Mbit/s`, `1.5 Gbit/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineRate(u64);

const UNITS: [(&str, u64); 3] = [
    ("Gbit/s", 1_000_000_000),
    ("Mbit/s", 1_000_000),
    ("kbit/s", 1000),
];

impl LineRate {
    /// The same in bytes.
    pub fn bytes_per_second(self) -> u64 {
        (self.0 / 8).max(1)
    }
}

impl FromStr for LineRate {
    type Err = CeilingError;

    fn from_str(text: &str) -> Result<Self, CeilingError> {
        let parsed = || {
            let text = text.trim();
            let (number, scale) = UNITS
                .iter()
                .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?.trim_end(), *scale)))?;
            let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
            let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
            let places = u32::try_from(fraction.len()).ok().filter(|p| *p <= 3)?;
            if !digits(whole) || !digits(fraction) {
                return None;
            }
            let bits = whole.parse::<u64>().ok()?.checked_mul(scale)?;
            let part = fraction.parse::<u64>().ok()? * (scale / 10u64.pow(places));
            bits.checked_add(part).filter(|bits| *bits > 0)
        };
        let wrong = || CeilingError::new(text, "rate of a line", "100 Mbit/s");
        parsed().map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for LineRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, scale): &&(&str, u64)| self.0 >= *scale && self.0.is_multiple_of(*scale);
        match UNITS.iter().find(fits) {
            Some((unit, scale)) => write!(f, "{} {unit}", self.0 / scale),
            // Rates are read to the bit.
            None => write!(f, "{}.{:03} kbit/s", self.0 / 1000, self.0 % 1000),
        }
    }
}

/// A rate, at all times or in a window: `10 Mbit/s`, `Mon..Fri 08:00-18:00 10 Mbit/s`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineCeiling {
    /// When it counts.
    pub window: Option<Window>,
    /// How fast may be sent.
    pub rate: LineRate,
}

impl FromStr for LineCeiling {
    type Err = CeilingError;

    fn from_str(text: &str) -> Result<Self, CeilingError> {
        let example = "100 Mbit/s or Mon..Fri 08:00-18:00 10 Mbit/s";
        let wrong = || CeilingError::new(text, "ceiling of a line", example);
        let text = text.trim();
        // The window is all up to the word that has a colon.
        let (window, rate) = match text.rfind(':') {
            Some(colon) => {
                let end = text[colon..].find(' ').ok_or_else(wrong)? + colon;
                let window: Window = text[..end].parse().map_err(|_| wrong())?;
                (Some(window), &text[end..])
            }
            None => (None, text),
        };
        let rate = rate.parse().map_err(|_| wrong())?;
        Ok(Self { window, rate })
    }
}

impl fmt::Display for LineCeiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.window {
            Some(window) => write!(f, "{window} {}", self.rate),
            None => self.rate.fmt(f),
        }
    }
}

/// A share of the processors: `25%` of all of them, `50% of one core`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuCeiling {
    percent: u16,
    of_all: bool,
}

impl CpuCeiling {
    /// Processor seconds a second on a machine of so many processors.
    pub fn cores(self, processors: usize) -> f64 {
        let of = if self.of_all { processors as f64 } else { 1.0 };
        f64::from(self.percent) / 100.0 * of
    }
}

const OF_ONE: &str = "of one core";

impl FromStr for CpuCeiling {
    type Err = CeilingError;

    fn from_str(text: &str) -> Result<Self, CeilingError> {
        let trimmed = text.trim();
        let (share, of_all) = match trimmed.strip_suffix(OF_ONE) {
            Some(share) => (share.trim_end(), false),
            None => (trimmed, true),
        };
        let percent = share
            .strip_suffix('%')
            .and_then(|n| n.trim_end().parse().ok());
        let most = if of_all { 100 } else { 10_000 };
        let percent = percent.filter(|percent| (1..=most).contains(percent));
        let wrong = || {
            let what = "share of the processors";
            CeilingError::new(text, what, "25% or 50% of one core")
        };
        let percent = percent.ok_or_else(wrong)?;
        Ok(Self { percent, of_all })
    }
}

impl fmt::Display for CpuCeiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of_all {
            true => write!(f, "{}%", self.percent),
            false => write!(f, "{}% {OF_ONE}", self.percent),
        }
    }
}
