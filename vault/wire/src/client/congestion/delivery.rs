//! How fast a path delivers: a rate for each acknowledgement, after "Delivery Rate Estimation"
//! (draft-ietf-ccwg-bbr, section 4.1).
//!
//! What was delivered between a packet's sending and its acknowledgement, over the longer of the
//! two times that bound it: how long sending took, and how long acknowledging. So neither a burst
//! that was sent at once nor acknowledgements that came bunched make a path look faster than it is.

use std::collections::VecDeque;
use std::time::Duration;

/// Notes kept of what is under way. There is one between two acknowledgements at most, so that
/// this is reached by no line of today; what is older is then not sampled.
const MAX_NOTES: usize = 8192;

/// What was known when packets were sent, from a moment on until the next note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    from: Duration,
    delivered: u64,
    delivered_at: Duration,
    first_sent: Duration,
    limited: bool,
}

/// What one acknowledgement tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// Bytes a second; none when the time was too short to tell.
    pub(super) rate: Option<u64>,
    /// From the newest acknowledged packet's sending until now.
    pub(super) round_trip: Duration,
    /// Whether there was too little to send meanwhile: then the path may be faster.
    pub(super) limited: bool,
    /// What had been delivered when that packet was sent.
    pub(super) delivered_before: u64,
}

/// Counts what is delivered. Moments are counted from any common start.
#[derive(Clone, Debug, Default)]
pub(super) struct Delivery {
    delivered: u64,
    delivered_at: Duration,
    /// When the packet was sent that was acknowledged last.
    first_sent: Duration,
    /// Packets are sent for want of more until this much is delivered.
    limited_until: Option<u64>,
    idle: bool,
    notes: VecDeque<Note>,
    /// Sending of the newest packet of the acknowledgement at hand.
    newest: Option<Duration>,
}

impl Delivery {
    /// Bytes delivered so far.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Nothing of what is under way will be delivered.
    pub(super) fn interrupt(&mut self) {
        self.idle = true;
    }

    /// A packet was sent.
    pub(super) fn on_sent(&mut self, now: Duration) {
        if self.idle || self.notes.is_empty() {
            // Nothing was under way: the time before says nothing of the path.
            (self.first_sent, self.delivered_at, self.idle) = (now, now, false);
        }
        let note = Note {
            from: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent: self.first_sent,
            limited: self.limited_until.is_some(),
        };
        let same = |last: &Note| {
            Note {
                from: last.from,
                ..note
            } == *last
        };
        if !self.notes.back().is_some_and(same) {
            if self.notes.len() == MAX_NOTES {
                self.notes.pop_front();
            }
            self.notes.push_back(note);
        }
    }

    /// A packet of `bytes`, sent at `sent`, was acknowledged.
    pub(super) fn on_ack(&mut self, sent: Duration, bytes: u64) {
        self.delivered += bytes;
        self.newest = self.newest.max(Some(sent));
    }

    /// That was all of one acknowledgement. `limited`: there is too little to send.
    pub(super) fn end_of_acks(
        &mut self,
        now: Duration,
        in_flight: u64,
        limited: bool,
    ) -> Option<Sample> {
        if self.limited_until.is_some_and(|at| self.delivered > at) {
            self.limited_until = None;
        }
        if limited {
            self.limited_until = Some(self.delivered + in_flight);
        }
        let sent = self.newest.take()?;
        self.delivered_at = now;
        self.idle = in_flight == 0;
        let known = self.notes.partition_point(|note| note.from <= sent);
        let note = *self.notes.get(known.checked_sub(1)?)?;
        // Older packets that are acknowledged yet tell nothing new.
        self.notes.drain(..known - 1);
        self.first_sent = self.first_sent.max(sent);
        let sending = sent.saturating_sub(note.first_sent);
        let acknowledging = now.saturating_sub(note.delivered_at);
        let interval = sending.max(acknowledging);
        let round_trip = now.saturating_sub(sent);
        let bytes = self.delivered - note.delivered;
        // Less than a round trip is what acknowledgements out of order leave.
        let rate = (interval >= round_trip && !interval.is_zero())
            .then(|| (bytes as f64 / interval.as_secs_f64()) as u64);
        Some(Sample {
            rate,
            round_trip,
            limited: note.limited,
            delivered_before: note.delivered,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Ten packets a millisecond apart, each acknowledged 50 ms later by `acked`.
    fn rates(acked: impl Fn(u32) -> Duration) -> Vec<u64> {
        let mut delivery = Delivery::default();
        let mut rates = Vec::new();
        let mut events: Vec<(Duration, bool, Duration)> = (0..100u32)
            .flat_map(|n| [(MS * n, false, MS * n), (acked(n), true, MS * n)])
            .collect();
        events.sort();
        for (now, is_ack, sent) in events {
            if is_ack {
                delivery.on_ack(sent, 1000);
                let sample = delivery.end_of_acks(now, 50_000, false).unwrap();
                rates.extend(sample.rate);
            } else {
                delivery.on_sent(now);
            }
        }
        rates
    }

    #[test]
    fn a_steady_path_delivers_what_it_carries() {
        let rates = rates(|n| MS * (n + 50));
        let last = *rates.last().unwrap();
        assert!((950_000..=1_050_000).contains(&last), "{last} bytes/s");
    }

    /// Guards against a path that looks faster than it is when acknowledgements come bunched.
    #[test]
    fn bunched_acknowledgements_do_not_make_it_faster() {
        let rates = rates(|n| MS * (n.next_multiple_of(10) + 50));
        let most = *rates.iter().max().unwrap();
        assert!(most <= 1_250_000, "{most} bytes/s");
    }

    /// Guards the estimate against sparse sending: it is marked until what was under way then is
    /// delivered.
    #[test]
    fn what_was_sent_for_want_of_more_is_marked() {
        let mut delivery = Delivery::default();
        delivery.on_sent(MS);
        delivery.on_ack(MS, 1000);
        assert!(!delivery.end_of_acks(MS * 51, 1000, true).unwrap().limited);
        delivery.on_sent(MS * 60);
        delivery.on_ack(MS * 60, 1000);
        assert!(delivery.end_of_acks(MS * 110, 1000, false).unwrap().limited);
        delivery.on_sent(MS * 120);
        delivery.on_ack(MS * 120, 1000);
        delivery.end_of_acks(MS * 170, 0, false);
        delivery.on_sent(MS * 180);
        delivery.on_ack(MS * 180, 1000);
        assert!(!delivery.end_of_acks(MS * 230, 0, false).unwrap().limited);
    }
}
