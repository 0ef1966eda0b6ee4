//! How much a tenant may store, and how fast it may come in.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use relevo_wire::TenantId;
use relevo_wire::message::{Refusal, RefusalCode};

use super::Vault;
use crate::audit::{Act, Event};
use crate::settings::Size;
use crate::volume::Volume;

/// How long what the catalogue said of a tenant's bytes is good for: collection makes them less.
const FRESH: Duration = Duration::from_secs(2);
/// A bucket holds what comes in this time.
const BURST: Duration = Duration::from_millis(500);
/// Longest pause at once; what is still owed then is waited for at the next chunk.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// What all tenants use.
#[derive(Default)]
pub(super) struct Usage(Mutex<HashMap<TenantId, TenantUsage>>);

#[derive(Default)]
struct TenantUsage {
    /// Bytes of packs, and when the catalogue said so.
    stored: Option<(u64, Instant)>,
    /// Bytes that are on the way to the writer.
    coming: u64,
    bucket: Bucket,
}

/// A token bucket that may be overdrawn: who overdraws waits.
#[derive(Debug, Default)]
struct Bucket {
    /// Bytes that may come at once; below zero what is owed.
    left: f64,
    filled: Option<Instant>,
}

impl Bucket {
    /// Takes `bytes` out; how long to wait before more may come.
    fn take(&mut self, bytes: u64, rate: u64, now: Instant) -> Duration {
        let rate = rate.max(1) as f64;
        let most = rate * BURST.as_secs_f64();
        let since = self.filled.map(|at| now.saturating_duration_since(at));
        let gained = since.map_or(most, |since| since.as_secs_f64() * rate);
        self.left = (self.left + gained).min(most) - bytes as f64;
        self.filled = Some(now);
        match self.left < 0.0 {
            true => Duration::try_from_secs_f64(-self.left / rate)
                .unwrap_or(LONGEST_PAUSE)
                .min(LONGEST_PAUSE),
            false => Duration::ZERO,
        }
    }
}

/// Bytes that count as stored until it is known how many were.
#[must_use]
pub struct Reserved {
    tenant: TenantId,
    bytes: u64,
}

impl<V: Volume> Vault<V> {
    /// Makes room in the tenant's quota for so many bytes, or refuses. Waits for the catalogue.
    pub fn reserve(&self, tenant: TenantId, bytes: u64) -> Result<Reserved, Refusal> {
        let reserved = Reserved { tenant, bytes };
        let Some(limit) = self.settings.now().quota(tenant).stored else {
            self.usage.lock().entry(tenant).or_default().coming += bytes;
            return Ok(reserved);
        };
        let now = Instant::now();
        let known = self
            .usage
            .lock()
            .get(&tenant)
            .and_then(|usage| usage.stored);
        let stored = match known {
            Some((stored, read)) if now.saturating_duration_since(read) < FRESH => stored,
            _ => {
                let (stored, _) = self.store.read(|c| c.stored_bytes(tenant))?;
                let mut usages = self.usage.lock();
                usages.entry(tenant).or_default().stored = Some((stored, now));
                stored
            }
        };
        let mut usages = self.usage.lock();
        let usage = usages.entry(tenant).or_default();
        // What others settled meanwhile is in there.
        let stored = usage.stored.map_or(stored, |(stored, _)| stored);
        let used = stored.saturating_add(usage.coming);
        if used.saturating_add(bytes) <= limit.bytes() && used < limit.bytes() {
            usage.coming += bytes;
            return Ok(reserved);
        }
        drop(usages);
        self.metrics.quota_refusals.increment();
        let said = format!(
            "the tenant has stored {} of the {limit} that it may",
            Size::from_bytes(stored)
        );
        let event = Event::new("vault", Act::QuotaRefused, said.clone()).of(tenant);
        self.note_rarely(event.result("refused"));
        Err(Refusal::new(
            RefusalCode::Quota,
            said,
            "delete recovery points or let retention do it, or ask the vault's operator for more \
             ([quota] in settings.toml); what was stored is kept",
        ))
    }

    /// Says how many bytes of a reservation were stored.
    pub fn settle(&self, reserved: Reserved, stored: u64) {
        let mut usages = self.usage.lock();
        let usage = usages.entry(reserved.tenant).or_default();
        usage.coming = usage.coming.saturating_sub(reserved.bytes);
        if let Some((known, _)) = &mut usage.stored {
            *known += stored;
        }
        self.metrics.stored_bytes.add(stored);
    }

    /// Counts bytes that came in; how long their tenant is to wait before more are read.
    pub fn arrived(&self, tenant: TenantId, bytes: u64) -> Duration {
        self.metrics.received_bytes.add(bytes);
        let Some(rate) = self.settings.now().quota(tenant).rate else {
            return Duration::ZERO;
        };
        let mut usages = self.usage.lock();
        let bucket = &mut usages.entry(tenant).or_default().bucket;
        let pause = bucket.take(bytes, rate.bytes_per_second(), Instant::now());
        let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.metrics.throttled_millis.add(millis);
        pause
    }
}

impl Usage {
    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, TenantUsage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the rate: over any long time no more comes in than it says, and a burst is short.
    #[test]
    fn a_bucket_lets_through_what_its_rate_says() {
        let mut bucket = Bucket::default();
        let start = Instant::now();
        let (rate, chunk) = (1_000_000, 64 * 1024);
        let mut now = start;
        let mut through = 0;
        while now.saturating_duration_since(start) < Duration::from_secs(100) {
            through += chunk;
            now += bucket.take(chunk, rate, now);
        }
        let most = rate * 100 + rate / 2 + 2 * chunk;
        assert!((rate * 99..most).contains(&through), "{through}");
        // An idle hour is not saved up.
        now += Duration::from_secs(3600);
        let mut burst = 0;
        while bucket.take(chunk, rate, now).is_zero() {
            burst += chunk;
        }
        assert!(burst <= rate, "{burst}");
        assert_eq!(bucket.take(u64::MAX, 1, now), LONGEST_PAUSE);
    }
}
