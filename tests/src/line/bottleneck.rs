//! One direction of a line: which packets come through, and when. No clock of its own.

use std::time::Duration;

use super::LineSettings;

/// IPv4 and UDP headers, in bytes.
const HEADERS: usize = 28;
/// The largest packet of an ordinary line, in bytes.
const MTU: usize = 1500;

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It comes out at this moment.
    Carried(Duration),
    Lost,
    Overflowed,
    /// It is larger than any that the line carries.
    TooLarge,
}

/// Bytes that a packet takes of the line.
pub(super) fn on_line(payload: usize) -> u64 {
    (payload + HEADERS) as u64
}

pub(super) struct Bottleneck {
    /// When all that is queued has been sent.
    free_at: Duration,
    dice: u64,
}

impl Bottleneck {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            free_at: Duration::ZERO,
            dice: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) % sides.max(1)
    }

    /// Takes a packet of `payload` bytes.
    pub(super) fn take(&mut self, now: Duration, payload: usize, line: &LineSettings) -> Verdict {
        if payload + HEADERS > MTU {
            return Verdict::TooLarge;
        }
        if self.roll(1_000_000) < line.loss {
            return Verdict::Lost;
        }
        let takes = on_line(payload) as f64 * 8.0 / line.rate as f64;
        if self.free_at.saturating_sub(now) > line.queue {
            return Verdict::Overflowed;
        }
        self.free_at = self.free_at.max(now) + Duration::from_secs_f64(takes);
        let jitter = Duration::from_nanos(self.roll(line.jitter.as_nanos() as u64));
        Verdict::Carried(self.free_at + line.round_trip / 2 + jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Guards the figures that are measured through it: the rate, the delay, the queue's end.
    #[test]
    fn packets_take_their_time_and_queues_end() {
        let line = LineSettings::long(12_000_000);
        let mut bottleneck = Bottleneck::new(1);
        // 1500 bytes take 1 ms; 100 ms and the packet at their end are held.
        let verdicts: Vec<_> = (0..110).map(|_| bottleneck.take(MS, 1472, &line)).collect();
        for (at, verdict) in verdicts.iter().take(101).enumerate() {
            assert_eq!(*verdict, Verdict::Carried(MS * (77 + at as u32)));
        }
        assert!(verdicts[101..].iter().all(|v| *v == Verdict::Overflowed));
        let later = bottleneck.take(MS * 500, 1472, &line);
        assert_eq!(later, Verdict::Carried(MS * 576));
        assert_eq!(bottleneck.take(MS, 1473, &line), Verdict::TooLarge);
    }

    /// Guards the share of packets that is lost by chance.
    #[test]
    fn as_many_are_lost_as_was_asked_for() {
        let mut line = LineSettings::long(1_000_000_000);
        line.loss = 10_000;
        let mut bottleneck = Bottleneck::new(7);
        let lost = |at: u32| bottleneck.take(MS * at, 1000, &line) == Verdict::Lost;
        let lost = (0..100_000).map(lost).filter(|lost| *lost).count();
        assert!((800..1200).contains(&lost), "{lost} of 100,000");
    }
}
