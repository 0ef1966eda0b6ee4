//! The model on a simulated bottleneck: a rate, a bounded queue, a delay, losses from a seed.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::model::Model;

const PACKET: u64 = 1452;
/// Packets sent after a lost one that tell of it, as in quinn.
const REORDERING: u64 = 3;

#[derive(Clone, Copy, Debug)]
struct Bottleneck {
    /// Bytes a second.
    rate: u64,
    /// Bytes that wait for it; more are dropped.
    queue: u64,
    round_trip: Duration,
    /// Of a million packets.
    loss: u64,
    /// Each packet takes longer by up to this.
    jitter: Duration,
}

const FIBRE: Bottleneck = Bottleneck {
    rate: 12_500_000,
    queue: 1_875_000,
    round_trip: Duration::from_millis(150),
    loss: 0,
    jitter: Duration::ZERO,
};

/// What came of a while.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    delivered: u64,
    sent: u64,
    dropped: u64,
    /// Bytes in the queue, seen by each packet, summed up.
    waited: u64,
}

impl Outcome {
    fn share(&self, line: &Bottleneck, time: Duration) -> f64 {
        self.delivered as f64 / (line.rate as f64 * time.as_secs_f64())
    }

    fn mean_queue(&self) -> f64 {
        self.waited as f64 / (self.sent / PACKET).max(1) as f64
    }
}

/// One sender over one bottleneck, paced as quinn paces.
struct Simulation {
    line: Bottleneck,
    model: Model,
    now: Duration,
    free_at: Duration,
    next_send: Duration,
    number: u64,
    under_way: VecDeque<(u64, Duration)>,
    acks: BTreeMap<(Duration, u64), Duration>,
    smoothed: Duration,
    dice: u64,
    /// Bytes the application has; then the sender waits for it.
    offered: u64,
    cut: bool,
}

impl Simulation {
    fn new(line: Bottleneck) -> Self {
        Self {
            line,
            model: Model::new(PACKET),
            now: Duration::ZERO,
            free_at: Duration::ZERO,
            next_send: Duration::ZERO,
            number: 0,
            under_way: VecDeque::new(),
            acks: BTreeMap::new(),
            smoothed: line.round_trip,
            dice: 0x9e37_79b9_7f4a_7c15,
            offered: u64::MAX,
            cut: false,
        }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) % sides.max(1)
    }

    fn in_flight(&self) -> u64 {
        self.under_way.len() as u64 * PACKET
    }

    fn send(&mut self, outcome: &mut Outcome) {
        let Self { now, line, .. } = *self;
        self.offered = self.offered.saturating_sub(PACKET);
        self.model.on_sent(now);
        self.under_way.push_back((self.number, now));
        outcome.sent += PACKET;
        let waiting = self.free_at.saturating_sub(now).as_secs_f64() * line.rate as f64;
        outcome.waited += waiting as u64;
        if self.cut || self.roll(1_000_000) < line.loss || waiting as u64 + PACKET > line.queue {
            outcome.dropped += PACKET;
        } else {
            let takes = Duration::from_secs_f64(PACKET as f64 / line.rate as f64);
            self.free_at = self.free_at.max(now) + takes;
            let jitter = self.roll(line.jitter.as_nanos() as u64);
            let back = self.free_at + line.round_trip + Duration::from_nanos(jitter);
            self.acks.insert((back, self.number), now);
        }
        self.number += 1;
        let pace = 1.25 * self.model.window() as f64 / self.smoothed.as_secs_f64();
        let gap = Duration::from_secs_f64(PACKET as f64 / pace);
        self.next_send = self.next_send.max(now.saturating_sub(gap * 10)) + gap;
    }

    fn acknowledge(&mut self, outcome: &mut Outcome) {
        let Some(((at, number), sent)) = self.acks.pop_first() else {
            return;
        };
        self.now = self.now.max(at);
        if let Ok(place) = self.under_way.binary_search_by_key(&number, |(n, _)| *n) {
            self.under_way.remove(place);
            self.model.on_ack(sent, PACKET);
            outcome.delivered += PACKET;
        }
        self.smoothed = (self.smoothed * 7 + (self.now - sent)) / 8;
        self.model
            .end_of_acks(self.now, self.in_flight(), self.offered == 0);
        let late = self
            .now
            .saturating_sub(self.line.jitter * 2 + self.smoothed);
        let mut lost = 0;
        while let Some(&(n, at)) = self.under_way.front()
            && n + REORDERING <= number
            && (self.line.jitter.is_zero() || at < late)
        {
            self.under_way.pop_front();
            lost += PACKET;
        }
        if lost > 0 {
            self.model.on_lost(lost);
        }
    }

    /// Plays `time` on.
    fn run(&mut self, time: Duration) -> Outcome {
        let (end, mut outcome) = (self.now + time, Outcome::default());
        while self.now < end {
            let room = self.in_flight() + PACKET <= self.model.window() && self.offered > 0;
            let ack = self.acks.keys().next().map(|(at, _)| *at);
            let send = room.then_some(self.next_send.max(self.now));
            match (send, ack) {
                (Some(send), Some(ack)) if send < ack => self.now = send,
                (Some(send), None) => self.now = send,
                (_, Some(ack)) if ack > end => {
                    self.now = end;
                    break;
                }
                (_, Some(_)) => {
                    self.acknowledge(&mut outcome);
                    continue;
                }
                (None, None) if self.offered == 0 => {
                    self.now = end;
                    break;
                }
                (None, None) => {
                    // All was lost: after a while the sender tries again from the start.
                    self.now += self.smoothed * 3;
                    let lost = self.under_way.drain(..).count() as u64 * PACKET;
                    self.model.on_lost(lost);
                    self.model.start_over();
                    continue;
                }
            }
            self.send(&mut outcome);
        }
        outcome
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Guards the share of a long line that an upload gets, with the losses such lines have.
#[test]
fn a_lossy_line_is_used_whole() {
    for (loss, least) in [(0, 0.93), (1000, 0.93), (10_000, 0.9)] {
        let line = Bottleneck { loss, ..FIBRE };
        let mut simulation = Simulation::new(line);
        simulation.run(SECOND * 3);
        let outcome = simulation.run(SECOND * 20);
        let share = outcome.share(&line, SECOND * 20);
        assert!(share > least, "{share:.3} with {loss} lost of a million");
    }
}

/// Guards short transfers, and long ones' first seconds.
#[test]
fn it_is_at_speed_after_some_round_trips() {
    let mut simulation = Simulation::new(FIBRE);
    simulation.run(SECOND * 2);
    let outcome = simulation.run(SECOND);
    let share = outcome.share(&FIBRE, SECOND);
    assert!(share > 0.85, "{share:.3} in the third second");
}

/// Guards against a start that a stroke of bad luck ends for long: all packets of a moment are
/// lost while it is still slow.
#[test]
fn a_gap_in_the_first_moments_costs_little() {
    for after in [200, 350, 500, 700] {
        let mut simulation = Simulation::new(FIBRE);
        simulation.run(Duration::from_millis(after));
        simulation.cut = true;
        simulation.run(Duration::from_millis(60));
        simulation.cut = false;
        simulation.run(SECOND * 3);
        let share = simulation.run(SECOND * 3).share(&FIBRE, SECOND * 3);
        assert!(share > 0.85, "{share:.3} with a gap after {after} ms");
    }
}

/// Guards other traffic of the line: queues stay short, though they could be long.
#[test]
fn queues_stay_short() {
    let mut simulation = Simulation::new(FIBRE);
    simulation.run(SECOND * 5);
    let outcome = simulation.run(SECOND * 20);
    let time = outcome.mean_queue() / FIBRE.rate as f64;
    assert!(time < 0.02, "packets wait {time:.3} s on average");
    assert_eq!(outcome.dropped, 0);
}

/// Guards against a collapse, and against flooding, where a router holds hardly anything.
#[test]
fn a_small_router_queue_neither_stops_nor_drops_much() {
    for milliseconds in [2, 8, 20] {
        let queue = FIBRE.rate * milliseconds / 1000;
        let line = Bottleneck { queue, ..FIBRE };
        let mut simulation = Simulation::new(line);
        simulation.run(SECOND * 5);
        let outcome = simulation.run(SECOND * 20);
        let share = outcome.share(&line, SECOND * 20);
        let dropped = outcome.dropped as f64 / outcome.sent as f64;
        assert!(share > 0.75, "{milliseconds} ms: {share:.3}");
        assert!(dropped < 0.06, "{milliseconds} ms: {dropped:.3} dropped");
    }
}

/// Guards the estimate through pauses in which there is nothing to send.
#[test]
fn pauses_do_not_make_it_forget() {
    let mut simulation = Simulation::new(FIBRE);
    simulation.run(SECOND * 5);
    let before = simulation.model.bandwidth();
    // A packet or two now and then for half a minute.
    for _ in 0..60 {
        simulation.offered = 2 * PACKET;
        simulation.run(SECOND / 2);
    }
    let after = simulation.model.bandwidth();
    assert!(after >= before / 10 * 9, "{before} before, {after} after");
    simulation.offered = u64::MAX;
    let outcome = simulation.run(SECOND * 2);
    let share = outcome.share(&FIBRE, SECOND * 2);
    assert!(share > 0.8, "{share:.3} after the pause");
}

/// Guards a line whose rate changes: less is noticed soon, more within seconds.
#[test]
fn it_follows_a_line_that_changes() {
    let mut simulation = Simulation::new(FIBRE);
    simulation.run(SECOND * 5);
    simulation.line.rate /= 5;
    simulation.line.queue /= 5;
    simulation.run(SECOND * 6);
    let slower = simulation.run(SECOND * 10);
    let share = slower.share(&simulation.line, SECOND * 10);
    let dropped = slower.dropped as f64 / slower.sent as f64;
    assert!(
        share > 0.8 && dropped < 0.05,
        "{share:.3}, {dropped:.3} dropped"
    );
    simulation.line = FIBRE;
    simulation.run(SECOND * 12);
    let share = simulation.run(SECOND * 10).share(&FIBRE, SECOND * 10);
    assert!(share > 0.8, "{share:.3} of the faster line");
}

/// Guards against a long line whose packets come out of step.
#[test]
fn jitter_does_not_slow_it_down() {
    let jitter = Duration::from_millis(30);
    let line = Bottleneck { jitter, ..FIBRE };
    let mut simulation = Simulation::new(line);
    simulation.run(SECOND * 5);
    let share = simulation.run(SECOND * 20).share(&line, SECOND * 20);
    assert!(share > 0.85, "{share:.3}");
}

/// Guards others on a line that is lost on: where a third of all is lost, it sends less and less.
#[test]
fn it_yields_when_much_is_lost() {
    let line = Bottleneck {
        loss: 300_000,
        ..FIBRE
    };
    let mut simulation = Simulation::new(line);
    simulation.run(SECOND * 10);
    let outcome = simulation.run(SECOND * 10);
    let sent = outcome.sent as f64 / (line.rate as f64 * 10.0);
    assert!(sent < 0.5, "it sends {sent:.3} of the line");
}

/// Guards the time after a cut line is mended.
#[test]
fn a_cut_line_that_is_mended_is_used_again() {
    let mut simulation = Simulation::new(FIBRE);
    simulation.run(SECOND * 5);
    simulation.cut = true;
    simulation.run(SECOND * 5);
    simulation.cut = false;
    simulation.run(SECOND * 4);
    let share = simulation.run(SECOND * 5).share(&FIBRE, SECOND * 5);
    assert!(share > 0.8, "{share:.3} after the cut");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Guards all lines between a village's and a data centre's: most of it is used, whatever
    /// its rate, length and queue.
    #[test]
    fn most_lines_are_used_well(
        megabits in 2u64..400,
        milliseconds in 1u64..300,
        queue in 20u64..300,
        loss in 0u64..10_000,
    ) {
        let rate = megabits * 125_000;
        let line = Bottleneck {
            rate,
            queue: (rate * queue / 1000).max(32 * PACKET),
            round_trip: Duration::from_millis(milliseconds),
            loss,
            jitter: Duration::ZERO,
        };
        let mut simulation = Simulation::new(line);
        simulation.run(line.round_trip * 40);
        let time = line.round_trip * 40;
        let share = simulation.run(time).share(&line, time);
        prop_assert!(share > 0.75, "{share:.3} of {line:?}");
    }
}
