//! The process that holds file systems frozen and thaws them, whatever befalls the run.
//!
//! It thaws when it is told, when the run is gone (the pipe from it closes), and when the limit is
//! over. While something is frozen it touches no file: its memory is locked, and it speaks
//! through pipes only.
//!
//! ```text
//!  run ─► one line of JSON: Order      guard ─► ready
//!      ─► freeze                             ─► one line for each file system, in order
//!                                            ─► held
//!      ─► thaw, or the pipe closes           ─► thawed WHY MILLISECONDS
//! ```
//!
//! A thread freezes, so that the limit is kept though the kernel takes long to write out what a
//! file system has in memory: then those before it are thawed at the limit, and it is the moment
//! that the kernel is done with it.

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, Signal, signal};
use rustix::mm::{MlockAllFlags, mlockall};
use serde::{Deserialize, Serialize};

use super::freeze::{Freeze, freeze, thaw};
use super::mounts::FileSystem;

/// What the guard is to hold, and for how long at most.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub limit_ms: u64,
    /// In the order of freezing.
    pub file_systems: Vec<FileSystem>,
}

/// A thread of the guard needs next to nothing, and what it needs is locked in memory.
const STACK: usize = 128 << 10;

enum Event {
    Line(String),
    /// The run's end of the pipe is closed.
    Gone,
    /// A file system was tried: how it stands, in words.
    Tried(String),
    /// All were tried.
    Held,
}

/// Does what the run orders through standard input. Returns when nothing is frozen.
pub fn run() -> io::Result<()> {
    outlive()?;
    let (events, happened) = channel();
    listen(events.clone())?;
    let order = match happened.recv() {
        Ok(Event::Line(line)) => serde_json::from_str::<Order>(&line)?,
        _ => return Ok(()),
    };
    let limit = Duration::from_millis(order.limit_ms);
    let files = order
        .file_systems
        .iter()
        .map(|one| one.open().map_err(|e| e.to_string()));
    let held = Arc::new(Held::new(files.collect()));
    // Where that is not allowed the guard is in memory by its use only.
    let _ = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE);
    tell("ready");
    match happened.recv() {
        Ok(Event::Line(line)) if line == "freeze" => {}
        _ => return Ok(()),
    }
    let began = Instant::now();
    let freezing = {
        let held = held.clone();
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || held.freeze(&events))?
    };
    let why = wait(&happened, began + limit);
    held.thaw();
    // What it freezes last it thaws itself.
    let _ = freezing.join();
    tell(&format!("thawed {why} {}", began.elapsed().as_millis()));
    Ok(())
}

/// Until the file systems are to be thawed. Why.
fn wait(happened: &Receiver<Event>, until: Instant) -> &'static str {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match happened.recv_timeout(left) {
            Ok(Event::Tried(line)) => tell(&line),
            Ok(Event::Held) => tell("held"),
            Ok(Event::Line(_)) => return "told",
            Ok(Event::Gone) | Err(RecvTimeoutError::Disconnected) => return "gone",
            Err(RecvTimeoutError::Timeout) => return "limit",
        }
    }
}

/// What ends a service or a terminal's programs must not end the guard before the run: it ends by
/// itself after that.
fn outlive() -> io::Result<()> {
    for one in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGPIPE,
    ] {
        // SAFETY: no handler runs: the signal is ignored.
        unsafe { signal(one, SigHandler::SigIgn) }?;
    }
    // It fails for the leader of a group, which is apart already.
    let _ = rustix::process::setsid();
    // The run leaves the processor to others; this one may not, with all of them waiting for it.
    let _ = rustix::process::setpriority_process(None, -10);
    Ok(())
}

fn listen(events: Sender<Event>) -> io::Result<()> {
    let listener = move || {
        let mut input = io::stdin().lock();
        let mut line = String::new();
        while input.read_line(&mut line).is_ok_and(|length| length > 0) {
            if events.send(Event::Line(line.trim_end().into())).is_err() {
                return;
            }
            line.clear();
        }
        let _ = events.send(Event::Gone);
    };
    std::thread::Builder::new()
        .stack_size(STACK)
        .spawn(listener)
        .map(|_| ())
}

/// A run that is gone hears nothing.
fn tell(line: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(line.as_bytes());
    let _ = out.write_all(b"\n");
    let _ = out.flush();
}

/// File systems and which of them are frozen.
struct Held {
    files: Vec<Result<File, String>>,
    /// Numbers of those that this process froze.
    frozen: Mutex<Vec<usize>>,
    over: AtomicBool,
}

impl Held {
    fn new(files: Vec<Result<File, String>>) -> Self {
        Self {
            frozen: Mutex::new(Vec::with_capacity(files.len())),
            files,
            over: AtomicBool::new(false),
        }
    }

    fn freeze(&self, events: &Sender<Event>) {
        for (at, file) in self.files.iter().enumerate() {
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            let told = match file {
                Ok(file) => match freeze(file) {
                    Ok(Freeze::Frozen) => {
                        let mut frozen = self.frozen.lock().unwrap_or_else(PoisonError::into_inner);
                        // Whoever thaws sets it under the lock: either he finds this one, or
                        // it is thawed here.
                        if self.over.load(Ordering::SeqCst) {
                            let _ = thaw(file);
                            return;
                        }
                        frozen.push(at);
                        "frozen".into()
                    }
                    Ok(Freeze::ByAnother) => "another".into(),
                    Ok(Freeze::Unsupported) => "unsupported".into(),
                    Err(error) => format!("failed {error}"),
                },
                Err(error) => format!("failed {error}"),
            };
            let _ = events.send(Event::Tried(told));
        }
        let _ = events.send(Event::Held);
    }

    /// Those that hold files of others first, so that these can write.
    fn thaw(&self) {
        let mut frozen = self.frozen.lock().unwrap_or_else(PoisonError::into_inner);
        self.over.store(true, Ordering::SeqCst);
        while let Some(at) = frozen.pop() {
            if let Ok(file) = &self.files[at] {
                // What is not frozen any more was thawed by somebody else.
                let _ = thaw(file);
            }
        }
    }
}
