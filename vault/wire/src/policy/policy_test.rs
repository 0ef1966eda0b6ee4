#![allow(clippy::unwrap_used)]
use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn policy(window: &[&str], line: &[&str]) -> BackupPolicy {
    BackupPolicy {
        window: window.iter().map(|w| w.parse().unwrap()).collect(),
        line: line.iter().map(|l| l.parse().unwrap()).collect(),
        ..BackupPolicy::default()
    }
}

/// Guards the hours in which a server is left alone.
#[test]
fn windows_open_and_close_over_midnight_and_by_the_day() {
    let (zone, berlin) = (Zone::default(), "Europe/Berlin".parse().unwrap());
    let night = policy(&["Mon..Fri 20:00-06:00"], &[]);
    // 27 November 2026 is a Friday.
    for (moment, open) in [
        ("2026-11-27T19:59:59Z", false),
        ("2026-11-27T20:00:00Z", true),
        ("2026-11-28T05:59:59Z", true),
        ("2026-11-28T06:00:00Z", false),
        ("2026-11-28T20:00:00Z", false),
        ("2026-11-30T03:00:00Z", false),
    ] {
        assert_eq!(night.is_open(at(moment), &zone), open, "{moment}");
    }
    let opens = night.opens(at("2026-11-28T06:00:00Z"), &zone);
    assert_eq!(opens, at("2026-11-30T20:00:00Z"));
    let inside = at("2026-11-27T21:00:00Z");
    assert_eq!(night.opens(inside, &zone), inside);
    assert!(night.is_open(at("2026-11-27T19:00:00Z"), &berlin));
    // A beginning that clocks skip is when they have been put forward.
    let spring = policy(&["02:30-05:00"], &[]);
    let opens = spring.opens(at("2026-03-29T00:00:00Z"), &berlin);
    assert_eq!(opens, at("2026-03-29T01:30:00Z"));
    assert!(policy(&["00:00-24:00"], &[]).is_open(inside, &zone));
    for wrong in [
        "",
        "20:00",
        "24:00-06:00",
        "20:00-25:00",
        "20-22",
        "Mo 20:00-22:00",
        "+8:00-9:00",
    ] {
        assert!(wrong.parse::<Window>().is_err(), "{wrong}");
    }
}

/// Guards a line in office hours, and its use at night.
#[test]
fn the_ceiling_of_the_time_counts_before_the_general_one() {
    let zone = Zone::default();
    let rate = |policy: &BackupPolicy, moment| policy.line_rate(at(moment), &zone);
    let office = policy(&[], &["100 Mbit/s", "Mon..Fri 08:00-18:00 10 Mbit/s"]);
    assert_eq!(rate(&office, "2026-11-27T10:00:00Z"), Some(1_250_000));
    assert_eq!(rate(&office, "2026-11-28T10:00:00Z"), Some(12_500_000));
    let night = policy(&[], &["22:00-06:00 1.5 Gbit/s", "10 Mbit/s"]);
    assert_eq!(rate(&night, "2026-11-27T23:00:00Z"), Some(187_500_000));
    assert_eq!(rate(&night, "2026-11-27T10:00:00Z"), Some(1_250_000));
    assert_eq!(rate(&policy(&[], &[]), "2026-11-27T10:00:00Z"), None);
    for wrong in [
        "",
        "100",
        "0 Mbit/s",
        "100 MB/s",
        "8:00-9:00",
        "99999999999999 Gbit/s",
        "1.2345 Mbit/s",
    ] {
        let error = wrong.parse::<LineCeiling>().unwrap_err().to_string();
        assert!(error.contains("10 Mbit/s"), "{error}");
    }
    let shown = |text: &str| text.parse::<LineCeiling>().unwrap().to_string();
    assert_eq!(shown("1500 kbit/s"), "1500 kbit/s");
    assert_eq!(
        shown("Mon 08:00-09:00 1.5 Gbit/s"),
        "Mon 08:00-09:00 1500 Mbit/s"
    );
    assert_eq!(shown("1.001 kbit/s"), "1.001 kbit/s");
}

#[test]
fn shares_of_the_processors_are_of_all_or_of_one() {
    let cores = |text: &str| text.parse::<CpuCeiling>().map(|cpu| cpu.cores(8));
    assert_eq!(cores("25%"), Ok(2.0));
    assert_eq!(cores("150% of one core"), Ok(1.5));
    for wrong in ["", "25", "0%", "101%", "-1%", "50% of two cores"] {
        assert!(cores(wrong).is_err(), "{wrong}");
    }
}

/// Guards what agents of this release can read of a vault, and its file in their directory.
#[test]
fn a_policy_survives_the_wire_and_the_file() {
    let policy = BackupPolicy {
        calendar: vec!["Mon..Fri 22:00 Europe/Berlin".parse().unwrap()],
        time_zone: Some("Asia/Kolkata".parse().unwrap()),
        cpu: Some("50% of one core".parse().unwrap()),
        read_rate: Some(1 << 20),
        ..self::policy(&["20:00-06:00"], &["08:00-18:00 10 Mbit/s"])
    };
    let bytes = minicbor::to_vec(&policy).unwrap();
    assert_eq!(minicbor::decode::<BackupPolicy>(&bytes).unwrap(), policy);
    let text = toml::to_string(&policy).unwrap();
    assert_eq!(toml::from_str::<BackupPolicy>(&text).unwrap(), policy);
    // What a later release writes is an error, not something else.
    let strange = minicbor::to_vec((None::<u64>, ["every blue moon"])).unwrap();
    assert!(minicbor::decode::<BackupPolicy>(&strange).is_err());
}
