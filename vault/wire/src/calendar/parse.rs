//! From text to a calendar event, as systemd's calendarspec.c reads it.

use super::CalendarEvent;
use super::field::{Field, Part};
use crate::zone::Zone;

/// Last year in which an event is looked for, as in systemd.
pub(super) const LAST_YEAR: u32 = 2199;
/// First one.
const FIRST_YEAR: u32 = 1970;
const MICROS: u32 = 1_000_000;
const ANY_DAY: u8 = 0x7f;
const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

type Reason = &'static str;

pub(super) fn event(text: &str) -> Result<CalendarEvent, Reason> {
    let (spec, zone) = split_zone(text);
    let mut event = CalendarEvent {
        text: text.into(),
        weekdays: ANY_DAY,
        year: Field::default(),
        month: Field::default(),
        day: Field::default(),
        from_end: false,
        hour: Field::only(0),
        minute: Field::only(0),
        second: Field::only(0),
        zone,
    };
    if spec.is_empty() {
        return Err("nothing is said");
    }
    if let Some(epoch) = spec.strip_prefix('@') {
        return at_epoch(event, epoch);
    }
    if shorthand(&mut event, spec) {
        return Ok(event);
    }
    let mut rest = Rest(spec);
    if let Some(days) = rest.weekdays()? {
        event.weekdays = days;
    }
    rest.date(&mut event)?;
    rest.time(&mut event)?;
    for (field, least, most, from_end) in [
        (&event.year, FIRST_YEAR, LAST_YEAR, false),
        (&event.month, 1, 12, false),
        (&event.day, 1, 31, event.from_end),
        (&event.hour, 0, 23, false),
        (&event.minute, 0, 59, false),
        (&event.second, 0, 60 * MICROS - 1, false),
    ] {
        if !field.0.iter().all(|p| p.is_within(least, most, from_end)) {
            return Err("a number in it is out of its range, or is never reached");
        }
    }
    Ok(event)
}

/// Weekdays and nothing else: one bit a day, Monday lowest.
pub(crate) fn weekdays(text: &str) -> Option<u8> {
    let mut rest = Rest(text);
    let days = rest.weekdays().ok()??;
    rest.0.is_empty().then_some(days)
}

/// A zone at the end, behind a blank.
fn split_zone(text: &str) -> (&str, Option<Zone>) {
    let Some((spec, word)) = text.rsplit_once(' ') else {
        return (text, None);
    };
    // A weekday before a date, or a time, is no zone of the database.
    match word.parse::<Zone>() {
        Ok(zone) if word.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            (spec.trim_end(), Some(zone))
        }
        _ => (text, None),
    }
}

/// `@` and seconds since 1970, which have no zone but UTC.
fn at_epoch(mut event: CalendarEvent, text: &str) -> Result<CalendarEvent, Reason> {
    let wrong = "behind @ stand seconds since 1970";
    let seconds: i64 = text.parse().map_err(|_| wrong)?;
    let moment = jiff::Timestamp::from_second(seconds).map_err(|_| wrong)?;
    let civil = jiff::tz::TimeZone::UTC.to_datetime(moment);
    let number = |n: i64| u32::try_from(n).map_err(|_| wrong);
    let year = number(civil.year().into())?;
    if !(FIRST_YEAR..=LAST_YEAR).contains(&year) {
        return Err(wrong);
    }
    event.year = Field::only(year);
    event.month = Field::only(number(civil.month().into())?);
    event.day = Field::only(number(civil.day().into())?);
    event.hour = Field::only(number(civil.hour().into())?);
    event.minute = Field::only(number(civil.minute().into())?);
    event.second = Field::only(number(civil.second().into())? * MICROS);
    event.zone = Some(Zone::default());
    Ok(event)
}

fn shorthand(event: &mut CalendarEvent, word: &str) -> bool {
    let months = |list: &[u32]| Field(list.iter().copied().map(Part::only).collect());
    match word.to_ascii_lowercase().as_str() {
        "minutely" => (event.hour, event.minute) = (Field::default(), Field::default()),
        "hourly" => event.hour = Field::default(),
        "daily" => {}
        "weekly" => event.weekdays = 1,
        "monthly" => event.day = Field::only(1),
        "quarterly" => (event.month, event.day) = (months(&[1, 4, 7, 10]), Field::only(1)),
        "biannually" | "bi-annually" | "semiannually" | "semi-annually" => {
            (event.month, event.day) = (months(&[1, 7]), Field::only(1));
        }
        "annually" | "yearly" | "anually" => {
            (event.month, event.day) = (Field::only(1), Field::only(1));
        }
        _ => return false,
    }
    true
}

/// What is still to be read.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn next(&self) -> Option<char> {
        self.0.chars().next()
    }

    fn take(&mut self, prefix: &str) -> bool {
        match self.0.strip_prefix(prefix) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn skip_blanks(&mut self) {
        self.0 = self.0.trim_start_matches(' ');
    }

    /// Takes a weekday's name, long or short, when one stands there.
    fn weekday(&mut self) -> Option<u8> {
        for (number, name) in (0..).zip(DAYS) {
            for name in [name, &name[..3]] {
                let here = self.0.get(..name.len());
                if here.is_some_and(|here| here.eq_ignore_ascii_case(name)) {
                    self.0 = &self.0[name.len()..];
                    return Some(number);
                }
            }
        }
        None
    }

    fn weekdays(&mut self) -> Result<Option<u8>, Reason> {
        let (mut bits, mut range_from) = (0u8, None);
        loop {
            let Some(day) = self.weekday() else {
                return match bits {
                    0 => Ok(None),
                    _ => Err("a weekday is wanted there"),
                };
            };
            bits |= 1 << day;
            if let Some(from) = range_from {
                if from > day {
                    return Err("a range of weekdays goes from an earlier to a later one");
                }
                bits |= (from..day).fold(0, |bits, day| bits | 1 << day);
            }
            match self.next() {
                None => return Ok(Some(bits)),
                Some(' ') => {
                    self.skip_blanks();
                    return Ok(Some(bits));
                }
                Some(_) if range_from.is_some() && !self.0.starts_with(',') => {
                    return Err("a range of weekdays has two ends");
                }
                Some(_) if self.take("..") || self.take("-") => range_from = Some(day),
                Some(_) if self.take(",") => range_from = None,
                Some(_) => return Err("a weekday's name is wrong"),
            }
            // A comma may stand at the end, an open range may not.
            if matches!(self.next(), None | Some(' ')) {
                self.skip_blanks();
                return match range_from {
                    None => Ok(Some(bits)),
                    Some(_) => Err("a range of weekdays has two ends"),
                };
            }
        }
    }

    fn date(&mut self, event: &mut CalendarEvent) -> Result<(), Reason> {
        let wrong = "a date is YEAR-MONTH-DAY or MONTH-DAY";
        let begin = self.0;
        if begin.is_empty() {
            return Ok(());
        }
        let first = self.field(1)?;
        if matches!(self.next(), None | Some(':')) {
            // That was a time.
            self.0 = begin;
            return Ok(());
        }
        event.from_end = self.separator().ok_or(wrong)?;
        let second = self.field(1)?;
        if matches!(self.next(), None | Some(' ')) {
            (event.month, event.day) = (first, second);
        } else {
            if event.from_end {
                return Err(wrong);
            }
            event.from_end = self.separator().ok_or(wrong)?;
            let day = self.field(1)?;
            (event.year, event.month, event.day) = (with_century(first), second, day);
            if !matches!(self.next(), None | Some(' ')) {
                return Err(wrong);
            }
        }
        self.skip_blanks();
        Ok(())
    }

    /// `-`, or `~` before days from the end of the month.
    fn separator(&mut self) -> Option<bool> {
        match () {
            () if self.take("-") => Some(false),
            () if self.take("~") => Some(true),
            () => None,
        }
    }

    fn time(&mut self, event: &mut CalendarEvent) -> Result<(), Reason> {
        let wrong = "a time is HOUR:MINUTE or HOUR:MINUTE:SECOND";
        if self.0.is_empty() {
            return Ok(());
        }
        event.hour = self.field(1)?;
        if !self.take(":") {
            return Err(wrong);
        }
        event.minute = self.field(1)?;
        if self.take(":") {
            event.second = match self.take("*") {
                true => Field(vec![Part {
                    repeat: MICROS,
                    ..Part::only(0)
                }]),
                false => self.field(MICROS)?,
            };
        }
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(wrong),
        }
    }

    /// A field in units of one `scale`th.
    fn field(&mut self, scale: u32) -> Result<Field, Reason> {
        if self.take("*") {
            return Ok(Field::default());
        }
        let mut parts = Vec::new();
        loop {
            let mut part = Part::only(self.number(scale)?);
            if self.take("..") {
                (part.stop, part.repeat) = (Some(self.number(scale)?), scale);
            }
            if self.take("/") {
                part.repeat = self.number(scale)?;
                if part.repeat == 0 {
                    return Err("a repetition of 0 never comes");
                }
            } else if scale > 1
                && part
                    .stop
                    .is_some_and(|stop| part.start.saturating_add(scale) > stop)
            {
                return Err("a range of seconds is at least one second long");
            }
            parts.push(part.normal());
            if !self.take(",") {
                break;
            }
        }
        match self.next() {
            None | Some(' ' | '-' | '~' | ':') => Ok(Field(parts)),
            Some(_) => Err("a number is followed by something strange"),
        }
    }

    fn number(&mut self, scale: u32) -> Result<u32, Reason> {
        let whole = self.digits();
        let wrong = "a number is wanted there, or is too large";
        let number = whole.parse::<u32>().ok();
        let number = number.and_then(|n| n.checked_mul(scale)).ok_or(wrong)?;
        if scale == 1 || !self.0.starts_with('.') || self.0.starts_with("..") {
            return Ok(number);
        }
        self.0 = &self.0[1..];
        let fraction = self.digits();
        if fraction.is_empty() {
            return Err(wrong);
        }
        // The seventh digit rounds, as in systemd.
        let digit = |at: usize| u32::from(fraction.as_bytes().get(at).map_or(0, |d| d - b'0'));
        let micros = (0..6).fold(0, |micros, at| micros * 10 + digit(at));
        let micros = micros + u32::from(digit(6) >= 5);
        number.checked_add(micros).ok_or(wrong)
    }

    fn digits(&mut self) -> &str {
        let end = self.0.find(|c: char| !c.is_ascii_digit());
        let (digits, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        digits
    }
}

/// Years of two digits: from 1970 to 2069.
fn with_century(mut years: Field) -> Field {
    let full = |year: u32| match year {
        0..70 => year + 2000,
        70..100 => year + 1900,
        year => year,
    };
    for part in &mut years.0 {
        part.start = full(part.start);
        part.stop = part.stop.map(full);
    }
    years
}
