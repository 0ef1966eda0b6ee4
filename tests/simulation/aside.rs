//! A thread that waits for the vault's writer, which threads of an async runtime may not.
//!
//! Whoever hands it work waits for the end of it, so that there is one thing at a time.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;

type Job = Box<dyn FnOnce() + Send>;

/// The thread; it ends when this is dropped.
pub struct Aside(mpsc::Sender<Job>);

impl Aside {
    /// Starts it.
    pub fn new() -> Self {
        let (jobs, todo) = mpsc::channel::<Job>();
        std::thread::spawn(move || todo.into_iter().for_each(|job| job()));
        Self(jobs)
    }

    /// Does `work` there. Its panic is the caller's.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::sync_channel(1);
        let job = move || {
            let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
        };
        self.0.send(Box::new(job)).unwrap();
        match result.recv().unwrap() {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }
}
