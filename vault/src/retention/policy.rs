//! The rules, as they are written and as they are applied.

use std::fmt;
use std::str::FromStr;

use clap::Args;
use relevo_wire::zone::Zone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::period::Rule;
use super::within::Within;

/// How many a rule keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// So many; none with 0.
    Number(u32),
    /// All.
    All,
}

impl Count {
    /// No rule.
    pub const NONE: Self = Self::Number(0);

    /// True while `kept` of them leave room for one more.
    pub(super) fn has_room(self, kept: u32) -> bool {
        match self {
            Self::Number(number) => kept < number,
            Self::All => true,
        }
    }
}

impl Default for Count {
    fn default() -> Self {
        Self::NONE
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::All => f.write_str("all"),
        }
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            _ => text
                .parse()
                .map(Self::Number)
                .map_err(|_| format!("'{text}' is neither a number nor 'all'")),
        }
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u32(*number),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads;
        impl serde::de::Visitor<'_> for Reads {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 on, or \"all\"")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Count, E> {
                let unfit = || E::invalid_value(serde::de::Unexpected::Signed(number), &self);
                u32::try_from(number)
                    .map(Count::Number)
                    .map_err(|_| unfit())
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Count, E> {
                let unfit = || E::invalid_value(serde::de::Unexpected::Unsigned(number), &self);
                u32::try_from(number)
                    .map(Count::Number)
                    .map_err(|_| unfit())
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Count, E> {
                match text {
                    "all" => Ok(Count::All),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Reads)
    }
}

/// Rules as a section of `settings.toml` or the command line gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Keep {
    /// Keep the newest N points.
    #[arg(long, value_name = "N|all")]
    pub keep_last: Option<Count>,
    /// Keep the newest point of each of the newest N hours that have points.
    #[arg(long, value_name = "N|all")]
    pub keep_hourly: Option<Count>,
    /// The same for days.
    #[arg(long, value_name = "N|all")]
    pub keep_daily: Option<Count>,
    /// The same for ISO weeks, which begin on Monday.
    #[arg(long, value_name = "N|all")]
    pub keep_weekly: Option<Count>,
    /// The same for months.
    #[arg(long, value_name = "N|all")]
    pub keep_monthly: Option<Count>,
    /// The same for years.
    #[arg(long, value_name = "N|all")]
    pub keep_yearly: Option<Count>,
    /// Keep all points of this span before the newest: 36h, 14d, 3mo, 1y 6mo.
    #[arg(long, value_name = "SPAN")]
    pub keep_within: Option<Within>,
    /// Time zone whose days and weeks count, of the IANA database; UTC by default.
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<Zone>,
}

impl Keep {
    /// True when any rule is given, be it one that keeps none.
    pub fn has_rules(&self) -> bool {
        let zone = self.time_zone.clone();
        *self
            != Self {
                time_zone: zone,
                ..Self::default()
            }
    }

    /// The policy that this is.
    pub fn policy(&self) -> Policy {
        let count = |count: Option<Count>| count.unwrap_or_default();
        Policy {
            last: count(self.keep_last),
            hourly: count(self.keep_hourly),
            daily: count(self.keep_daily),
            weekly: count(self.keep_weekly),
            monthly: count(self.keep_monthly),
            yearly: count(self.keep_yearly),
            within: self.keep_within,
            time_zone: self.time_zone.clone().unwrap_or_default(),
        }
    }
}

/// A policy, complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Newest points.
    pub last: Count,
    /// Hours.
    pub hourly: Count,
    /// Days.
    pub daily: Count,
    /// ISO weeks.
    pub weekly: Count,
    /// Months.
    pub monthly: Count,
    /// Years.
    pub yearly: Count,
    /// All since so long before the newest.
    pub within: Option<Within>,
    /// Whose days and weeks count.
    pub time_zone: Zone,
}

impl Policy {
    /// How many a rule keeps.
    pub fn count(&self, rule: Rule) -> Count {
        match rule {
            Rule::Last => self.last,
            Rule::Hourly => self.hourly,
            Rule::Daily => self.daily,
            Rule::Weekly => self.weekly,
            Rule::Monthly => self.monthly,
            Rule::Yearly => self.yearly,
            Rule::Within => Count::NONE,
        }
    }

    /// True when it has no rule, and so keeps everything.
    pub fn is_empty(&self) -> bool {
        let none = |rule: &Rule| self.count(*rule) == Count::NONE;
        self.within.is_none() && none(&Rule::Last) && Rule::PERIODS.iter().all(none)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("keep everything");
        }
        let mut between = "";
        let rules = [Rule::Last].into_iter().chain(Rule::PERIODS);
        for rule in rules.filter(|rule| self.count(*rule) != Count::NONE) {
            write!(f, "{between}keep-{rule} {}", self.count(rule))?;
            between = ", ";
        }
        if let Some(within) = self.within {
            write!(f, "{between}keep-within {within}")?;
        }
        write!(f, " ({})", self.time_zone.name())
    }
}
