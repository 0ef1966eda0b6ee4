//! Which worker reads which span next.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Spans that may be finished ahead of the first unfinished one.
const WINDOW: u64 = 1024;

/// Hands out span numbers in order.
pub(super) struct Queue {
    state: Mutex<QueueState>,
    moved: Condvar,
    count: u64,
}

struct QueueState {
    next: u64,
    head: u64,
    stopped: bool,
}

impl Queue {
    pub(super) fn new(count: u64) -> Self {
        Self {
            state: Mutex::new(QueueState {
                next: 0,
                head: 0,
                stopped: false,
            }),
            moved: Condvar::new(),
            count,
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next span to do; none at the end or after a stop.
    pub(super) fn take(&self) -> Option<u64> {
        let mut state = self.lock();
        while !state.stopped && state.next < self.count && state.next >= state.head + WINDOW {
            state = self
                .moved
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped || state.next >= self.count {
            return None;
        }
        state.next += 1;
        Some(state.next - 1)
    }

    pub(super) fn advance(&self, head: u64) {
        let mut state = self.lock();
        if state.head != head {
            state.head = head;
            self.moved.notify_all();
        }
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.moved.notify_all();
    }
}

/// Whoever waits for the span of a thread that panicked would wait for ever.
pub(super) struct StopOnPanic<'a>(pub(super) &'a Queue);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards against a run that hangs for ever over a fault in one of its threads.
    #[test]
    fn a_panic_ends_the_wait_of_the_others() {
        let queue = Queue::new(WINDOW + 2);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| while queue.take().is_some() {});
                scope.spawn(|| {
                    let _guard = StopOnPanic(&queue);
                    std::panic::resume_unwind(Box::new("fault"));
                });
            });
        }));
        assert!(ended.is_err());
        assert!(queue.lock().stopped);
    }
}
