//! Cases computed by hand, with a calendar.
#![allow(clippy::unwrap_used)]

use relevo_wire::{PointId, Timestamp};

use super::*;
use crate::clock::VaultTime;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn candidate(number: u8, taken: &str) -> Candidate {
    Candidate {
        point: PointId::from_bytes([number; 16]),
        taken: at(taken),
        committed: at(taken),
        held: None,
        locked: None,
    }
}

fn now() -> Now {
    Now {
        wall: at("2040-01-01T00:00:00Z"),
        vault: VaultTime::from_millis(1000),
    }
}

/// The numbers (1 for the first given) of the points that stay.
fn kept(taken: &[&str], policy: &Policy) -> Vec<u8> {
    let points: Vec<_> = (1..).zip(taken).map(|(n, t)| candidate(n, t)).collect();
    kept_of(&points, policy)
}

fn kept_of(points: &[Candidate], policy: &Policy) -> Vec<u8> {
    let verdicts = plan(points, policy, now());
    let stays = verdicts.iter().filter(|v| !v.goes());
    let mut numbers: Vec<u8> = stays.map(|v| v.point.as_bytes()[0]).collect();
    numbers.sort_unstable();
    numbers
}

fn zone(name: &str) -> Policy {
    Policy {
        time_zone: name.parse().unwrap(),
        ..Policy::default()
    }
}

#[test]
fn without_rules_everything_stays() {
    let taken = ["2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"];
    assert_eq!(kept(&taken, &Policy::default()), [1, 2]);
}

/// Days without a point do not count, and the newest of a day stands for it.
#[test]
fn days_that_have_points_are_counted() {
    let taken = [
        "2026-11-22T09:00:00Z",
        "2026-11-22T08:00:00Z",
        "2026-11-20T23:59:59Z",
        "2026-11-20T00:00:00Z",
        "2026-09-01T12:00:00Z",
        "2026-08-31T12:00:00Z",
    ];
    let policy = Policy {
        daily: Count::Number(3),
        ..Policy::default()
    };
    assert_eq!(kept(&taken, &policy), [1, 3, 5]);
}

/// Rules count by themselves and what any keeps stays.
#[test]
fn rules_are_independent() {
    let taken = [
        "2026-11-22T09:00:00Z",
        "2026-11-22T08:00:00Z",
        "2026-11-21T08:00:00Z",
        "2026-10-31T08:00:00Z",
        "2025-12-31T08:00:00Z",
        "2024-12-31T08:00:00Z",
    ];
    let policy = Policy {
        last: Count::Number(2),
        daily: Count::Number(1),
        monthly: Count::Number(2),
        yearly: Count::Number(2),
        ..Policy::default()
    };
    assert_eq!(kept(&taken, &policy), [1, 2, 4, 5]);
    let all_years = Policy {
        yearly: Count::All,
        ..Policy::default()
    };
    assert_eq!(kept(&taken, &all_years), [1, 5, 6]);
}

/// 2020 has 53 ISO weeks; the first days of 2021 belong to the last, 2027-01-03 is a Sunday.
#[test]
fn iso_weeks_cross_the_turn_of_the_year() {
    let taken = [
        "2021-01-04T00:00:00Z", // Monday, 2021-W01
        "2021-01-03T23:59:59Z", // Sunday, 2020-W53
        "2021-01-01T12:00:00Z", // Friday, 2020-W53
        "2020-12-28T00:00:00Z", // Monday, 2020-W53
        "2020-12-27T23:00:00Z", // Sunday, 2020-W52
    ];
    let weekly = |n| Policy {
        weekly: Count::Number(n),
        ..Policy::default()
    };
    assert_eq!(kept(&taken, &weekly(9)), [1, 2, 5]);
    assert_eq!(kept(&taken, &weekly(2)), [1, 2]);
    // 2018-12-31 is a Monday of 2019-W01: its year is not the calendar's.
    let turn = [
        "2019-01-06T10:00:00Z",
        "2018-12-31T10:00:00Z",
        "2018-12-30T10:00:00Z",
    ];
    assert_eq!(kept(&turn, &weekly(9)), [1, 3]);
    let label = plan(&[candidate(1, turn[1])], &weekly(1), now());
    let shown = label[0]
        .keep
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    assert!(
        shown.contains(&"weekly 2019-W01 1/1".to_string()),
        "{shown:?}"
    );
}

#[test]
fn days_are_those_of_the_time_zone() {
    // 23:30 and 00:30 in Auckland (UTC+13), one day in UTC.
    let taken = ["2026-01-10T11:30:00Z", "2026-01-10T10:30:00Z"];
    let daily = |name| Policy {
        daily: Count::Number(5),
        ..zone(name)
    };
    assert_eq!(kept(&taken, &daily("UTC")), [1]);
    assert_eq!(kept(&taken, &daily("Pacific/Auckland")), [1, 2]);
    // Samoa had no 2011-12-30: these are 26 hours apart and on neighbouring days.
    let samoa = ["2011-12-30T10:30:00Z", "2011-12-30T09:30:00Z"];
    assert_eq!(kept(&samoa, &daily("Pacific/Apia")), [1, 2]);
    let shown = |n: usize| {
        let points = [candidate(1, samoa[0]), candidate(2, samoa[1])];
        plan(&points, &daily("Pacific/Apia"), now())[n]
            .keep
            .last()
            .unwrap()
            .to_string()
    };
    assert_eq!(shown(0), "daily 2011-12-31 1/5");
    assert_eq!(shown(1), "daily 2011-12-29 2/5");
}

/// Berlin: 2026-03-29 has 23 hours, 2026-10-25 has 25, of which two are called 02.
#[test]
fn days_of_23_and_25_hours() {
    let hourly = Policy {
        hourly: Count::All,
        ..zone("Europe/Berlin")
    };
    let spring: Vec<String> = (0..24)
        .map(|h| {
            format!(
                "2026-03-{}T{:02}:10:00Z",
                if h == 0 { 28 } else { 29 },
                (h + 23) % 24
            )
        })
        .collect();
    let spring: Vec<&str> = spring.iter().map(String::as_str).collect();
    assert_eq!(kept(&spring, &hourly).len(), 24);
    // 00:10Z and 01:10Z are both 02:10 in Berlin; the newer one stands for that hour.
    let autumn = [
        "2026-10-25T02:10:00Z",
        "2026-10-25T01:10:00Z",
        "2026-10-25T00:10:00Z",
    ];
    assert_eq!(kept(&autumn, &hourly), [1, 2]);
    let daily = Policy {
        daily: Count::All,
        ..zone("Europe/Berlin")
    };
    let ends = [
        "2026-10-25T22:59:59Z",
        "2026-10-24T22:00:00Z",
        "2026-10-24T21:59:59Z",
    ];
    assert_eq!(kept(&ends, &daily), [1, 3]);
}

/// Newfoundland set clocks back at 00:01 to 23:01 of the day before: dates run backwards.
#[test]
fn a_day_that_comes_twice_is_one() {
    let daily = Policy {
        daily: Count::All,
        ..zone("America/St_Johns")
    };
    // 2010-11-07 00:00:30 NDT, then 23:30 NST of the 6th, then the 7th again.
    let taken = [
        "2010-11-07T03:40:00Z",
        "2010-11-07T03:00:00Z",
        "2010-11-07T02:30:30Z",
    ];
    assert_eq!(kept(&taken, &daily), [1, 2]);
}

#[test]
fn spans_go_back_from_the_newest_point_by_the_calendar() {
    let within = |text: &str, name| Policy {
        within: Some(text.parse().unwrap()),
        ..zone(name)
    };
    // A month before 2024-03-31 is the leap day; restic's 31 February would be 2 March.
    let taken = [
        "2024-03-31T12:00:00Z",
        "2024-02-29T12:00:01Z",
        "2024-02-29T12:00:00Z",
    ];
    assert_eq!(kept(&taken, &within("1mo", "UTC")), [1, 2]);
    let years = [
        "2024-02-29T12:00:00Z",
        "2023-02-28T12:00:01Z",
        "2023-02-28T11:00:00Z",
    ];
    assert_eq!(kept(&years, &within("1y", "UTC")), [1, 2]);
    // A day back over the spring change is 23 hours, 24 hours are 24.
    let spring = ["2026-03-29T10:00:00Z", "2026-03-28T10:30:00Z"];
    assert_eq!(kept(&spring, &within("1d", "Europe/Berlin")), [1]);
    let spring = ["2026-03-29T10:00:00Z", "2026-03-28T11:30:00Z"];
    assert_eq!(kept(&spring, &within("1d", "Europe/Berlin")), [1, 2]);
    let spring = ["2026-03-29T10:00:00Z", "2026-03-28T10:30:00Z"];
    assert_eq!(kept(&spring, &within("24h", "Europe/Berlin")), [1, 2]);
    // The server is down for years: nothing goes.
    let old = ["2020-01-02T00:00:00Z", "2020-01-01T00:00:00Z"];
    assert_eq!(kept(&old, &within("7d", "UTC")), [1, 2]);
    // A point in the future is no measure for the others.
    let future = [
        "2090-01-01T00:00:00Z",
        "2026-01-02T00:00:00Z",
        "2026-01-01T12:00:00Z",
    ];
    assert_eq!(kept(&future, &within("1d", "UTC")), [1, 2, 3]);
}

#[test]
fn spans_are_read_and_shown() {
    let shown = |text: &str| text.parse::<Within>().map(|w| w.to_string());
    assert_eq!(shown("1y 6mo").unwrap(), "1y 6mo");
    assert_eq!(shown("18mo 2w 1h").unwrap(), "1y 6mo 14d 1h");
    for wrong in ["", "0d", "3m", "1.5y", "-1d", "7", "99999y", "4294967296d"] {
        assert!(shown(wrong).is_err(), "{wrong}");
    }
}

/// Guards good points against an agent that dates bad ones as it likes.
#[test]
fn lies_about_dates_push_nothing_out() {
    let mut points: Vec<_> = (1..=7)
        .map(|day| candidate(day, &format!("2026-11-{day:02}T02:00:00Z")))
        .collect();
    let policy = Policy {
        daily: Count::Number(10),
        ..Policy::default()
    };
    let forged = |number: u8, taken: &str| Candidate {
        committed: at("2026-11-08T12:00:00Z"),
        ..candidate(number, taken)
    };
    // One for the end of each day that has a good point, and some for years to come.
    points.extend((1..=7).map(|d| forged(100 + d, &format!("2026-11-{d:02}T23:59:59Z"))));
    points.extend((0..9).map(|y| forged(200 + y, &format!("203{y}-01-01T00:00:00Z"))));
    let kept = kept_of(&points, &policy);
    // Its own two days are all that a lie reaches.
    for day in 1..=5 {
        assert!(kept.contains(&day), "{kept:?}");
    }
}

#[test]
fn holds_locks_and_the_newest_stay_whatever_the_rules() {
    let mut points: Vec<_> = (1..=6)
        .map(|h| candidate(h, &format!("2026-01-01T{:02}:00:00Z", 10 - h)))
        .collect();
    points[2].held = Some("court".into());
    points[3].locked = Some(VaultTime::from_millis(1001));
    points[4].locked = Some(VaultTime::from_millis(1000));
    // Its agent's clock is an hour ahead: it is what a recovery site calls the latest.
    points[1].taken = at("2026-01-01T10:30:00Z");
    let policy = Policy {
        last: Count::Number(1),
        ..Policy::default()
    };
    assert_eq!(kept_of(&points, &policy), [1, 2, 3, 4]);
    let verdicts = plan(&points, &policy, now());
    let of = |number: u8| {
        let id = PointId::from_bytes([number; 16]);
        verdicts.iter().find(|v| v.point == id).unwrap()
    };
    assert_eq!(
        of(3).keep,
        [Reason::Held {
            reason: "court".into()
        }]
    );
    assert!(matches!(of(4).keep[..], [Reason::Locked { .. }]));
    assert_eq!(of(6).missed[0].to_string(), "last: enough newer ones");
}

/// Two years of hourly points under an everyday policy.
#[test]
fn a_simulation_holds_what_the_rules_say() {
    let policy = Policy {
        hourly: Count::Number(24),
        daily: Count::Number(7),
        weekly: Count::Number(4),
        monthly: Count::Number(12),
        yearly: Count::Number(3),
        ..zone("Europe/Berlin")
    };
    let schedule = simulate::Schedule {
        every: std::time::Duration::from_secs(3600),
        length: "2y".parse().unwrap(),
        end: at("2026-11-22T12:00:00Z"),
    };
    let held = simulate::simulate(schedule, &policy).unwrap();
    assert_eq!(held.taken, 730 * 24 + 1);
    let by_rule = |name: &str| {
        held.by_rule
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, c)| *c)
    };
    assert_eq!(by_rule("hourly"), Some(24));
    assert_eq!(by_rule("daily"), Some(7));
    assert_eq!(by_rule("weekly"), Some(4));
    assert_eq!(by_rule("monthly"), Some(12));
    assert_eq!(by_rule("yearly"), Some(3));
    // 24 hours to the 21st 14:00 local; days 16-20; weeks of the 15th (W46), 8th, 1st; months
    // to October .. December 2025, which is the year's too; 2024's last.
    assert_eq!(held.held.len(), 24 + 5 + 3 + 11 + 1);
}
