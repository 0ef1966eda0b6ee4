//! Ending early: SIGINT and SIGTERM as a flag that long work looks at.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::{SigSet, Signal};

use crate::failure::Failure;

type Hook = Box<dyn Fn() + Send>;

/// Whether to end early. Shared between the work and whoever may end it.
#[derive(Default)]
pub struct Cancel {
    set: AtomicBool,
    hooks: Mutex<Vec<Hook>>,
}

impl Cancel {
    /// One that nobody sets but by [`set`](Self::set).
    pub fn never() -> Arc<Self> {
        Arc::default()
    }

    /// One that SIGINT, SIGTERM and SIGHUP set. To be called before other threads are started:
    /// they inherit that these signals are left to this.
    pub fn on_signals() -> io::Result<Arc<Self>> {
        let cancel = Arc::new(Self::default());
        let (signals, shared) = (block_signals()?, cancel.clone());
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                while let Ok(signal) = signals.wait() {
                    tracing::info!(%signal, "ending");
                    shared.set();
                }
            })?;
        Ok(cancel)
    }

    /// Ends the work.
    pub fn set(&self) {
        self.set.store(true, Ordering::Release);
        for hook in &*self.hooks() {
            hook();
        }
    }

    /// Whether the work should end.
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Calls `hook` when the work should end; at once when it should already.
    pub fn also(&self, hook: impl Fn() + Send + 'static) {
        let mut hooks = self.hooks();
        if self.is_set() {
            hook();
        }
        hooks.push(Box::new(hook));
    }

    /// An error when the work should end.
    pub fn check(&self) -> Result<(), Failure> {
        if self.is_set() {
            return Err(Failure::new(
                "interrupted",
                "nothing was left behind: start it again when you want",
            )
            .with_code(Failure::INTERRUPTED));
        }
        Ok(())
    }

    fn hooks(&self) -> std::sync::MutexGuard<'_, Vec<Hook>> {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves SIGINT, SIGTERM and SIGHUP of this thread, and of those it starts, to whoever waits
/// for them.
pub fn block_signals() -> io::Result<SigSet> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    Ok(signals)
}
