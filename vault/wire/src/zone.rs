//! Time zones of the IANA database, by name.

use std::fmt;
use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::time::Timestamp;

/// A time zone of the IANA database, by name. UTC when nothing is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl Zone {
    /// The one that this machine's clock shows; UTC where that is not set up.
    pub fn of_this_machine() -> Self {
        Self(TimeZone::try_system().unwrap_or(TimeZone::UTC))
    }

    /// Its name; one that this machine has without a name is called `local`.
    pub fn name(&self) -> &str {
        match &self.0 {
            zone if *zone == TimeZone::UTC => "UTC",
            zone => zone.iana_name().unwrap_or("local"),
        }
    }

    /// As the calendar's library has it.
    pub fn zone(&self) -> &TimeZone {
        &self.0
    }

    /// The local time of a moment. Moments beyond the calendar are at its ends.
    pub fn local(&self, moment: Timestamp) -> DateTime {
        self.0.to_datetime(instant(moment))
    }
}

/// The moment as the calendar's library has it.
pub fn instant(moment: Timestamp) -> jiff::Timestamp {
    let millis = moment.as_millis();
    jiff::Timestamp::from_millisecond(millis).unwrap_or(match millis < 0 {
        true => jiff::Timestamp::MIN,
        false => jiff::Timestamp::MAX,
    })
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
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
