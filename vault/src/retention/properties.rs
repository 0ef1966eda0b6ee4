//! What holds for all policies and all points.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use relevo_wire::{PointId, Timestamp};

use super::*;
use crate::clock::VaultTime;

const ZONES: [&str; 7] = [
    "UTC",
    "Europe/Berlin",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Asia/Kathmandu",
    "Pacific/Kiritimati",
];

fn counts() -> impl Strategy<Value = Count> {
    prop_oneof![
        3 => Just(Count::NONE),
        5 => (1u32..9).prop_map(Count::Number),
        1 => Just(Count::All),
    ]
}

fn policies() -> impl Strategy<Value = Policy> {
    let within = prop_oneof![
        3 => Just(None),
        1 => (1u32..60).prop_map(|d| Some(format!("{d}d"))),
        1 => (1u32..30).prop_map(|m| Some(format!("{m}mo 5h"))),
    ];
    let six = proptest::array::uniform6(counts());
    (six, within, 0..ZONES.len()).prop_map(|(counts, within, zone)| Policy {
        last: counts[0],
        hourly: counts[1],
        daily: counts[2],
        weekly: counts[3],
        monthly: counts[4],
        yearly: counts[5],
        within: within.map(|w| w.parse().unwrap()),
        time_zone: ZONES[zone].parse().unwrap(),
    })
}

/// Points around turns of years, changes of clocks and anywhere in ten years; some dated wrong.
fn points() -> impl Strategy<Value = Vec<Candidate>> {
    let moment = prop_oneof![
        Just(1_609_459_200i64), // 2021-01-01, in ISO week 53 of 2020
        Just(1_790_000_000),    // September 2026
        Just(1_774_746_000),    // 2026-03-29 01:00Z, Europe's spring
        Just(1_709_164_800),    // 2024-02-29
        1_500_000_000i64..1_800_000_000,
    ];
    let around = (moment, -400_000i64..400_000, -300_000i64..300_000, 0u8..20);
    proptest::collection::vec(around, 1..60).prop_map(|all| {
        let point = |(number, (at, near, wrong, kind)): (usize, (i64, i64, i64, u8))| Candidate {
            point: PointId::from_bytes([number as u8; 16]),
            taken: Timestamp::from_millis((at + near + if kind < 3 { wrong } else { 0 }) * 1000),
            committed: Timestamp::from_millis((at + near) * 1000),
            held: (kind == 4).then(|| "held".into()),
            locked: (kind == 5).then(|| VaultTime::from_millis(u64::from(number as u8))),
        };
        all.into_iter().enumerate().map(point).collect()
    })
}

fn now() -> Now {
    Now {
        wall: Timestamp::from_millis(1_750_000_000_000),
        vault: VaultTime::from_millis(20),
    }
}

fn kept(points: &[Candidate], policy: &Policy) -> BTreeSet<PointId> {
    let stays = plan(points, policy, now())
        .into_iter()
        .filter(|v| !v.goes());
    stays.map(|v| v.point).collect()
}

fn only(points: &[Candidate], ids: &BTreeSet<PointId>) -> Vec<Candidate> {
    let held = points.iter().filter(|p| ids.contains(&p.point));
    held.cloned().collect()
}

fn more(count: Count) -> Count {
    match count {
        Count::Number(number) => Count::Number(number + 1),
        Count::All => Count::All,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Guards against a policy that eats its own result.
    #[test]
    fn a_second_application_removes_nothing(points in points(), policy in policies()) {
        let once = kept(&points, &policy);
        prop_assert_eq!(&kept(&only(&points, &once), &policy), &once);
    }

    /// Guards against a generous policy that removes what a meaner one keeps.
    #[test]
    fn larger_rules_keep_all_that_smaller_ones_keep(points in points(), policy in policies()) {
        let before = kept(&points, &policy);
        for rule in 0..6 {
            let mut larger = policy.clone();
            let counts = [
                &mut larger.last, &mut larger.hourly, &mut larger.daily,
                &mut larger.weekly, &mut larger.monthly, &mut larger.yearly,
            ];
            for (_, count) in counts.into_iter().enumerate().filter(|(at, _)| *at == rule) {
                *count = more(*count);
            }
            // The first rule of all is where keeping everything ends.
            if !policy.is_empty() {
                prop_assert!(kept(&points, &larger).is_superset(&before));
            }
        }
    }

    /// Guards what is promised whatever the rules say; and that something always stays.
    #[test]
    fn held_locked_and_newest_stay(points in points(), policy in policies()) {
        let stays = kept(&points, &policy);
        for point in &points {
            let locked = point.locked.is_some_and(|until| until > now().vault);
            if locked || point.held.is_some() {
                prop_assert!(stays.contains(&point.point));
            }
        }
        let latest = points.iter().max_by_key(|p| (p.taken, p.committed)).unwrap();
        let dated = (latest.taken, latest.committed);
        let mut latest = points.iter().filter(|p| (p.taken, p.committed) == dated);
        prop_assert!(latest.any(|p| stays.contains(&p.point)));
    }

    /// Guards the simulator, and vaults that prune seldom: when is of no matter.
    #[test]
    fn pruning_on_the_way_ends_at_the_same(mut points in points(), policy in policies()) {
        for point in &mut points {
            // Held and locked points, and wrong dates, come and go at their own times.
            (point.held, point.locked, point.taken) = (None, None, point.committed);
        }
        // A month before 30 March is later than a month before the 31st: spans of the calendar
        // may end earlier for a newer point.
        let policy = Policy { within: None, ..policy };
        points.sort_by_key(|p| (p.date(), p.taken, p.committed, p.point));
        let now = Now { wall: Timestamp::from_millis(i64::MAX), ..now() };
        let kept = |points: &[Candidate]| -> BTreeSet<PointId> {
            let stays = plan(points, &policy, now).into_iter().filter(|v| !v.goes());
            stays.map(|v| v.point).collect()
        };
        let at_once = kept(&points);
        let mut held: Vec<Candidate> = Vec::new();
        for point in points {
            held.push(point);
            held = only(&held, &kept(&held));
        }
        let on_the_way: BTreeSet<_> = held.iter().map(|p| p.point).collect();
        prop_assert_eq!(on_the_way, at_once);
    }

    /// Guards memory of why: what goes says which rule missed it, what stays says why.
    #[test]
    fn every_verdict_has_a_reason(points in points(), policy in policies()) {
        let verdicts = plan(&points, &policy, now());
        prop_assert_eq!(verdicts.len(), points.len());
        for verdict in verdicts {
            prop_assert_eq!(verdict.goes(), !verdict.missed.is_empty());
        }
    }
}
