//! Which uploads are open, and since when: what they may count on is not removed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use relevo_wire::{TenantId, Timestamp};

/// An upload that nobody heard of for so long is none any more.
const LONGEST_IDLE: Duration = Duration::from_secs(24 * 3600);
/// Nor is one that was opened so long ago and has stored nothing for a day: an agent that stirs
/// its upload daily must not hold collection back for ever.
const LONGEST_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Nor one that was opened so long ago, whatever it stores. A first image over a long line comes
/// this far; then it goes on in another upload.
const LONGEST_GROWTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// An open upload. Counts until it is dropped, or forgotten.
#[derive(Debug)]
pub struct Opening {
    opened: Timestamp,
    moments: Mutex<Moments>,
}

#[derive(Debug)]
struct Moments {
    opened: Instant,
    used: Instant,
    grown: Instant,
}

impl Moments {
    fn are_too_long_ago(&self) -> bool {
        let age = self.opened.elapsed();
        let stale = age >= LONGEST_AGE && self.grown.elapsed() >= LONGEST_IDLE;
        self.used.elapsed() >= LONGEST_IDLE || stale || age >= LONGEST_GROWTH
    }
}

impl Opening {
    /// When it was opened, by the wall clock.
    pub fn opened(&self) -> Timestamp {
        self.opened
    }

    /// Something came. False when that is too late.
    pub fn touch(&self) -> bool {
        let mut moments = self.moments();
        let in_time = !moments.are_too_long_ago();
        if in_time {
            moments.used = Instant::now();
        }
        in_time
    }

    /// Something new was stored.
    pub fn grew(&self) {
        self.moments().grown = Instant::now();
    }

    /// True when it came to its end by time; then nothing will be taken.
    pub fn is_forgotten(&self) -> bool {
        self.moments().are_too_long_ago()
    }

    fn moments(&self) -> MutexGuard<'_, Moments> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open uploads of all tenants.
#[derive(Debug, Default)]
pub struct Openings(Mutex<HashMap<TenantId, Vec<Weak<Opening>>>>);

impl Openings {
    /// One more.
    pub fn open(&self, tenant: TenantId) -> Arc<Opening> {
        let mut openings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_tenant = openings.entry(tenant).or_default();
        of_tenant.retain(|opening| opening.strong_count() > 0);
        // Taken under the lock: who asks for the oldest before has not seen a later time.
        let opening = Arc::new(Opening {
            opened: Timestamp::now(),
            moments: Mutex::new(Moments {
                opened: Instant::now(),
                used: Instant::now(),
                grown: Instant::now(),
            }),
        });
        of_tenant.push(Arc::downgrade(&opening));
        opening
    }

    /// When the tenant's oldest open upload was opened.
    pub fn oldest(&self, tenant: TenantId) -> Option<Timestamp> {
        let openings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = openings.get(&tenant)?.iter().filter_map(Weak::upgrade);
        open.filter(|opening| !opening.is_forgotten())
            .map(|opening| opening.opened())
            .min()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards collection against an agent that went away, and an upload against collection.
    #[test]
    fn an_upload_counts_until_it_ends_or_is_forgotten() {
        let openings = Openings::default();
        let tenant = TenantId::random();
        assert_eq!(openings.oldest(tenant), None);
        let (first, second) = (openings.open(tenant), openings.open(tenant));
        assert_eq!(openings.oldest(tenant), Some(first.opened()));
        assert_eq!(openings.oldest(TenantId::random()), None);
        let Some(yesterday) = Instant::now().checked_sub(LONGEST_IDLE) else {
            return;
        };
        first.moments().used = yesterday;
        assert_eq!(openings.oldest(tenant), Some(second.opened()));
        assert!(!first.touch());
        assert!(second.touch());
        let third = openings.open(tenant);
        let Some(last_week) = Instant::now().checked_sub(LONGEST_AGE) else {
            return;
        };
        // However often something came, unless it was new.
        second.moments().opened = last_week;
        assert!(second.touch());
        second.moments().grown = yesterday;
        assert_eq!(openings.oldest(tenant), Some(third.opened()));
        assert!(!second.touch() && second.is_forgotten());
        second.grew();
        assert!(second.touch());
        let Some(last_month) = Instant::now().checked_sub(LONGEST_GROWTH) else {
            return;
        };
        second.moments().opened = last_month;
        assert!(!second.touch());
        assert!(third.touch());
        drop(third);
        assert_eq!(openings.oldest(tenant), None);
    }
}
