#![allow(clippy::unwrap_used)]
use super::*;

/// Guards the bands that monitoring goes by.
#[test]
fn ages_fall_into_bands_of_once_twice_and_four_times_the_target() {
    for (age, band) in [
        (0, Band::Within),
        (1000, Band::Within),
        (1001, Band::Late),
        (2000, Band::Late),
        (2001, Band::VeryLate),
        (4000, Band::VeryLate),
        (4001, Band::Missed),
    ] {
        assert_eq!(band_of(age, 1000), band, "{age}");
    }
}

/// Guards a server with a calendar and no target: missed times are seen all the same.
#[test]
fn without_a_target_missed_times_of_the_calendar_count() {
    let policy = BackupPolicy {
        rpo: None,
        calendar: vec!["*-*-* 22:00".parse().unwrap()],
        ..BackupPolicy::default()
    };
    let now = |wall: &str, up: u64| Now {
        wall: wall.parse().unwrap(),
        up: std::time::Duration::from_secs(up),
        boot: "one".into(),
    };
    let taken = now("2026-11-20T22:05:00Z", 0).stamp();
    let success = Success {
        point: PointId::random(),
        taken: taken.clone(),
        finished: taken.wall,
        took_ms: 1000,
        disks: Vec::new(),
        report: Value::Null,
    };
    let day = 86_400;
    for (days, band) in [
        (1, Band::Within),
        (2, Band::Late),
        (3, Band::VeryLate),
        (6, Band::Missed),
    ] {
        let wall = Timestamp::from_millis(taken.wall.as_millis() + days as i64 * day as i64 * 1000);
        let then = now(&wall.to_string(), days * day);
        let newest = newest_of(&success, &policy, &Zone::default(), &then);
        assert_eq!(newest.band, band, "{days}");
        assert!(band == Band::Within || newest.in_words().contains("missed"));
    }
}
