//! A span of the calendar, such as `1y 6mo`.

use std::fmt;
use std::str::FromStr;

use jiff::ToSpan;
use relevo_wire::Timestamp;
use relevo_wire::zone::{Zone, instant};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::settings::amount::parts;

/// Years, months, weeks, days and hours. Days and longer are those of the calendar, which a
/// change of the clock makes longer or shorter than 24 hours; hours are hours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Within {
    months: u32,
    days: u32,
    hours: u32,
}

impl Within {
    /// The moment so long before another: by the calendar first, then hours. A day that a month
    /// does not have is its last. Nothing when it lies before the calendar.
    pub(super) fn before(self, moment: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let span = i64::from(self.months)
            .months()
            .try_days(i64::from(self.days))
            .ok()?;
        let day = instant(moment).to_zoned(zone.zone().clone());
        let day = day.checked_sub(span).ok()?;
        let hours = jiff::SignedDuration::from_hours(i64::from(self.hours));
        let start = day.timestamp().checked_sub(hours).ok()?;
        Some(Timestamp::from_millis(start.as_millisecond()))
    }

    fn months_and_days(text: &str) -> Option<Self> {
        let mut sum = Self::default();
        for (number, unit) in parts(text)? {
            let number = u32::try_from(number).ok()?;
            let (to, scale) = match unit {
                "y" => (&mut sum.months, 12),
                "mo" => (&mut sum.months, 1),
                "w" => (&mut sum.days, 7),
                "d" => (&mut sum.days, 1),
                "h" => (&mut sum.hours, 1),
                _ => return None,
            };
            *to = to.checked_add(number.checked_mul(scale)?)?;
        }
        // Ten thousand years and more: the calendar's library has an end.
        let fits = sum.months <= 119_988 && sum.days <= 3_650_000 && sum.hours <= 87_000_000;
        (fits && sum != Self::default()).then_some(sum)
    }
}

impl FromStr for Within {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::months_and_days(text).ok_or_else(|| {
            format!("'{text}' is no span of the calendar: write for instance 36h, 14d, 3mo, 1y 6mo")
        })
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.months / 12, "y"),
            (self.months % 12, "mo"),
            (self.days, "d"),
            (self.hours, "h"),
        ];
        let mut between = "";
        for (number, unit) in parts.iter().filter(|(number, _)| *number > 0) {
            write!(f, "{between}{number}{unit}")?;
            between = " ";
        }
        Ok(())
    }
}

impl Serialize for Within {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Within {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
