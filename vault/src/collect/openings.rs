//! Which uploads are open, and since when: what they may count on is not removed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use relevo_wire::{TenantId, Timestamp};

/// An upload that nobody heard of for so long is none any more.
const LONGEST_IDLE: Duration = Duration::from_secs(24 * 3600);

/// An open upload. Counts until it is dropped, or forgotten.
#[derive(Debug)]
pub struct Opening {
    opened: Timestamp,
    used: Mutex<Instant>,
}

impl Opening {
    /// When it was opened, by the wall clock.
    pub fn opened(&self) -> Timestamp {
        self.opened
    }

    /// Something came. False when that is too late.
    pub fn touch(&self) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let in_time = used.elapsed() < LONGEST_IDLE;
        if in_time {
            *used = Instant::now();
        }
        in_time
    }

    /// True when nothing came for a day; then nothing will be taken.
    pub fn is_forgotten(&self) -> bool {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.elapsed() >= LONGEST_IDLE
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
            used: Mutex::new(Instant::now()),
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
        *first.used.lock().unwrap() = yesterday;
        assert_eq!(openings.oldest(tenant), Some(second.opened()));
        assert!(!first.touch());
        assert!(second.touch());
        drop(second);
        assert_eq!(openings.oldest(tenant), None);
    }
}
