//! Hours, days, weeks, months and years of a time zone.

use std::fmt;
use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use relevo_wire::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A rule of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// The newest points.
    Last,
    /// One of each hour.
    Hourly,
    /// One of each day.
    Daily,
    /// One of each ISO week.
    Weekly,
    /// One of each month.
    Monthly,
    /// One of each year.
    Yearly,
    /// All since a moment.
    Within,
}

impl Rule {
    /// Those that keep one point of each period.
    pub const PERIODS: [Self; 5] = [
        Self::Hourly,
        Self::Daily,
        Self::Weekly,
        Self::Monthly,
        Self::Yearly,
    ];

    /// The period that a local time is in. Different periods have different numbers.
    pub(super) fn period(self, local: DateTime) -> i64 {
        let (year, month) = (i64::from(local.year()), i64::from(local.month()));
        let (day, hour) = (i64::from(local.day()), i64::from(local.hour()));
        match self {
            Self::Hourly => ((year * 100 + month) * 100 + day) * 100 + hour,
            Self::Daily => (year * 100 + month) * 100 + day,
            Self::Weekly => {
                let week = local.date().iso_week_date();
                i64::from(week.year()) * 100 + i64::from(week.week())
            }
            Self::Monthly => year * 100 + month,
            Self::Yearly => year,
            Self::Last | Self::Within => 0,
        }
    }

    /// The same for people.
    pub(super) fn label(self, local: DateTime) -> String {
        match self {
            Self::Hourly => format!("{} {:02}h", local.date(), local.hour()),
            Self::Daily => local.date().to_string(),
            Self::Weekly => {
                let week = local.date().iso_week_date();
                format!("{}-W{:02}", week.year(), week.week())
            }
            Self::Monthly => format!("{}-{:02}", local.year(), local.month()),
            Self::Yearly => local.year().to_string(),
            Self::Last | Self::Within => String::new(),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Within => "within",
        })
    }
}

/// A time zone of the IANA database, by name. UTC when nothing is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl Zone {
    /// Its name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    pub(super) fn zone(&self) -> &TimeZone {
        &self.0
    }

    /// The local time of a moment. Moments beyond the calendar are at its ends.
    pub(super) fn local(&self, moment: Timestamp) -> DateTime {
        self.0.to_datetime(instant(moment))
    }
}

/// The moment as the calendar's library has it.
pub(super) fn instant(moment: Timestamp) -> jiff::Timestamp {
    let millis = moment.as_millis();
    jiff::Timestamp::from_millisecond(millis).unwrap_or(match millis < 0 {
        true => jiff::Timestamp::MIN,
        false => jiff::Timestamp::MAX,
    })
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let unknown = |_| {
            format!(
                "there is no time zone '{name}': write one of the IANA database, for instance Europe/Berlin or UTC"
            )
        };
        TimeZone::get(name).map(Self).map_err(unknown)
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}
