//! When a calendar event comes next.

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::TimeZone;

use super::CalendarEvent;
use super::parse::LAST_YEAR;
use crate::time::Timestamp;
use crate::zone::{Zone, instant};

const MICROS: u32 = 1_000_000;

impl CalendarEvent {
    /// The first moment after `after`; nothing when it does not come any more (until 2199). An
    /// event without a zone of its own goes by the clock of `zone`.
    pub fn next(&self, after: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let zone = self.zone.as_ref().unwrap_or(zone).zone();
        let after = instant(after);
        let from = zone.to_datetime(after);
        let mut date = from.date();
        let mut earliest = from.time();
        loop {
            date = self.date_from(date)?;
            if date > from.date() {
                earliest = Time::midnight();
            }
            let found = self.time_from(date, earliest, after, zone);
            if let Some(moment) = found {
                // Up, so that the next question begins behind it.
                let millis = moment.as_microsecond().div_euclid(1000)
                    + i64::from(moment.as_microsecond().rem_euclid(1000) > 0);
                return Some(Timestamp::from_millis(millis));
            }
            date = date.tomorrow().ok()?;
        }
    }

    /// The first day from `from` on that the event may be on.
    fn date_from(&self, from: Date) -> Option<Date> {
        let first = u32::try_from(from.year()).unwrap_or(0);
        for year in (first..=LAST_YEAR).filter(|year| self.year.takes(*year)) {
            for month in (1..=12u32).filter(|month| self.month.takes(*month)) {
                let begin = Date::new(year as i16, month as i8, 1).ok()?;
                let last = begin.days_in_month();
                if begin.last_of_month() < from {
                    continue;
                }
                let days = (1..=last).filter(|day| self.takes_day(*day as u32, last as u32));
                let mut dates =
                    days.filter_map(|day| Date::new(year as i16, month as i8, day).ok());
                let found = dates.find(|date| *date >= from && self.takes_weekday(date.weekday()));
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    fn takes_day(&self, day: u32, last: u32) -> bool {
        match self.from_end {
            true => self.day.takes_from_end(day, last),
            false => self.day.takes(day),
        }
    }

    fn takes_weekday(&self, weekday: Weekday) -> bool {
        self.weekdays & (1 << weekday.to_monday_zero_offset()) != 0
    }

    /// The first moment of a day after `after`, with clocks at `earliest` or later.
    fn time_from(
        &self,
        date: Date,
        earliest: Time,
        after: jiff::Timestamp,
        zone: &TimeZone,
    ) -> Option<jiff::Timestamp> {
        let begin = [earliest.hour(), earliest.minute()].map(|n| n as u32);
        for hour in (begin[0]..24).filter(|hour| self.hour.takes(*hour)) {
            let first = if hour == begin[0] { begin[1] } else { 0 };
            for minute in (first..60).filter(|minute| self.minute.takes(*minute)) {
                let mut micros = 0;
                if [hour, minute] == begin {
                    let second = earliest.second() as u32;
                    micros = second * MICROS + earliest.subsec_nanosecond() as u32 / 1000;
                }
                // Where clocks are put on the hour, all of a minute is skipped or comes twice.
                while let Some(at) = self.second.at_least(micros).filter(|at| *at < 60 * MICROS) {
                    let civil = civil(date, hour, minute, at)?;
                    let Some(moment) = first_of(civil, zone) else {
                        break;
                    };
                    if moment > after {
                        return Some(moment);
                    }
                    if zone.to_datetime(after) != civil {
                        break;
                    }
                    micros = at + 1;
                }
            }
        }
        None
    }
}

fn civil(date: Date, hour: u32, minute: u32, micros: u32) -> Option<DateTime> {
    let (second, below) = (micros / MICROS, micros % MICROS);
    let time = Time::new(hour as i8, minute as i8, second as i8, below as i32 * 1000).ok()?;
    Some(date.to_datetime(time))
}

/// The moment of a local time: the first of two, none when it is skipped.
fn first_of(civil: DateTime, zone: &TimeZone) -> Option<jiff::Timestamp> {
    use jiff::tz::AmbiguousOffset;
    let offset = match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset,
        AmbiguousOffset::Fold { before, .. } => before,
        AmbiguousOffset::Gap { .. } => return None,
    };
    offset.to_timestamp(civil).ok()
}
