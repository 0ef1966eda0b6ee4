//! Vault time: what locks end in.
//!
//! It counts the milliseconds that the vault has been seen running, by the machine's time since
//! boot (`CLOCK_BOOTTIME`), which nobody can set. It goes on from the furthest that any pack
//! says, so that it never goes back by more than what ran since the last clock entry, and never
//! forward by anything but running. The wall clock may be set to any year: no lock ends sooner,
//! none later. While the vault does not run, its time stands still, and locks last longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Milliseconds that the vault has been seen running since it was made. No wall clock moves it.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Encode,
    Decode,
    Serialize,
    Deserialize,
)]
#[cbor(transparent)]
#[serde(transparent)]
pub struct VaultTime(#[n(0)] u64);

impl VaultTime {
    /// From milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This moment and so many milliseconds more; never beyond what the catalogue can hold.
    pub const fn plus_millis(self, millis: u64) -> Self {
        let sum = self.0.saturating_add(millis);
        match sum > i64::MAX as u64 {
            true => Self(i64::MAX as u64),
            false => Self(sum),
        }
    }

    /// The time from `earlier` to this moment; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// What tells how long the machine has been up.
pub trait BootClock: Send + Sync {
    /// Since a moment that does not change while the vault runs.
    fn since_boot(&self) -> Duration;
}

/// The kernel's: also counts while the machine is suspended, and cannot be set.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelBootClock;

impl BootClock for KernelBootClock {
    fn since_boot(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let part = u32::try_from(now.tv_nsec).unwrap_or(0);
        Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), part)
    }
}

/// The vault's clock while it runs.
pub struct VaultClock {
    start: VaultTime,
    started: Duration,
    source: Arc<dyn BootClock>,
    /// The furthest that was told: not even a broken source takes it back.
    told: AtomicU64,
}

impl VaultClock {
    /// Goes on from the furthest that the packs say.
    pub fn resume(start: VaultTime, source: Arc<dyn BootClock>) -> Self {
        Self {
            start,
            started: source.since_boot(),
            source,
            told: AtomicU64::new(start.as_millis()),
        }
    }

    /// Vault time now.
    pub fn now(&self) -> VaultTime {
        let ran = self.source.since_boot().saturating_sub(self.started);
        let ran = u64::try_from(ran.as_millis()).unwrap_or(u64::MAX);
        let now = self.start.plus_millis(ran).as_millis();
        let told = self.told.fetch_max(now, Ordering::Relaxed);
        VaultTime(told.max(now))
    }
}

/// A clock that a test sets.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct SetClock(AtomicU64);

#[cfg(test)]
impl SetClock {
    /// To so many milliseconds since boot.
    pub(crate) fn set(&self, millis: u64) {
        self.0.store(millis, Ordering::Relaxed);
    }
}

#[cfg(test)]
impl BootClock for SetClock {
    fn since_boot(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards locks against clocks that jump: forward is only what ran.
    #[test]
    fn only_running_moves_it_and_nothing_takes_it_back() {
        let boot = Arc::new(SetClock::default());
        boot.set(5_000_000);
        let clock = VaultClock::resume(VaultTime::from_millis(70), boot.clone());
        assert_eq!(clock.now().as_millis(), 70);
        boot.set(5_000_030);
        assert_eq!(clock.now().as_millis(), 100);
        boot.set(10);
        assert_eq!(clock.now().as_millis(), 100);
        boot.set(5_000_031);
        assert_eq!(clock.now().as_millis(), 101);
        // Another boot: what counts is where the packs say that it was.
        boot.set(3);
        let clock = VaultClock::resume(clock.now(), boot.clone());
        boot.set(4);
        assert_eq!(clock.now().as_millis(), 102);
    }

    #[test]
    fn no_lock_is_too_long_for_the_catalogue() {
        let end = VaultTime::from_millis(5).plus_millis(u64::MAX);
        assert_eq!(end.as_millis(), i64::MAX as u64);
    }

    #[test]
    fn the_kernels_clock_runs() {
        assert!(KernelBootClock.since_boot() > Duration::ZERO);
    }
}
