#![allow(clippy::unwrap_used)]
use std::process::Command;

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;
use crate::time::Timestamp;

fn times(spec: &str, base: &str, zone: &Zone, count: usize) -> Vec<Timestamp> {
    let event: CalendarEvent = spec.parse().unwrap();
    let first = event.next(base.parse().unwrap(), zone);
    std::iter::successors(first, |at| event.next(*at, zone))
        .take(count)
        .collect()
}

/// Guards the syntax and the changes of clocks: what systemd 252 said (`systemd-analyze calendar
/// --iterations=3 --base-time=2026-03-27T12:00Z`, in UTC).
#[test]
fn events_come_when_systemd_says() {
    let table = [
        (
            "minutely",
            [
                "2026-03-27T12:01:00Z",
                "2026-03-27T12:02:00Z",
                "2026-03-27T12:03:00Z",
            ],
        ),
        (
            "quarterly",
            [
                "2026-04-01T00:00:00Z",
                "2026-07-01T00:00:00Z",
                "2026-10-01T00:00:00Z",
            ],
        ),
        (
            "Mon *-05~07/1",
            [
                "2026-05-25T00:00:00Z",
                "2027-05-31T00:00:00Z",
                "2028-05-29T00:00:00Z",
            ],
        ),
        (
            "*-02~01",
            [
                "2027-02-28T00:00:00Z",
                "2028-02-29T00:00:00Z",
                "2029-02-28T00:00:00Z",
            ],
        ),
        (
            "*-*~05..07",
            [
                "2026-04-24T00:00:00Z",
                "2026-04-25T00:00:00Z",
                "2026-04-26T00:00:00Z",
            ],
        ),
        (
            "*-02-29 12:00",
            [
                "2028-02-29T12:00:00Z",
                "2032-02-29T12:00:00Z",
                "2036-02-29T12:00:00Z",
            ],
        ),
        (
            "Sat,Mon..Wed 12:00",
            [
                "2026-03-28T12:00:00Z",
                "2026-03-30T12:00:00Z",
                "2026-03-31T12:00:00Z",
            ],
        ),
        (
            "8..18/4:05,35",
            [
                "2026-03-27T12:05:00Z",
                "2026-03-27T12:35:00Z",
                "2026-03-27T16:05:00Z",
            ],
        ),
        // Clocks go forward on 29 March: that day has no 02:30.
        (
            "*-*-* 02:30:00 Europe/Berlin",
            [
                "2026-03-28T01:30:00Z",
                "2026-03-30T00:30:00Z",
                "2026-03-31T00:30:00Z",
            ],
        ),
        (
            "Sun 00..03:00 Europe/Berlin",
            [
                "2026-03-28T23:00:00Z",
                "2026-03-29T00:00:00Z",
                "2026-03-29T01:00:00Z",
            ],
        ),
        // And back on 25 October: 02:30 counts once, the first time.
        (
            "*-10-24..26 02:30 Europe/Berlin",
            [
                "2026-10-24T00:30:00Z",
                "2026-10-25T00:30:00Z",
                "2026-10-26T01:30:00Z",
            ],
        ),
        (
            "*-10-25 *:00/30 Europe/Berlin",
            [
                "2026-10-24T22:00:00Z",
                "2026-10-24T22:30:00Z",
                "2026-10-24T23:00:00Z",
            ],
        ),
    ];
    for (spec, expected) in table {
        let found = times(spec, "2026-03-27T12:00:00Z", &Zone::default(), 3);
        let expected: Vec<Timestamp> = expected.iter().map(|t| t.parse().unwrap()).collect();
        assert_eq!(found, expected, "{spec}");
    }
    // The hour that comes twice: from 02:30 summer time straight to 03:00 winter time.
    let hour = times(
        "*-*-* *:00/30 Europe/Berlin",
        "2026-10-25T00:00:00Z",
        &Zone::default(),
        2,
    );
    assert_eq!(hour[0].to_string(), "2026-10-25T00:30:00.000Z");
    assert_eq!(hour[1].to_string(), "2026-10-25T02:00:00.000Z");
}

/// Guards the administrator against an event that never comes, or another one than meant.
#[test]
fn what_is_no_event_is_refused_and_said() {
    for wrong in [
        "",
        " ",
        "5",
        "noon",
        "Fri..Mon",
        "Mon..",
        "Mon..Tue..Wed",
        "Monda 12:00",
        "12..4:00",
        "25:00",
        "12:60",
        "*-13-01",
        "*-02-32",
        "*:*/5",
        "12:00/0",
        "hourly foo",
        "*-*-* 12:00 Mars/Base",
        "2026-01-01~02",
        "*-*~31",
        "99999999999:00",
        "12:00:00:00",
        "@",
        "@x",
        "1969-01-01",
        "Mon12:00",
        "daily 12:00",
        "*-*-*T12:00",
    ] {
        let error = wrong.parse::<CalendarEvent>().unwrap_err().to_string();
        assert!(error.contains("Mon..Fri 22:00"), "{error}");
    }
}

#[test]
fn an_event_of_the_past_does_not_come_again() {
    let zone = Zone::default();
    assert_eq!(times("2020-01-01", "2026-03-27T12:00:00Z", &zone, 1), []);
    assert_eq!(times("*-02-30", "2026-03-27T12:00:00Z", &zone, 1), []);
    let last = times("@1800000000", "2026-03-27T12:00:00Z", &zone, 2);
    assert_eq!(last, [Timestamp::from_millis(1_800_000_000_000)]);
}

/// One number, a range, or a repetition.
fn part(most: u32) -> impl Strategy<Value = String> {
    let number = move || 0..=most + 1;
    prop_oneof![
        4 => number().prop_map(|n| n.to_string()),
        1 => (number(), number()).prop_map(|(a, b)| format!("{a}..{b}")),
        1 => (number(), 0..8u32).prop_map(|(a, r)| format!("{a}/{r}")),
        1 => (number(), number(), 1..8u32).prop_map(|(a, b, r)| format!("{a}..{b}/{r}")),
    ]
}

/// All, a part, or several.
fn field(most: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just("*".to_string()),
        3 => prop::collection::vec(part(most), 1..3).prop_map(|parts| parts.join(",")),
    ]
}

/// A day behind its separator. Of days from the end of the month systemd 252 refuses some lists
/// that it should not: its check takes the month for three days shorter with each part.
fn day() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => field(31).prop_map(|day| format!("-{day}")),
        1 => part(31).prop_map(|day| format!("~{day}")),
    ]
}

fn spec() -> impl Strategy<Value = String> {
    let weekday = prop::sample::select(vec!["Mon", "tue", "Wednesday", "Thu", "Fri", "Sat", "SUN"]);
    let days = prop_oneof![
        2 => Just(String::new()),
        1 => weekday.clone().prop_map(|d| format!("{d} ")),
        1 => (weekday.clone(), weekday.clone()).prop_map(|(a, b)| format!("{a}..{b} ")),
        1 => (weekday.clone(), weekday).prop_map(|(a, b)| format!("{a},{b} ")),
    ];
    let year = prop_oneof![3 => Just("*".to_string()), 1 => (2020..2040u32).prop_map(|y| y.to_string()), 1 => (20..60u32).prop_map(|y| y.to_string())];
    let date = prop_oneof![
        1 => Just(String::new()),
        2 => (year, field(12), day()).prop_map(|(y, m, d)| format!("{y}-{m}{d} ")),
        1 => (field(12), day()).prop_map(|(m, d)| format!("{m}{d} ")),
    ];
    let time = prop_oneof![
        2 => (field(23), field(59)).prop_map(|(h, m)| format!("{h}:{m}")),
        1 => (field(23), field(59), field(59)).prop_map(|(h, m, s)| format!("{h}:{m}:{s}")),
    ];
    let zone = prop::sample::select(vec![
        "",
        " UTC",
        " Europe/Berlin",
        " America/New_York",
        " Asia/Kolkata",
        " Australia/Lord_Howe",
    ]);
    (days, date, time, zone)
        .prop_map(|(d, date, t, z)| format!("{d}{date}{t}{z}").trim().to_string())
}

/// What systemd says of an event: its next times in UTC, or that it is none.
fn systemd(spec: &str, base: Timestamp) -> Option<Vec<Timestamp>> {
    let base = base
        .to_string()
        .replace(['T'], " ")
        .replace(".000Z", " UTC");
    let output = Command::new("systemd-analyze")
        .env("TZ", "UTC")
        .args([
            "calendar",
            "--iterations=3",
            &format!("--base-time={base}"),
            spec,
        ])
        .output()
        .unwrap();
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter_map(|line| {
        let (label, value) = line.split_once(": ")?;
        let here = label.contains("Next elapse") || label.contains("Iter.");
        let moment = value
            .split_once(' ')?
            .1
            .strip_suffix(" UTC")?
            .replace(' ', "T");
        here.then(|| format!("{moment}Z").parse().unwrap())
    });
    Some(lines.collect())
}

proptest! {
    /// Guards against skipping a time, or giving one twice: each time is later than the one
    /// before, and nothing lies between that a question from in between would find.
    #[test]
    fn times_grow_and_none_is_skipped(spec in spec(), base in 1_700_000_000i64..2_200_000_000, back in 1..100_000_000i64) {
        let Ok(event) = spec.parse::<CalendarEvent>() else { return Ok(()) };
        let zone = Zone::default();
        let base = Timestamp::from_millis(base * 1000);
        let Some(next) = event.next(base, &zone) else { return Ok(()) };
        prop_assert!(next > base);
        let between = Timestamp::from_millis((next.as_millis() - back).max(base.as_millis()));
        prop_assert_eq!(event.next(between, &zone), Some(next));
    }

    /// Guards against text from a vault or a file that ends a program.
    #[test]
    fn any_text_is_an_event_or_an_error(text in "\\PC{0,40}") {
        let _ = text.parse::<CalendarEvent>();
    }
}

/// Guards against reading an event otherwise than systemd does, where its program is at hand
/// (Debian's package systemd).
#[test]
fn systemd_reads_the_same() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("skipped: there is no systemd-analyze; the table above stands for it");
        return;
    }
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let zone = Zone::default();
    let mut events = 0;
    for _ in 0..CASES {
        let tree = (spec(), 1_700_000_000i64..1_900_000_000)
            .new_tree(&mut runner)
            .unwrap();
        let (spec, base) = tree.current();
        let base = Timestamp::from_millis(base * 1000);
        let ours = spec.parse::<CalendarEvent>().ok().map(|event| {
            std::iter::successors(event.next(base, &zone), |at| event.next(*at, &zone))
                .take(3)
                .collect::<Vec<_>>()
        });
        let theirs = systemd(&spec, base);
        events += usize::from(theirs.is_some());
        assert_eq!(ours, theirs, "'{spec}' after {base}");
    }
    assert!(events > CASES / 10, "only {events} of {CASES} were events");
}

/// Each starts a program.
const CASES: usize = 300;
