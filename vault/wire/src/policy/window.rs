//! Spans of time of the day, on some days of the week.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::ToSpan;
use jiff::civil::{Date, DateTime, Time};

use crate::calendar::parse_weekdays;
use crate::time::Timestamp;
use crate::zone::{Zone, instant};

/// `20:00-06:00`, `Mon..Fri 20:00-06:00`. The days are those on which it begins; one that ends
/// when it begins, or earlier, ends on the next day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    text: String,
    /// One bit a day, Monday lowest.
    days: u8,
    /// Minutes of the day.
    from: u16,
    until: u16,
}

/// A text that is no window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no span of the day: write for instance 20:00-06:00 or Mon..Fri 18:00-24:00")]
pub struct WindowError(String);

const DAY: u16 = 24 * 60;

impl Window {
    /// Whether a moment is in it.
    pub fn has(&self, at: Timestamp, zone: &Zone) -> bool {
        let local = zone.local(at);
        let minute = local.hour() as u16 * 60 + local.minute() as u16;
        let (today, yesterday) = (local.date(), local.date().yesterday().ok());
        if self.from < self.until {
            return self.is_on(today) && (self.from..self.until).contains(&minute);
        }
        (self.is_on(today) && minute >= self.from)
            || (yesterday.is_some_and(|day| self.is_on(day)) && minute < self.until)
    }

    /// When it began, of a moment in it.
    pub fn opened(&self, at: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let local = zone.local(at);
        let minute = local.hour() as u16 * 60 + local.minute() as u16;
        let date = match minute >= self.from {
            true => local.date(),
            false => local.date().yesterday().ok()?,
        };
        self.has(at, zone).then_some(())?;
        Some(Timestamp::from_millis(
            self.begin(date, zone)?.as_millisecond(),
        ))
    }

    /// How long it is, but for clocks that change.
    pub fn length(&self) -> Duration {
        let minutes = match self.from < self.until {
            true => self.until - self.from,
            false => DAY - self.from + self.until,
        };
        Duration::from_secs(u64::from(minutes) * 60)
    }

    /// The first moment after `after` at which it begins.
    pub fn next_opening(&self, after: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let today = zone.local(after).date();
        (0..=8i64).find_map(|days| {
            let date = today.checked_add(days.days()).ok()?;
            let begin = Time::new((self.from / 60) as i8, (self.from % 60) as i8, 0, 0).ok()?;
            let local = DateTime::from_parts(date, begin);
            // A beginning that clocks skip is when they have.
            let moment = zone
                .zone()
                .to_ambiguous_timestamp(local)
                .compatible()
                .ok()?;
            let later = self.is_on(date) && moment > instant(after);
            later.then(|| Timestamp::from_millis(moment.as_millisecond()))
        })
    }

    fn begin(&self, date: Date, zone: &Zone) -> Option<jiff::Timestamp> {
        let begin = Time::new((self.from / 60) as i8, (self.from % 60) as i8, 0, 0).ok()?;
        let local = DateTime::from_parts(date, begin);
        // A beginning that clocks skip is when they have.
        let moment = zone.zone().to_ambiguous_timestamp(local).compatible();
        moment.ok()
    }

    fn is_on(&self, date: Date) -> bool {
        self.days & (1 << date.weekday().to_monday_zero_offset()) != 0
    }
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let text = text.trim();
        let parsed = || {
            let (days, span) = match text.rsplit_once(' ') {
                Some((days, span)) => (parse_weekdays(days.trim_end())?, span),
                None => (0x7f, text),
            };
            let (from, until) = span.split_once('-')?;
            let (from, until) = (minutes(from)?, minutes(until)?);
            (from < DAY).then(|| Self {
                text: text.into(),
                days,
                from,
                until,
            })
        };
        parsed().ok_or_else(|| WindowError(text.chars().take(80).collect()))
    }
}

/// `HH:MM` in minutes, up to 24:00.
fn minutes(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |digits: &str| match digits.bytes().all(|b| b.is_ascii_digit()) {
        true => digits.parse::<u16>().ok(),
        false => None,
    };
    let (hour, minute) = (number(hour)?, number(minute).filter(|m| *m < 60)?);
    Some(hour.checked_mul(60)? + minute).filter(|total| *total <= DAY)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
