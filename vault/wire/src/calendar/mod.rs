//! Calendar events in the syntax of systemd.time(7): `Mon..Fri 22:00`, `*-*~01 03:00
//! Europe/Berlin`, `hourly`.
//!
//! Weekdays and their ranges; dates with `*`, lists, ranges `..`, repetitions `/` and `~` for
//! days from the end of the month; times to the microsecond; `@` and seconds since 1970; a time
//! zone at the end; `minutely` to `annually`. What systemd refuses is refused.
//!
//! Clocks that change are taken as systemd takes them: a local time that is skipped does not
//! come, one that comes twice counts the first time. So an event at 02:30 does not happen on the
//! day on which clocks go from 02:00 to 03:00.

mod field;
mod next;
mod parse;

use std::fmt;
use std::str::FromStr;

use crate::zone::Zone;
use field::Field;

pub(crate) use parse::weekdays as parse_weekdays;

/// When something happens again and again.
#[derive(Clone, Debug)]
pub struct CalendarEvent {
    /// As it was written.
    text: String,
    /// One bit a day, Monday lowest.
    weekdays: u8,
    year: Field,
    month: Field,
    day: Field,
    /// Days count from the end of the month: 1 is its last.
    from_end: bool,
    hour: Field,
    minute: Field,
    /// In microseconds.
    second: Field,
    /// Whose clock; without one whoever asks says.
    zone: Option<Zone>,
}

/// A text that is no calendar event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is no calendar event: {reason}; write for instance Mon..Fri 22:00, *-*-01 03:00 \
     Europe/Berlin or hourly (systemd.time(7))"
)]
pub struct CalendarError {
    text: String,
    reason: &'static str,
}

/// As it was written: two texts that mean the same are two events.
impl PartialEq for CalendarEvent {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for CalendarEvent {}

impl fmt::Display for CalendarEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for CalendarEvent {
    type Err = CalendarError;

    fn from_str(text: &str) -> Result<Self, CalendarError> {
        parse::event(text.trim()).map_err(|reason| CalendarError {
            text: text.chars().take(80).collect(),
            reason,
        })
    }
}

#[cfg(test)]
mod calendar_test;
