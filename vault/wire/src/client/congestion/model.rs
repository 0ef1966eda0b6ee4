//! What a path carries, and how much to have under way on it: without clock, input or output.
//!
//! The window follows a model of the path, not its losses:
//!
//! ```text
//! window = bandwidth × (shortest round trip × gain + slack)
//! ```
//!
//! * *Bandwidth*: the highest delivery rate of the last [`FILTER`] round trips. Samples of times
//!   with too little to send only ever raise it, and such round trips do not age it.
//! * *Shortest round trip*: of the last ten seconds; each cycle lets queues run empty to see it.
//! * *Slack*: for acknowledgements that come late or bunched, by the deviation of round trips.
//!
//! ```text
//! startup ─ queue, heavy loss, or no faster for 3 times ─► drain ─► cruise ─► probe ─► drain
//!  ×2 a round trip                              queues empty    ×1, 6 to 9   ×1.25, 2 round trips
//!       ▲                                                       round trips        │
//!       └──────────────────────── the path carries more ────────────────────────────┘
//! ```
//!
//! Losses of up to [`TOLERATED`] of a round trip's bytes are the line's own. More are a queue that
//! overflows: what may be under way gets a ceiling 15 % below what was, which each probe that loses
//! less raises by a tenth. When all is lost for several round trips, it starts over.

use std::collections::VecDeque;
use std::time::Duration;

use super::delivery::{Delivery, Sample};

/// Round trips of which the highest delivery rate counts: longer than a cycle, so that each probe
/// is remembered until the next.
const FILTER: usize = 12;
/// How long the shortest round trip is believed, in two halves.
const FLOOR_AGE: Duration = Duration::from_secs(10);
/// Share of a round trip's bytes that a line may lose by itself.
const TOLERATED: f64 = 0.05;
/// Fewer lost packets than this are chance.
const CHANCE: u64 = 8;
/// What is kept under way after a queue overflowed, of what was.
const YIELD: f64 = 0.85;
/// Most under way in startup, in bandwidth × round trip: 2/ln 2 doubles each round trip.
const STARTUP_GAIN: f64 = 2.9;
/// A path that is this much faster than before has more to give.
const STARTUP_GROWTH: f64 = 1.25;
const STARTUP_FLAT: u8 = 3;
/// A path whose quickest packet takes this much longer than the shortest round trip is full.
const QUEUED: f64 = 1.2;
const PROBE_GAIN: f64 = 1.25;
/// The first fills the path, the second shows what comes of it.
const PROBE_ROUNDS: u8 = 2;
const PROBE_GROWTH: f64 = 1.15;
/// Below one, so that the shortest round trip is seen.
const DRAIN_GAIN: f64 = 0.95;
const CRUISE_ROUNDS: u64 = 6;
/// Acknowledgements of short paths wait for timers and processors, not for the line.
const LEAST_SLACK: Duration = Duration::from_millis(4);
const MOST_SLACK: Duration = Duration::from_millis(40);
/// Packets of the first round trip (RFC 6928 has 10; a vault's line carries more).
const INITIAL_PACKETS: u64 = 32;
/// Least under way, so that losses are noticed by later packets.
const LEAST_PACKETS: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Startup { best: u64, flat: u8 },
    Drain,
    Cruise { left: u64 },
    Probe { left: u8, before: u64 },
}

const STARTUP: Phase = Phase::Startup { best: 0, flat: 0 };

/// One round trip: from a packet's sending to its acknowledgement.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// It ends with the first packet that was sent when this much was delivered.
    ends: u64,
    acked: u64,
    lost: u64,
    /// Most that was under way.
    most: u64,
    /// The quickest of its acknowledgements.
    quickest: Option<Duration>,
    limited: bool,
}

/// The model of one path.
#[derive(Clone, Debug)]
pub(super) struct Model {
    packet: u64,
    delivery: Delivery,
    /// Highest rate of each of the last round trips, the present one at the back.
    rates: VecDeque<u64>,
    /// Shortest round trip of this half of [`FLOOR_AGE`] and of the one before.
    floors: (Option<Duration>, Option<Duration>),
    floor_since: Duration,
    smoothed: Option<Duration>,
    deviation: Duration,
    round: Round,
    phase: Phase,
    ceiling: Option<u64>,
    window: u64,
}

impl Model {
    /// Of a path of which nothing is known, for packets of `packet` bytes.
    pub(super) fn new(packet: u64) -> Self {
        Self {
            packet,
            delivery: Delivery::default(),
            rates: VecDeque::from([0]),
            floors: (None, None),
            floor_since: Duration::ZERO,
            smoothed: None,
            deviation: Duration::ZERO,
            round: Round::default(),
            phase: STARTUP,
            ceiling: None,
            window: INITIAL_PACKETS * packet,
        }
    }

    /// Bytes a second; 0 when nothing was delivered yet.
    pub(super) fn bandwidth(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(0)
    }

    /// The shortest round trip; none before the first.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        match self.floors {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Bytes that may be under way.
    pub(super) fn window(&self) -> u64 {
        let most = self.ceiling.unwrap_or(u64::MAX);
        self.window.min(most).max(LEAST_PACKETS * self.packet)
    }

    /// What it begins with.
    pub(super) fn initial_window(&self) -> u64 {
        INITIAL_PACKETS * self.packet
    }

    /// Packets have this many bytes from now on.
    pub(super) fn set_packet(&mut self, bytes: u64) {
        self.packet = bytes;
    }

    /// A packet was sent.
    pub(super) fn on_sent(&mut self, now: Duration) {
        self.delivery.on_sent(now);
    }

    /// A packet of `bytes`, sent at `sent`, was acknowledged.
    pub(super) fn on_ack(&mut self, sent: Duration, bytes: u64) {
        self.round.most = self.round.most.max(bytes);
        self.round.acked += bytes;
        self.delivery.on_ack(sent, bytes);
        if let Phase::Startup { .. } = self.phase
            && !self.round.limited
        {
            let cap = (self.product(STARTUP_GAIN) as u64).max(self.initial_window());
            self.window = (self.window + bytes).min(cap.max(self.window));
        }
    }

    /// Packets of `bytes` were lost.
    pub(super) fn on_lost(&mut self, bytes: u64) {
        self.round.lost += bytes;
    }

    /// All was lost for several round trips: the path may be another one.
    pub(super) fn start_over(&mut self) {
        self.rates = VecDeque::from([0]);
        self.floors = (None, None);
        (self.phase, self.ceiling) = (STARTUP, None);
        // What was lost until now must not end the new startup.
        self.round = Round {
            ends: self.delivery.delivered(),
            ..Round::default()
        };
        self.delivery.interrupt();
        self.window = LEAST_PACKETS * self.packet;
    }

    /// That was all of one acknowledgement; `in_flight` bytes are still under way. `limited`:
    /// there is too little to send.
    pub(super) fn end_of_acks(&mut self, now: Duration, in_flight: u64, limited: bool) {
        self.round.limited |= limited;
        self.round.most = self.round.most.max(in_flight);
        let Some(sample) = self.delivery.end_of_acks(now, in_flight, limited) else {
            return;
        };
        self.note_round_trip(now, sample.round_trip);
        self.note_rate(sample);
        if sample.delivered_before >= self.round.ends {
            self.end_round();
        }
        if self.phase == Phase::Drain && (in_flight as f64) <= self.product(DRAIN_GAIN) {
            // Not all paths in step: what was delivered is as good as dice.
            let dice = self.delivery.delivered() / self.packet.max(1) % 4;
            let left = CRUISE_ROUNDS + dice;
            self.phase = Phase::Cruise { left };
        }
        match self.phase {
            Phase::Startup { .. } => {}
            Phase::Drain => self.window = self.product(DRAIN_GAIN) as u64,
            Phase::Cruise { .. } => self.window = self.target(1.0),
            Phase::Probe { .. } => self.window = self.target(PROBE_GAIN),
        }
    }

    fn note_rate(&mut self, sample: Sample) {
        let Some(rate) = sample.rate else { return };
        if (!sample.limited || rate > self.bandwidth())
            && let Some(newest) = self.rates.back_mut()
        {
            *newest = rate.max(*newest);
        }
    }

    fn note_round_trip(&mut self, now: Duration, round_trip: Duration) {
        if now.saturating_sub(self.floor_since) > FLOOR_AGE / 2 {
            self.floors = (None, self.floors.0);
            self.floor_since = now;
        }
        let least = self.floors.0.map_or(round_trip, |f| f.min(round_trip));
        self.floors.0 = Some(least);
        let quickest = self
            .round
            .quickest
            .map_or(round_trip, |q| q.min(round_trip));
        self.round.quickest = Some(quickest);
        // As in RFC 6298, but slower: there are many samples in a round trip.
        let smoothed = self.smoothed.unwrap_or(round_trip);
        self.deviation = (self.deviation * 31 + smoothed.abs_diff(round_trip)) / 32;
        self.smoothed = Some((smoothed * 15 + round_trip) / 16);
    }

    fn end_round(&mut self) {
        let round = std::mem::take(&mut self.round);
        self.round.ends = self.delivery.delivered();
        let share = round.lost as f64 / (round.lost + round.acked).max(1) as f64;
        let heavy = round.lost >= CHANCE * self.packet && share > TOLERATED;
        let bandwidth = self.bandwidth();
        self.phase = match self.phase {
            Phase::Startup { .. } if self.queued(&round) => Phase::Drain,
            // Losses while it still gets faster are no full path.
            Phase::Startup { best, .. } if bandwidth as f64 >= best as f64 * STARTUP_GROWTH => {
                Phase::Startup {
                    best: bandwidth,
                    flat: 0,
                }
            }
            Phase::Startup { .. } if heavy => Phase::Drain,
            Phase::Startup { .. } if round.limited => self.phase,
            Phase::Startup { flat, .. } if flat + 1 >= STARTUP_FLAT => Phase::Drain,
            Phase::Startup { best, flat } => Phase::Startup {
                best,
                flat: flat + 1,
            },
            _ if heavy => {
                self.lower_ceiling(round.most);
                Phase::Drain
            }
            Phase::Cruise { left: 0 } if round.limited => self.phase,
            Phase::Cruise { left: 0 } => {
                self.raise_ceiling();
                Phase::Probe {
                    left: PROBE_ROUNDS,
                    before: bandwidth,
                }
            }
            Phase::Cruise { left } => Phase::Cruise { left: left - 1 },
            Phase::Probe { left, before } if left > 1 => Phase::Probe {
                left: left - 1,
                before,
            },
            Phase::Probe { before, .. } if bandwidth as f64 > before as f64 * PROBE_GROWTH => {
                self.ceiling = None;
                Phase::Startup {
                    best: bandwidth,
                    flat: STARTUP_FLAT - 1,
                }
            }
            Phase::Probe { .. } | Phase::Drain => Phase::Drain,
        };
        // A round trip with too little to send says nothing of what the path carries, and so
        // ages nothing that is known of it.
        if !round.limited {
            self.rates.push_back(0);
            if self.rates.len() > FILTER {
                self.rates.pop_front();
            }
        }
    }

    /// Whether every packet of a round trip waited in a queue.
    fn queued(&self, round: &Round) -> bool {
        let (Some(quickest), Some(floor)) = (round.quickest, self.round_trip()) else {
            return false;
        };
        quickest > floor.mul_f64(QUEUED) + LEAST_SLACK
    }

    fn lower_ceiling(&mut self, most: u64) {
        let least = (self.product(0.5) as u64).max(LEAST_PACKETS * self.packet);
        let lower = (most as f64 * YIELD) as u64;
        self.ceiling = Some(lower.min(self.window()).max(least));
    }

    fn raise_ceiling(&mut self) {
        let raised = self.ceiling.map(|ceiling| ceiling + ceiling / 10);
        self.ceiling = raised.filter(|&ceiling| ceiling < self.target(PROBE_GAIN));
    }

    /// Bandwidth × shortest round trip × gain, in bytes.
    fn product(&self, gain: f64) -> f64 {
        let round_trip = self.round_trip().unwrap_or_default();
        self.bandwidth() as f64 * round_trip.as_secs_f64() * gain
    }

    fn target(&self, gain: f64) -> u64 {
        let slack = LEAST_SLACK + (self.deviation * 2).min(MOST_SLACK);
        (self.product(gain) + self.bandwidth() as f64 * slack.as_secs_f64()) as u64
    }
}
