//! How fast to send: congestion control for long lines that lose packets by themselves.
//!
//! Cubic and New Reno take each loss for a full queue. On a line of 150 ms that loses one packet
//! in a thousand they therefore use a sixth of 100 Mbit/s, quinn's BBR a third (measured through
//! the delaying, dropping proxy of the tests; `make bench-line`, docs/benchmarks.md). The one
//! here follows what the line delivers ([`model`], rates by [`delivery`]), yields when much is
//! lost, and keeps queues short. Both sides use it: agents for uploads, vaults for downloads.
//!
//! quinn paces at 1.25 windows a round trip as it measures it now, so that the window alone
//! decides: a queue makes round trips longer and the pace slower.

mod delivery;
mod model;
#[cfg(test)]
mod model_test;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

use model::Model;

/// What a connection's path was found to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Bytes a second, the highest of the last round trips in which there was enough to send.
    pub bandwidth: u64,
    /// The shortest round trip of the last seconds.
    pub round_trip: Duration,
}

impl Line {
    /// Bytes under way that keep it full.
    pub fn product(&self) -> u64 {
        (self.bandwidth as f64 * self.round_trip.as_secs_f64()) as u64
    }
}

/// Makes a controller for each path.
#[derive(Clone, Copy, Debug, Default)]
pub struct CongestionControl;

impl ControllerFactory for CongestionControl {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(PathControl {
            start: now,
            model: Model::new(current_mtu.into()),
        })
    }
}

/// The controller of one path.
#[derive(Clone, Debug)]
pub struct PathControl {
    start: Instant,
    model: Model,
}

impl PathControl {
    /// What the path was found to carry; none before anything was acknowledged.
    pub fn line(&self) -> Option<Line> {
        let bandwidth = self.model.bandwidth();
        let round_trip = self.model.round_trip()?;
        (bandwidth > 0).then_some(Line {
            bandwidth,
            round_trip,
        })
    }

    fn since_start(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.start)
    }
}

impl Controller for PathControl {
    // `bytes` are those of all packets handed over together so far: not this one's.
    fn on_sent(&mut self, now: Instant, _bytes: u64, _last_packet_number: u64) {
        self.model.on_sent(self.since_start(now));
    }

    fn on_ack(
        &mut self,
        _now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        self.model.on_ack(self.since_start(sent), bytes);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        let now = self.since_start(now);
        self.model.end_of_acks(now, in_flight, app_limited);
    }

    fn on_congestion_event(
        &mut self,
        _now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.model.on_lost(lost_bytes);
        if is_persistent_congestion {
            self.model.start_over();
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.model.set_packet(new_mtu.into());
    }

    fn window(&self) -> u64 {
        self.model.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.model.window();
        metrics.pacing_rate = Some(self.model.bandwidth() * 8);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.model.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
