//! Hours, days, weeks, months and years.

use std::fmt;

use jiff::civil::DateTime;
use serde::Serialize;

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
