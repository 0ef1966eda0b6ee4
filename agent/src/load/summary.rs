//! From hours to what a recovery site is told.

use relevo_wire::Timestamp;
use relevo_wire::load::{Load, LoadDay, LoadFigures, LoadHour, MAX_DAYS, Spread, WEEK};

use super::counters::FIGURES;
use super::history::{History, Hour, minute_of, percentile};

/// 1970-01-01 was a Thursday.
const MONDAY: u32 = 3 * 24;

/// What is known up to now; none when nothing was measured.
pub fn of(history: &History, now: Timestamp) -> Option<Load> {
    let hours = history.hours(minute_of(now));
    let (first, last) = (hours.first()?, hours.last()?);
    let moment = |hour: u32| Timestamp::from_millis(i64::from(hour) * 3_600_000);
    let mut days: Vec<LoadDay> = hours
        .chunk_by(|a, b| a.number / 24 == b.number / 24)
        .map(|hours| LoadDay {
            day: hours[0].number / 24,
            minutes: minutes(hours),
            figures: figures(hours),
        })
        .collect();
    // 90 days of hours begin in the middle of one.
    days.drain(..days.len().saturating_sub(MAX_DAYS));
    Some(Load {
        from: Some(moment(first.number)),
        to: Some(moment(last.number + 1).min(now)),
        minutes: minutes(&hours),
        all: figures(&hours),
        days,
        week: week(&hours),
    })
}

fn minutes(hours: &[Hour]) -> u32 {
    hours.iter().map(|hour| hour.minutes).sum()
}

fn figures(hours: &[Hour]) -> LoadFigures {
    let mut spreads = [Spread::default(); FIGURES];
    for (at, spread) in spreads.iter_mut().enumerate() {
        *spread = over(hours, |hour| hour.spreads[at]);
    }
    let [cpu, memory, reads, writes, read, written, received, sent] = spreads;
    LoadFigures {
        cpu,
        memory,
        reads,
        writes,
        read,
        written,
        received,
        sent,
    }
}

/// By hour of the week. Of disks and network the sum of both ways, whose p95 and max are thus at
/// most what is said.
fn week(hours: &[Hour]) -> Vec<LoadHour> {
    let mut by_hour = vec![Vec::new(); WEEK];
    for hour in hours {
        by_hour[((hour.number + MONDAY) as usize) % WEEK].push(*hour);
    }
    let both = |hours: &[Hour], one: usize, other: usize| {
        over(hours, |hour| {
            let [a, b] = [one, other].map(|at| <[u64; 3]>::from(hour.spreads[at]));
            Spread::from(std::array::from_fn(|at| a[at].saturating_add(b[at])))
        })
    };
    by_hour
        .iter()
        .map(|hours| LoadHour {
            cpu: over(hours, |hour| hour.spreads[0]),
            memory: over(hours, |hour| hour.spreads[1]),
            disk: both(hours, 4, 5),
            network: both(hours, 6, 7),
        })
        .collect()
}

fn over(hours: &[Hour], figure: impl Fn(&Hour) -> Spread) -> Spread {
    let weighted = hours
        .iter()
        .map(|hour| u128::from(figure(hour).mean) * u128::from(hour.minutes));
    let mean = weighted.sum::<u128>() / u128::from(minutes(hours).max(1));
    let mut p95: Vec<u64> = hours.iter().map(|hour| figure(hour).p95).collect();
    p95.sort_unstable();
    Spread {
        mean: u64::try_from(mean).unwrap_or(u64::MAX),
        p95: percentile(&p95, 95).unwrap_or(0),
        max: hours.iter().map(|hour| figure(hour).max).max().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::load::history::{MINUTES, Minute};

    /// Guards the days, the hours of the week (UTC, from Monday on) and what is over all.
    #[test]
    fn days_and_weeks_are_those_of_the_calendar() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(&dir.path().join("load")).unwrap();
        assert_eq!(of(&history, Timestamp::now()), None);
        let monday: Timestamp = "2026-11-23T09:00:00Z".parse().unwrap();
        let first = minute_of(monday);
        // Mondays at nine it works; for the rest of the day it does little.
        for week in 0..3 {
            for minute in 0..120u32 {
                let number = first + week * 7 * MINUTES + minute;
                let busy = if minute < 60 { 4000 } else { 100 };
                let figures = [busy; FIGURES];
                history.keep(&Minute { number, figures }).unwrap();
            }
            history
                .close_hours(first + week * 7 * MINUTES + 120)
                .unwrap();
        }
        let now = "2026-12-07T11:00:30Z".parse().unwrap();
        let load = of(&history, now).unwrap();
        assert_eq!(load.minutes, 360);
        assert_eq!(load.from, Some(monday));
        assert_eq!(load.to, Some("2026-12-07T11:00:00Z".parse().unwrap()));
        let days: Vec<_> = load.days.iter().map(|day| day.day * MINUTES).collect();
        let first_day = first / MINUTES * MINUTES;
        assert_eq!(days, [0, 7, 14].map(|day| first_day + day * MINUTES));
        let cpu = Spread {
            mean: 2050,
            p95: 4000,
            max: 4000,
        };
        assert_eq!((load.all.cpu, load.days[1].figures.cpu), (cpu, cpu));
        assert_eq!(load.week.len(), WEEK);
        assert_eq!((load.week[9].cpu.p95, load.week[10].cpu.p95), (4000, 100));
        assert_eq!(load.week[9].disk.max, 8000);
        assert_eq!(load.week[33], LoadHour::default());
    }
}
