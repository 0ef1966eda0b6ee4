//! How fast a run may go on: ceilings of the policy, and what the server itself needs.
//!
//! ```text
//!  worker ── read(bytes) ──► read rate, processor time, pressure      a span was read
//!  uplink ── send(bytes) ──► line rate of this time of day            chunks are to be sent
//! ```
//!
//! Each waits until its share is due. The policy's file is looked at again every few seconds, so
//! that a long run obeys what changes meanwhile.
//!
//! * [`bucket`]: how long to wait for so much of something. [`pressure`]: whether others wait.

pub mod bucket;
pub mod pressure;

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use relevo_wire::Timestamp;
use relevo_wire::policy::BackupPolicy;
use relevo_wire::upload::UploadLimits;
use relevo_wire::zone::Zone;

use crate::policy::Known;
use crate::stop::Stop;
use bucket::Bucket;
use pressure::Backoff;

/// How often the policy's file, the time of day and the pressure are looked at.
const LOOK: Duration = Duration::from_secs(4);
/// How often a reader that waits looks whether it still has to.
const NAP: Duration = Duration::from_millis(100);
/// The longest wait of a reader: a day does for 4 MiB at any rate that somebody means.
const LONGEST: Duration = Duration::from_secs(86_400);
/// Least bytes of a put, however slow the line.
const LEAST_PUT: usize = 64 << 10;

/// How fast a run may go on. Clones share it; the default knows no limits.
#[derive(Clone, Debug, Default)]
pub struct Pace(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: PathBuf,
    zone: Zone,
    processors: usize,
    begun: Instant,
    looked: Option<Instant>,
    /// Counts changes of the ceilings.
    turn: u64,
    policy: BackupPolicy,
    line_rate: Option<u64>,
    line: Bucket,
    reads: Bucket,
    cpu: Bucket,
    cpu_seen: Duration,
    backoff: Backoff,
}

thread_local! {
    /// When this worker last went on.
    static WENT_ON: Cell<Option<Instant>> = const { Cell::new(None) };
}

impl Pace {
    /// By the policy in this file, from now on.
    pub fn by(file: PathBuf) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let state = Mutex::new(State {
            file,
            zone: Zone::of_this_machine(),
            processors,
            begun: Instant::now(),
            looked: None,
            turn: 0,
            policy: BackupPolicy::default(),
            line_rate: None,
            line: Bucket::default(),
            reads: Bucket::default(),
            cpu: Bucket::default(),
            cpu_seen: processor_time(),
            backoff: Backoff::default(),
        });
        Self(Some(Arc::new(Shared { state })))
    }

    /// Waits, after so many bytes were read, until more may be, or `halt` is set. For threads that
    /// may block.
    pub fn read(&self, bytes: u64, halt: &Stop) {
        let Some(shared) = &self.0 else { return };
        let worked = WENT_ON.get().map_or(Duration::ZERO, |at| at.elapsed());
        let waits = || !halt.is_set();
        if waits() {
            let (mut turn, wait) = shared.state().read(bytes, worked);
            let mut until = Instant::now() + wait.min(LONGEST);
            while waits()
                && let Some(left) = until.checked_duration_since(Instant::now())
            {
                std::thread::sleep(left.min(NAP));
                if let Some((other, wait)) =
                    shared.state().if_changed(turn, |s| s.read(bytes, worked))
                {
                    (turn, until) = (other, Instant::now() + wait.min(LONGEST));
                }
            }
        }
        WENT_ON.set(Some(Instant::now()));
    }

    /// Waits until so many bytes may be sent.
    pub async fn send(&self, bytes: u64) {
        let Some(shared) = &self.0 else { return };
        let (mut turn, mut wait) = shared.state().send(bytes);
        while !wait.is_zero() {
            let nap = wait.min(LOOK);
            tokio::time::sleep(nap).await;
            wait -= nap;
            if let Some(other) = shared.state().if_changed(turn, |s| s.send(bytes)) {
                (turn, wait) = other;
            }
        }
    }

    /// Looks at the policy anew, since it may just have been told.
    pub fn look_again(&self) {
        if let Some(shared) = &self.0 {
            shared.state().looked = None;
        }
    }

    /// Limits of an upload: puts of half a second of the line's ceiling, so that it is kept over
    /// seconds and not only over minutes.
    pub fn limits(&self, usual: UploadLimits) -> UploadLimits {
        let Some(shared) = &self.0 else { return usual };
        let mut state = shared.state();
        state.look();
        let half = state
            .line_rate
            .map(|rate| usize::try_from(rate / 2).unwrap_or(usize::MAX));
        UploadLimits {
            put_bytes: usual
                .put_bytes
                .min(half.unwrap_or(usize::MAX).max(LEAST_PUT)),
            ..usual
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn look(&mut self) {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        self.looked = Some(Instant::now());
        let before = (self.line_rate, self.policy.read_rate, self.policy.cpu);
        self.policy = Known::read(&self.file).policy;
        let zone = self.policy.zone(&self.zone);
        self.line_rate = self.policy.line_rate(Timestamp::now(), zone);
        if before != (self.line_rate, self.policy.read_rate, self.policy.cpu) {
            // Whoever waits by the old ceilings asks again.
            self.turn += 1;
            (self.line, self.reads, self.cpu) = Default::default();
        }
        self.backoff
            .look(&self.policy.pressure, self.begun.elapsed());
    }

    /// Asks again when ceilings have changed since `turn`.
    fn if_changed(
        &mut self,
        turn: u64,
        ask: impl FnOnce(&mut Self) -> (u64, Duration),
    ) -> Option<(u64, Duration)> {
        self.look();
        (self.turn != turn).then(|| ask(self))
    }

    /// How long to wait, and for which ceilings that holds.
    fn read(&mut self, bytes: u64, worked: Duration) -> (u64, Duration) {
        self.look();
        let now = self.begun.elapsed();
        let mut wait = self.backoff.wait(worked);
        if let Some(rate) = self.policy.read_rate {
            wait = wait.max(self.reads.take(now, bytes, rate as f64));
        }
        if let Some(cpu) = self.policy.cpu {
            let used = processor_time();
            let micros = used.saturating_sub(self.cpu_seen).as_micros();
            self.cpu_seen = used;
            let a_second = cpu.cores(self.processors) * 1e6;
            wait = wait.max(self.cpu.take(now, micros as u64, a_second));
        }
        (self.turn, wait)
    }

    fn send(&mut self, bytes: u64) -> (u64, Duration) {
        self.look();
        let wait = match self.line_rate {
            Some(rate) => self.line.take(self.begun.elapsed(), bytes, rate as f64),
            None => Duration::ZERO,
        };
        (self.turn, wait)
    }
}

/// What all threads of this process have used.
fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards a line whose ceiling changes while a run is under way, and runs that were told to
    /// know none.
    #[test]
    fn a_run_obeys_the_policy_that_is_in_force_now() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy.json");
        let write = |policy: BackupPolicy| {
            let known = Known {
                policy,
                ..Known::default()
            };
            std::fs::write(&file, serde_json::to_vec(&known).unwrap()).unwrap();
        };
        write(BackupPolicy {
            line: vec!["8 kbit/s".parse().unwrap()],
            read_rate: Some(1000),
            ..BackupPolicy::default()
        });
        let pace = Pace::by(file.clone());
        let mut state = pace.0.as_ref().unwrap().state();
        assert!(state.send(1_000_000).1 > Duration::from_secs(900));
        assert!(state.read(1_000_000, Duration::ZERO).1 > Duration::from_secs(900));
        drop(state);
        // Comes back at once, or not before the test is given up.
        let halt = Stop::default();
        halt.set();
        pace.read(1_000_000_000, &halt);
        let mut state = pace.0.as_ref().unwrap().state();
        write(BackupPolicy::default());
        state.looked = None;
        assert_eq!(state.send(1_000_000).1, Duration::ZERO);
        assert_eq!(state.read(1_000_000, Duration::ZERO).1, Duration::ZERO);
        drop(state);
        // Whoever waited by the old ceilings asks again, once.
        let turn = pace.0.as_ref().unwrap().state().turn;
        let asked = |turn| {
            pace.0
                .as_ref()
                .unwrap()
                .state()
                .if_changed(turn, |s| s.send(1))
        };
        assert!(asked(turn - 1).is_some() && asked(turn).is_none());
        let usual = UploadLimits::default();
        assert_eq!(pace.limits(usual).put_bytes, usual.put_bytes);
        Pace::default().read(u64::MAX, &Stop::default());
    }
}
