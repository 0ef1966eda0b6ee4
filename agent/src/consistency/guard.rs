//! The run's side of the guard: see [`watch`](super::watch).
//!
//! Each stands in for the other. The guard thaws when the run is gone or stopped; the run when the
//! guard is gone or does not answer.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::freeze::thaw;
use super::mounts::FileSystem;
use super::watch::Order;

/// The command of the guard; nobody types it.
pub const COMMAND: &str = "hold-frozen";

/// How long the guard may take to answer what takes no time.
const ANSWER: Duration = Duration::from_secs(5);

/// How one file system stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stand {
    /// Frozen, by us or somebody else.
    Frozen,
    /// Of a kind that cannot be frozen.
    Unsupported,
    /// It could not be, for this reason.
    Failed(String),
}

/// Why what was frozen is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thawed {
    /// The run was done.
    Told,
    /// The limit was over.
    Limit,
    /// The guard was gone, or did not answer.
    GuardLost,
}

/// A guard process that holds file systems.
pub struct Guard {
    child: Child,
    orders: ChildStdin,
    lines: Receiver<String>,
    /// Opened here too, for when the guard is gone.
    files: Arc<Files>,
    began: Instant,
    limit: Duration,
    /// What the guard said last, if it was that all is thawed.
    thawed: Option<(Thawed, Duration)>,
}

impl Guard {
    /// Starts a guard (`program` with the [`COMMAND`]) over these file systems, which it will hold
    /// for `limit` at most. Nothing is frozen yet.
    pub fn start(
        program: &Path,
        file_systems: &[FileSystem],
        limit: Duration,
    ) -> Result<Self, String> {
        let failed = |e: io::Error| format!("the guard of frozen file systems: {e}");
        let mut child = Command::new(program)
            .arg(COMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (mut orders, told) = pipes.ok_or("the guard of frozen file systems has no pipes")?;
        let order = Order {
            limit_ms: limit.as_millis() as u64,
            file_systems: file_systems.to_vec(),
        };
        let mut line = serde_json::to_vec(&order).map_err(|e| e.to_string())?;
        line.push(b'\n');
        orders.write_all(&line).map_err(failed)?;
        let files = file_systems.iter().filter_map(|one| one.open().ok());
        let files = Arc::new(Files {
            files: files.collect(),
            ordered: AtomicBool::new(false),
        });
        let (heard, lines) = channel();
        let own = files.clone();
        std::thread::spawn(move || {
            let mut thawed = false;
            for line in BufReader::new(told).lines().map_while(Result::ok) {
                thawed |= line.starts_with("thawed ");
                // Whoever does not listen any more knows.
                let _ = heard.send(line);
            }
            if !thawed {
                own.thaw();
            }
        });
        let guard = Self {
            child,
            orders,
            lines,
            files,
            began: Instant::now(),
            limit,
            thawed: None,
        };
        match guard.lines.recv_timeout(ANSWER) {
            Ok(line) if line == "ready" => Ok(guard),
            _ => Err("the guard of frozen file systems did not start".into()),
        }
    }

    /// Freezes them. Says of each in order how it stands; fewer when the limit was over before
    /// the last.
    pub fn freeze(&mut self) -> Vec<Stand> {
        self.began = Instant::now();
        let mut stands = Vec::new();
        self.files.ordered.store(true, Ordering::SeqCst);
        if self.orders.write_all(b"freeze\n").is_err() {
            return stands;
        }
        loop {
            match self.lines.recv_timeout(self.left() + ANSWER) {
                Ok(line) if line == "held" => return stands,
                Ok(line) => match line.split_once(' ') {
                    Some(("failed", why)) => stands.push(Stand::Failed(why.into())),
                    Some(("thawed", _)) => {
                        self.note(&line);
                        return stands;
                    }
                    _ if line == "unsupported" => stands.push(Stand::Unsupported),
                    _ => stands.push(Stand::Frozen),
                },
                Err(_) => {
                    self.lost();
                    return stands;
                }
            }
        }
    }

    /// The guard's process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// How long they will be held yet.
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.began.elapsed())
    }

    /// Thaws them. Says why they were thawed, if they were before, and how long they were frozen.
    pub fn thaw(mut self) -> (Thawed, Duration) {
        // A guard that is gone says so by its lines.
        let _ = self.orders.write_all(b"thaw\n");
        while self.thawed.is_none() {
            match self.lines.recv_timeout(ANSWER) {
                Ok(line) => self.note(&line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => self.lost(),
            }
        }
        self.thawed
            .unwrap_or((Thawed::GuardLost, self.began.elapsed()))
    }

    fn note(&mut self, line: &str) {
        let mut words = line.split(' ');
        if words.next() != Some("thawed") {
            return;
        }
        let why = match words.next() {
            Some("told") => Thawed::Told,
            _ => Thawed::Limit,
        };
        let took = words.next().and_then(|ms| ms.parse().ok());
        let took = took.map_or(self.began.elapsed(), Duration::from_millis);
        self.thawed = Some((why, took));
    }

    fn lost(&mut self) {
        if self.thawed.is_none() {
            self.end();
            self.thawed = Some((Thawed::GuardLost, self.began.elapsed()));
        }
    }

    /// Ends the guard and thaws what it held.
    fn end(&mut self) {
        self.files.thaw();
        let _ = self.child.kill();
        let _ = self.child.wait();
        // It may have been in the middle of freezing another one.
        self.files.thaw();
    }
}

impl Drop for Guard {
    /// A run that fails thaws too, and leaves no guard behind.
    fn drop(&mut self) {
        match self.thawed {
            None => self.end(),
            // It ends by itself.
            Some(_) => drop(self.child.wait()),
        }
    }
}

/// What the guard was to freeze.
struct Files {
    /// In the order of freezing.
    files: Vec<File>,
    /// Whether it was told to.
    ordered: AtomicBool,
}

impl Files {
    /// Those that hold files of others first, as they were frozen last.
    fn thaw(&self) {
        if !self.ordered.load(Ordering::SeqCst) {
            return;
        }
        for file in self.files.iter().rev() {
            // What is not frozen need not be thawed; what cannot be, 'relevo-agent thaw' names.
            let _ = thaw(file);
        }
    }
}
