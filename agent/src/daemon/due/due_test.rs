#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use relevo_wire::PointId;
use serde_json::Value;

use super::*;
use crate::daemon::history::Success;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const TICK: u64 = 60_000;
/// How often the daemon of these tests looks again: it sleeps no longer than it was told.
const LOOK: u64 = 20 * TICK;

/// A server with clocks that can be set, and runs that take as long as they are told.
struct World {
    wall: i64,
    up: u64,
    boot: u32,
    awake: Now,
    first: Stamp,
    policy: BackupPolicy,
    zone: Zone,
    history: History,
    pause: Option<Pause>,
    share: f64,
    /// Milliseconds that a run takes.
    takes: u64,
    fails: bool,
    /// Runs that began: by the clock that only runs, and which try.
    runs: Vec<(u64, u32)>,
}

impl World {
    /// Boots on Friday 27 November 2026, at noon UTC.
    fn new(policy: BackupPolicy) -> Self {
        let wall = "2026-11-27T12:00:00Z"
            .parse::<Timestamp>()
            .unwrap()
            .as_millis();
        let now = Now {
            wall: Timestamp::from_millis(wall),
            up: Duration::ZERO,
            boot: "1".into(),
        };
        Self {
            wall,
            up: 0,
            boot: 1,
            first: now.stamp(),
            awake: now,
            policy,
            zone: Zone::default(),
            history: History::default(),
            pause: None,
            share: 0.5,
            takes: 60_000,
            fails: false,
            runs: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        Now {
            wall: Timestamp::from_millis(self.wall),
            up: Duration::from_millis(self.up),
            boot: self.boot.to_string(),
        }
    }

    fn pass(&mut self, ms: u64) {
        self.wall += ms as i64;
        self.up += ms;
    }

    fn set_clock(&mut self, by_seconds: i64) {
        self.wall += by_seconds * 1000;
    }

    /// Down for a while, and up again.
    fn reboot(&mut self, down: u64) {
        self.wall += (down * 1000) as i64;
        (self.up, self.boot) = (0, self.boot + 1);
        self.awake = self.now();
    }

    fn next(&self) -> Next {
        Situation {
            now: &self.now(),
            awake: &self.awake,
            first: &self.first,
            policy: &self.policy,
            zone: &self.zone,
            history: &self.history,
            pause: self.pause.as_ref(),
            share: self.share,
        }
        .next()
    }

    /// A run, from begin to end.
    fn run(&mut self, retry: Option<u32>, outcome: Outcome) {
        let started = self.now();
        self.pass(self.takes);
        let success = (outcome == Outcome::Done).then(|| Success {
            point: PointId::random(),
            taken: started.stamp(),
            finished: Timestamp::from_millis(self.wall),
            took_ms: self.takes,
            disks: Vec::new(),
            report: Value::Null,
        });
        let attempt = Attempt {
            started: started.stamp(),
            ended: self.now().stamp(),
            retry,
            outcome,
        };
        self.history.add(attempt, success);
    }

    /// Lets the daemon work for a while; says how old the newest state became.
    fn work(&mut self, seconds: u64) -> Option<u64> {
        let (until, mut oldest) = (self.up + seconds * 1000, None);
        while self.up < until {
            let next = self.next();
            if next.wait_ms == Some(0) {
                self.runs.push((self.up, next.retry));
                let outcome = match self.fails {
                    true => failed(),
                    false => Outcome::Done,
                };
                let old = self.age();
                self.run(Some(next.retry), outcome);
                oldest = oldest.max(old.map(|old| old + self.takes));
            } else {
                let wait = next.wait_ms.unwrap_or(u64::MAX).clamp(1, LOOK);
                self.pass(wait.min(until - self.up));
                oldest = oldest.max(self.age());
            }
        }
        oldest
    }

    fn age(&self) -> Option<u64> {
        let success = self.history.success.as_ref()?;
        success.taken.age(&self.now()).map(millis)
    }
}

fn failed() -> Outcome {
    Outcome::Failed {
        error: "no answer".into(),
        remedy: "wait".into(),
    }
}

fn target(seconds: u64) -> BackupPolicy {
    BackupPolicy {
        rpo: Some(seconds),
        ..BackupPolicy::default()
    }
}

fn calendar(events: &[&str]) -> BackupPolicy {
    BackupPolicy {
        rpo: None,
        calendar: events.iter().map(|event| event.parse().unwrap()).collect(),
        ..BackupPolicy::default()
    }
}

proptest! {
    // Each lives through days.
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Guards the target: however the wall clock is set meanwhile, no state becomes older, as
    /// long as a run takes a fifth of it; and no more runs are made than twice as many as needed.
    #[test]
    fn no_state_is_older_than_its_target(
        rpo in 600..2 * DAY,
        share in 0.0..1.0f64,
        jumps in prop::collection::vec(-(400 * DAY as i64)..400 * DAY as i64, 0..6),
    ) {
        let mut world = World::new(target(rpo));
        (world.share, world.takes) = (share, rpo * 1000 / 5);
        world.work(rpo);
        let mut worked = rpo;
        for jump in jumps.into_iter().chain([0]) {
            world.set_clock(jump);
            let oldest = world.work(3 * rpo).unwrap();
            prop_assert!(oldest <= rpo * 1000, "{oldest} ms after {jump} s");
            worked += 3 * rpo;
        }
        let most = worked * 2 / rpo + 2;
        prop_assert!(world.runs.len() as u64 <= most, "{} runs", world.runs.len());
    }

    /// Guards a calendar against a clock that is set: back, the events of the new time come;
    /// forward, what was jumped over is made up for by one run.
    #[test]
    fn a_clock_that_is_set_neither_stops_a_calendar_nor_makes_a_storm(
        jump in -(400 * DAY as i64)..400 * DAY as i64,
        share in 0.0..1.0f64,
    ) {
        let mut world = World::new(calendar(&["*-*-* 0/6:00"]));
        world.share = share;
        world.work(2 * DAY);
        world.set_clock(jump);
        world.runs.clear();
        world.work(6 * HOUR + 700);
        // One for what was jumped over, and those of these hours.
        prop_assert!((1..=3).contains(&world.runs.len()), "{:?}", world.runs);
        world.runs.clear();
        world.work(DAY);
        prop_assert_eq!(world.runs.len(), 4);
    }

    /// Guards against missing an event: each has a run, within the spread, and only one.
    #[test]
    fn every_event_has_one_run(share in 0.0..1.0f64, spread in 0..4000u64) {
        let mut world = World::new(calendar(&["Mon..Fri 22:00", "Sat *-*-* 06:30"]));
        (world.share, world.policy.spread) = (share, spread);
        world.work(14 * DAY);
        prop_assert_eq!(world.runs.len(), 12, "{:?}", world.runs);
        // The first: Friday 22:00, ten hours after the start.
        let late = world.runs[0].0 - 10 * HOUR * 1000;
        prop_assert!(late <= spread * 1000, "{late}");
    }

    /// Guards a daemon that is killed: what it decides does not hang on when it was started.
    #[test]
    fn a_daemon_that_is_started_anew_makes_no_extra_run(restarts in prop::collection::vec(1..5 * HOUR, 1..20)) {
        let mut world = World::new(target(6 * HOUR));
        world.work(HOUR);
        world.runs.clear();
        for pause in &restarts {
            world.work(*pause);
            world.awake = world.now();
        }
        let worked: u64 = restarts.iter().sum();
        prop_assert!(world.runs.len() as u64 <= worked / (3 * HOUR) + 1);
        prop_assert!(world.age().unwrap() <= 6 * HOUR * 1000 + 600_000);
    }
}

/// Guards the vault, and the line, against a thousand servers at once: after an event, when the
/// power comes back, when a window opens, and when the vault does.
#[test]
fn a_thousand_servers_are_spread() {
    let ids = (0..1000u32).map(|number| {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        ServerId::from_bytes(id)
    });
    let shares: Vec<f64> = ids.map(share_of).collect();
    let spread_over = |seconds: u64, prepare: &dyn Fn(&mut World)| {
        let mut tenths = [0; 10];
        for share in &shares {
            let mut world = World::new(target(4 * HOUR));
            world.share = *share;
            prepare(&mut world);
            let begin = world.up;
            world.runs.clear();
            world.work(seconds + 60);
            let after = world.runs.first().unwrap().0 - begin;
            tenths[(after * 10 / (seconds * 1000)).min(9) as usize] += 1;
        }
        assert!(tenths.iter().all(|n| (60..=140).contains(n)), "{tenths:?}");
    };
    // The first images of a new site.
    spread_over(600, &|_| {});
    spread_over(600, &|world| {
        world.run(Some(0), Outcome::Done);
        world.reboot(2 * DAY);
    });
    spread_over(600, &|world| {
        world.policy = calendar(&["*-*-* 13:00"]);
        world.work(HOUR);
    });
    spread_over(600, &|world| {
        world.policy.window = vec!["13:00-15:00".parse().unwrap()];
        world.work(HOUR);
    });
    // A vault that was away: tries again spread over a quarter of the pause.
    spread_over(150, &|world| {
        world.run(Some(0), failed());
        world.pass(600_000);
    });
}

/// Guards against hammering a vault that is away, and against giving up on it.
#[test]
fn a_run_that_fails_is_tried_again_and_then_waits_for_its_next_time() {
    let mut world = World::new(calendar(&["*-*-* 22:00"]));
    (world.share, world.takes, world.fails) = (0.0, 0, true);
    world.work(2 * DAY);
    let tries: Vec<u32> = world.runs.iter().map(|(_, retry)| *retry).collect();
    assert_eq!(tries, [0, 1, 2, 3, 0, 1, 2, 3]);
    let minutes: Vec<u64> = world.runs.iter().map(|(at, _)| at / TICK).collect();
    assert_eq!(minutes[..4], [600, 610, 630, 670]);
    assert_eq!(minutes[4], 600 + 24 * 60);

    // With a target there is no next time: it goes on, at least each hour.
    let mut world = World::new(target(4 * HOUR));
    (world.share, world.takes, world.fails) = (0.0, 0, true);
    world.work(2 * DAY);
    let pauses: Vec<u64> = world
        .runs
        .windows(2)
        .map(|w| (w[1].0 - w[0].0) / TICK)
        .collect();
    assert_eq!(pauses[..4], [10, 20, 40, 80]);
    assert!(pauses[4..].iter().all(|pause| *pause == 80), "{pauses:?}");
    // And as before when it works again.
    world.fails = false;
    world.work(2 * HOUR);
    let oldest = world.work(DAY).unwrap();
    assert!(oldest <= 4 * HOUR * 1000);

    let mut world = World::new(BackupPolicy {
        retries: 0,
        ..calendar(&["*-*-* 22:00"])
    });
    (world.share, world.takes, world.fails) = (0.0, 0, true);
    world.work(2 * DAY);
    assert_eq!(world.runs.len(), 2);
}

/// Guards what was missed while the server was down, and nothing more than that.
#[test]
fn what_was_missed_is_made_up_for_once() {
    let mut world = World::new(calendar(&["hourly"]));
    world.work(DAY);
    world.reboot(9 * DAY);
    world.runs.clear();
    world.work(20 * 60);
    assert_eq!(world.runs.len(), 1, "{:?}", world.runs);
    world.work(HOUR);
    assert_eq!(world.runs.len(), 2, "{:?}", world.runs);
    // A clock that was wrong at boot, years ahead, and is right afterwards.
    world.reboot(1000 * DAY);
    world.work(HOUR);
    world.reboot(0);
    world.set_clock(-1000 * DAY as i64);
    world.runs.clear();
    world.work(3 * HOUR);
    assert!(world.runs.len() >= 2, "{:?}", world.runs);
}

/// Guards a new server: with a calendar it waits for its time, with a target it begins.
#[test]
fn the_first_image_is_made_at_the_first_time() {
    let mut world = World::new(calendar(&["*-*-* 22:00"]));
    assert_eq!(world.next().why, Why::Calendar);
    world.work(9 * HOUR);
    assert_eq!(world.runs, []);
    let mut world = World::new(target(DAY));
    assert_eq!(world.next().why, Why::First);
    world.work(10 * 60);
    assert_eq!(world.runs.len(), 1);
    assert_eq!(World::new(calendar(&["2020-01-01"])).next().wait_ms, None);
}

/// Guards runs by hand: one that succeeds counts, one that fails changes nothing.
#[test]
fn runs_by_hand_count_when_they_succeed() {
    let mut world = World::new(target(4 * HOUR));
    world.work(HOUR);
    let due = world.next().wait_ms.unwrap();
    world.run(None, failed());
    assert_eq!(world.next().wait_ms, Some(due - world.takes));
    world.run(None, Outcome::Done);
    assert!(world.next().wait_ms.unwrap() > due);
    let mut world = World::new(calendar(&["*-*-* 13:00"]));
    world.policy.spread = 0;
    world.pass(30 * TICK);
    world.run(None, Outcome::Done);
    // Not the one that is yet to come.
    assert_eq!(world.next().wait_ms, Some(29 * TICK));
}

/// Guards against runs outside of the windows, and against losing a run to one.
#[test]
fn windows_move_runs_and_lose_none() {
    let mut world = World::new(target(HOUR));
    world.policy.window = vec!["20:00-06:00".parse().unwrap()];
    world.work(5 * DAY);
    for (at, _) in &world.runs {
        let hour = (12 + at / (HOUR * 1000)) % 24;
        assert!(!(6..20).contains(&hour), "a run at {hour}");
    }
    assert!(world.runs.len() > 5 * 9, "{}", world.runs.len());
    // One that the window's end cut off goes on with the next.
    world.run(Some(0), Outcome::Interrupted);
    let next = world.next();
    assert_eq!(next.why, Why::Window);
    let opens = 8 * HOUR * 1000 - world.takes;
    let wait = next.wait_ms.unwrap();
    assert!((opens..opens + 600_000).contains(&wait), "{wait}");
}

/// Guards the word of an administrator over everything, and its end.
#[test]
fn a_pause_lasts_as_long_as_it_was_told() {
    let mut world = World::new(target(HOUR));
    world.work(HOUR);
    let pause = |world: &World, seconds| Pause {
        since: world.now().stamp(),
        seconds,
    };
    world.pause = Some(pause(&world, Some(4 * HOUR)));
    world.runs.clear();
    world.set_clock(-(100 * DAY as i64));
    world.work(4 * HOUR - 60);
    assert_eq!(world.runs, []);
    world.work(120);
    assert_eq!(world.runs.len(), 1);
    world.pause = Some(pause(&world, None));
    let next = world.next();
    assert_eq!((next.why, next.wait_ms), (Why::Paused, None));
    // A clock that was set back over a restart does not lengthen one with an end.
    world.pause = Some(pause(&world, Some(HOUR)));
    world.reboot(0);
    world.set_clock(-(DAY as i64));
    assert_ne!(world.next().why, Why::Paused);
    world.pause = Some(Pause {
        seconds: None,
        ..world.pause.clone().unwrap()
    });
    assert_eq!(world.next().why, Why::Paused);
}

/// Guards against a run that something ends again and again.
#[test]
fn a_run_that_was_ended_begins_anew_after_a_minute() {
    let mut world = World::new(target(HOUR));
    world.share = 0.0;
    world.run(Some(0), Outcome::Interrupted);
    assert_eq!(world.next().wait_ms, Some(60_000));
}
