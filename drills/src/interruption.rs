//! The wish to stop, from SIGINT, SIGTERM or SIGHUP, that everything which waits listens to.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Who wants the drill to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT, as from Ctrl-C.
    Interrupt,
    /// SIGTERM, as from systemd.
    Terminate,
    /// SIGHUP, as from a terminal that was closed.
    Hangup,
}

impl Signal {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::Hangup => "SIGHUP",
        }
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// What was waited for is there.
    Ready,
    /// The time is over.
    TimedOut,
    /// The drill is to stop.
    Interrupted,
}

/// A flag that is raised once and wakes all who wait. Clones share it.
#[derive(Debug, Clone)]
pub struct Interruption {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    raised: Mutex<Option<Signal>>,
    changed: Condvar,
    watch: watch::Sender<bool>,
}

impl Default for Interruption {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                raised: Mutex::new(None),
                changed: Condvar::new(),
                watch: watch::Sender::new(false),
            }),
        }
    }
}

impl Interruption {
    fn lock(&self) -> MutexGuard<'_, Option<Signal>> {
        self.shared
            .raised
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks everything to stop. The first signal is the one remembered.
    pub fn raise(&self, signal: Signal) {
        self.lock().get_or_insert(signal);
        self.shared.watch.send_replace(true);
        self.shared.changed.notify_all();
    }

    /// The signal, once there was one.
    pub fn raised(&self) -> Option<Signal> {
        *self.lock()
    }

    /// Makes everyone in [`Interruption::wait`] look again at what they wait for.
    pub fn wake(&self) {
        // Taking the lock closes the gap between a waiter's look and its sleep.
        drop(self.lock());
        self.shared.changed.notify_all();
    }

    /// Waits until `ready` says so, at most until `deadline`. Whoever makes `ready` true calls
    /// [`Interruption::wake`].
    pub fn wait(&self, deadline: Instant, mut ready: impl FnMut() -> bool) -> Waited {
        let mut raised = self.lock();
        loop {
            if ready() {
                return Waited::Ready;
            }
            if raised.is_some() {
                return Waited::Interrupted;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Waited::TimedOut;
            }
            let waited = self.shared.changed.wait_timeout(raised, left);
            raised = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Rests for a while, less if the drill is to stop.
    pub fn rest(&self, duration: Duration) -> Waited {
        self.wait(Instant::now() + duration, || false)
    }

    /// Ends when the drill is to stop.
    pub async fn interrupted(&self) {
        // The sender lives in `self`, so that the only way out is the raised flag.
        let _ = self
            .shared
            .watch
            .subscribe()
            .wait_for(|raised| *raised)
            .await;
    }

    /// Raises the flag at SIGINT, SIGTERM and SIGHUP from now on.
    pub fn listen(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let flag = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => flag.raise(Signal::Interrupt),
                    _ = terminate.recv() => flag.raise(Signal::Terminate),
                    _ = hangup.recv() => flag.raise(Signal::Hangup),
                }
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_flag_ends_every_wait() {
        let flag = Interruption::default();
        let far = Instant::now() + Duration::from_secs(3600);
        let waiter = std::thread::spawn({
            let flag = flag.clone();
            move || flag.wait(far, || false)
        });
        flag.raise(Signal::Terminate);
        flag.raise(Signal::Interrupt);
        assert_eq!(waiter.join().ok(), Some(Waited::Interrupted));
        assert_eq!(flag.raised(), Some(Signal::Terminate));
    }

    #[test]
    fn what_is_ready_wins_over_an_interruption() {
        let flag = Interruption::default();
        flag.raise(Signal::Interrupt);
        assert_eq!(flag.wait(Instant::now(), || true), Waited::Ready);
    }
}
