//! A token bucket without a clock of its own.

use std::time::Duration;

/// What was not used of the last quarter of a second may be used now.
const BURST: Duration = Duration::from_millis(250);

/// Says how long to wait for so much of something that comes at a rate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// Until when all that comes is spoken for.
    taken_until: Duration,
}

impl Bucket {
    /// Takes an amount at a time, given how much comes a second, and says how long to wait before
    /// using it. Who asks later waits behind who asked before.
    pub fn take(&mut self, now: Duration, amount: u64, a_second: f64) -> Duration {
        let from = self.taken_until.max(now.saturating_sub(BURST));
        let seconds = amount as f64 / a_second;
        let lasts = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        self.taken_until = from.saturating_add(lasts);
        self.taken_until.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Guards the line: over any stretch no more goes than the rate allows, but for the
        /// burst; and nobody waits while there is something to be had.
        #[test]
        fn no_more_goes_than_comes_and_nothing_is_held_back(
            asks in prop::collection::vec((0..2_000u64, 1..100_000u64), 1..50),
            rate in 1_000..10_000_000u64,
        ) {
            let mut bucket = Bucket::default();
            let (mut now, mut went) = (Duration::from_secs(10), Vec::new());
            for (pause, amount) in asks {
                now += Duration::from_millis(pause);
                let wait = bucket.take(now, amount, rate as f64);
                went.push((now + wait, amount));
                if !wait.is_zero() {
                    // All until then is used up, to the last.
                    prop_assert_eq!(bucket.taken_until, now + wait);
                }
            }
            for (at, (from, _)) in went.iter().enumerate() {
                let mut sum = 0;
                for (until, amount) in &went[at + 1..] {
                    sum += amount;
                    let stretch = (*until - *from + BURST).as_secs_f64();
                    prop_assert!(sum as f64 <= stretch * rate as f64 + 1.0);
                }
            }
        }
    }
}
