//! The sections that have a file of their own nowhere else, each with its defaults.

use std::num::{NonZeroU8, NonZeroU32};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::amount::{Rate, Size, Span};

/// `[immutability]`: how long recovery points are locked from their commit on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Immutability {
    /// Days of vault time; 0 locks nothing.
    pub days: u16,
}

impl Immutability {
    /// The same in milliseconds of vault time.
    pub fn millis(self) -> u64 {
        u64::from(self.days) * 86_400_000
    }
}

/// How often something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// Only when somebody asks.
    Off,
    /// This long after the last time.
    Span(Span),
}

impl Every {
    /// The pause between two times.
    pub fn pause(self) -> Option<std::time::Duration> {
        match self {
            Self::Off => None,
            Self::Span(span) => Some(span.duration()),
        }
    }
}

impl Serialize for Every {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::Span(span) => span.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Every {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "off" {
            return Ok(Self::Off);
        }
        let span: Span = text
            .parse()
            .map_err(|e| serde::de::Error::custom(format!("{e}, or off")))?;
        if span.duration().as_secs() == 0 {
            return Err(serde::de::Error::custom("write off to never do it"));
        }
        Ok(Self::Span(span))
    }
}

/// `[prune]`: when the policy is applied by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Prune {
    /// How often `serve` does it.
    pub every: Every,
}

impl Default for Prune {
    fn default() -> Self {
        Self {
            every: Every::Span(Span::from_hours(1)),
        }
    }
}

/// `[collect]`: when and how the space of what nothing refers to is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Collect {
    /// How often `serve` does it.
    pub every: Every,
    /// Chunks that nothing refers to stay this long, for uploads that still count on them.
    pub grace: Span,
    /// A pack is rewritten when this share of it or more is dead; above 0, at most 1.
    pub rewrite_at: f64,
}

impl Default for Collect {
    fn default() -> Self {
        Self {
            every: Every::Span(Span::from_hours(6)),
            grace: Span::from_hours(24),
            rewrite_at: 0.5,
        }
    }
}

/// `[scrub]`: how fast all packs are read again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Scrub {
    /// Every byte is read within so many days.
    pub every_days: NonZeroU32,
    /// Never faster than this.
    pub rate: Rate,
}

impl Default for Scrub {
    fn default() -> Self {
        Self {
            every_days: NonZeroU32::MIN.saturating_add(29),
            rate: Rate::from_bytes_per_second(100 << 20),
        }
    }
}

/// `[parity]`: Reed-Solomon parity over groups of packs. Without the section there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Parity {
    /// Packs of a group.
    pub data: NonZeroU8,
    /// Parity packs of a group: so many lost or damaged packs are made anew.
    pub parity: NonZeroU8,
}

/// `[[heal-from]]`: another vault that may hold what is damaged here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct HealFrom {
    /// Directory of the enrolment there, as a recovery site.
    pub enrollment: PathBuf,
}

/// `[quota]`: what a tenant may store. Nothing given is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Quota {
    /// Bytes of packs.
    pub stored: Option<Size>,
    /// Bytes a second of chunks that come in.
    pub rate: Option<Rate>,
}

impl Quota {
    /// This one, and what it leaves open from `general`.
    pub fn or(self, general: Self) -> Self {
        Self {
            stored: self.stored.or(general.stored),
            rate: self.rate.or(general.rate),
        }
    }
}
