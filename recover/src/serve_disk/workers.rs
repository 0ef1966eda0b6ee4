//! A few threads that do what they are given, in the order given.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// Something was queued, or all is over.
    queued: Condvar,
    /// There is room again.
    taken: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    over: bool,
}

/// The threads. Dropped, they finish what they were given, then end.
pub struct Workers {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
    room: usize,
}

impl Workers {
    /// Starts `count` threads; at most `room` jobs wait for one.
    pub fn start(name: &str, count: usize, room: usize) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let mut workers = Self {
            queue,
            threads: Vec::with_capacity(count),
            room,
        };
        for _ in 0..count {
            let queue = workers.queue.clone();
            let thread = std::thread::Builder::new()
                .name(name.to_string())
                .spawn(move || queue.work())?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Queues a job; waits while too many are queued.
    pub fn give(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.queue.lock();
        while state.jobs.len() >= self.room {
            state = self
                .queue
                .taken
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.jobs.push_back(Box::new(job));
        drop(state);
        self.queue.queued.notify_one();
    }
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut state = self.lock();
            let job = loop {
                if let Some(job) = state.jobs.pop_front() {
                    break job;
                }
                if state.over {
                    return;
                }
                state = self
                    .queued
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            self.taken.notify_one();
            // A job that panics costs itself only: with each lost thread the disk would get
            // slower, and with the last one stop for good.
            if std::panic::catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a request failed by a defect of this program");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue.lock().over = true;
        self.queue.queued.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards that no request can take the threads of a disk away.
    #[test]
    fn workers_outlive_jobs_that_panic() {
        let workers = Workers::start("test", 2, 16).unwrap();
        for _ in 0..8 {
            workers.give(|| panic!("on purpose"));
        }
        let (tell, hear) = std::sync::mpsc::channel();
        workers.give(move || tell.send("alive").unwrap());
        assert_eq!(hear.recv(), Ok("alive"));
    }
}
