//! The gate between the operator and the vCPU threads: run, pause, stop.
//!
//! A vCPU thread passes the gate before each entry into the guest. To make it come there,
//! a signal interrupts the entry it is in. A signal that arrives just before an entry is
//! lost, so it is sent again until the thread has been seen at the gate.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the vCPUs shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Execute the guest.
    Run,
    /// Wait at the gate.
    Pause,
    /// End.
    Stop,
}

/// How a vCPU came to the other side of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It was open.
    Open,
    /// It had to wait there.
    Waited,
    /// It is closed for good.
    End,
}

#[derive(Debug)]
struct State {
    order: Order,
    /// vCPU threads that have not ended.
    alive: usize,
    /// Those of them that wait at the gate.
    waiting: usize,
}

/// The gate of one machine.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

/// How long a thread is given to react to a signal before it gets another.
const PATIENCE: Duration = Duration::from_millis(5);

impl Gate {
    /// A gate for `vcpus` threads, closed until [`Gate::set`].
    pub fn new(vcpus: usize) -> Self {
        Self {
            state: Mutex::new(State {
                order: Order::Pause,
                alive: vcpus,
                waiting: 0,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the vCPUs were told last.
    pub fn order(&self) -> Order {
        self.lock().order
    }

    /// Gives an order and returns when all vCPUs follow it; `kick` interrupts them. A
    /// stopped machine takes no other order.
    pub fn set(&self, order: Order, kick: impl Fn()) {
        let mut state = self.lock();
        if state.order != Order::Stop {
            state.order = order;
        }
        self.changed.notify_all();
        let followed = |s: &State| match s.order {
            Order::Run => true,
            Order::Pause => s.waiting == s.alive,
            Order::Stop => s.alive == 0,
        };
        while !followed(&state) {
            kick();
            let waited = self.changed.wait_timeout(state, PATIENCE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// To be called by a vCPU thread before each entry into the guest: returns when it may
    /// run or must end.
    pub fn pass(&self) -> Passage {
        let mut state = self.lock();
        if state.order == Order::Run {
            return Passage::Open;
        }
        state.waiting += 1;
        self.changed.notify_all();
        while state.order == Order::Pause {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        match state.order {
            Order::Run => Passage::Waited,
            _ => Passage::End,
        }
    }

    /// To be called by a vCPU thread as its last act.
    pub fn leave(&self) {
        self.lock().alive -= 1;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    //! Guards that orders are followed by all threads before they are reported done.
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn pause_means_that_nothing_moves_and_stop_that_all_have_ended() {
        let gate = Arc::new(Gate::new(3));
        let steps = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (gate, steps) = (gate.clone(), steps.clone());
                std::thread::spawn(move || {
                    while gate.pass() != Passage::End {
                        steps.fetch_add(1, Ordering::SeqCst);
                    }
                    gate.leave();
                })
            })
            .collect();
        gate.set(Order::Run, || ());
        while steps.load(Ordering::SeqCst) < 100 {
            std::thread::yield_now();
        }
        gate.set(Order::Pause, || ());
        let seen = steps.load(Ordering::SeqCst);
        for _ in 0..1000 {
            std::thread::yield_now();
        }
        assert_eq!(steps.load(Ordering::SeqCst), seen, "ran while paused");
        gate.set(Order::Run, || ());
        while steps.load(Ordering::SeqCst) == seen {
            std::thread::yield_now();
        }
        gate.set(Order::Stop, || ());
        gate.set(Order::Run, || ());
        assert_eq!(gate.order(), Order::Stop, "stopped for good");
        for thread in threads {
            assert!(thread.join().is_ok());
        }
    }
}
