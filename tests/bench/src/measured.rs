//! Runs programs and says how long they took and how much memory they had.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a run cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// From its start to its end.
    pub time: Duration,
    /// Largest resident set, bytes; of several processes the sum.
    pub memory: u64,
    /// Processor time, all threads.
    pub processor: Duration,
}

impl Cost {
    /// One after the other.
    pub fn then(self, later: Self) -> Self {
        Self {
            time: self.time + later.time,
            memory: self.memory.max(later.memory),
            processor: self.processor + later.processor,
        }
    }
}

/// Runs one command to its end.
///
/// # Panics
/// When it fails, with what it said.
pub fn run(command: Command, log: &Path) -> Cost {
    run_all(vec![command], log, || {})
}

/// Runs one command that reads `input`.
///
/// # Panics
/// When it fails, with what it said.
pub fn run_reading(command: Command, input: File, log: &Path) -> Cost {
    let started = Instant::now();
    finish(vec![start(command, input.into(), log)], started, log, || {})
}

/// Runs commands side by side to the end of all, then `last`; the time includes it.
pub fn run_all(commands: Vec<Command>, log: &Path, last: impl FnOnce()) -> Cost {
    let started = Instant::now();
    let commands = commands.into_iter();
    let running = commands.map(|command| start(command, Stdio::null(), log));
    finish(running.collect(), started, log, last)
}

fn finish(
    running: Vec<(String, Child)>,
    started: Instant,
    log: &Path,
    last: impl FnOnce(),
) -> Cost {
    let mut cost = Cost::default();
    for (command, child) in running {
        let (status, usage) = wait(&child);
        let said = || std::fs::read_to_string(log).unwrap_or_default();
        assert!(status == 0, "{command}: status {status:#x}\n{}", said());
        cost.memory += usage.ru_maxrss as u64 * 1024;
        for spent in [usage.ru_utime, usage.ru_stime] {
            cost.processor += Duration::from_secs(spent.tv_sec as u64)
                + Duration::from_micros(spent.tv_usec as u64);
        }
    }
    last();
    cost.time = started.elapsed();
    cost
}

fn start(mut command: Command, input: Stdio, log: &Path) -> (String, Child) {
    let open = || {
        let file = File::options().append(true).create(true).open(log);
        file.unwrap_or_else(|e| panic!("{}: {e}", log.display()))
    };
    let text = format!("{command:?}");
    command.stdin(input).stdout(open()).stderr(open());
    let child = command.spawn().unwrap_or_else(|e| panic!("{text}: {e}"));
    (text, child)
}

/// The only wait that tells the memory of one child.
fn wait(child: &Child) -> (i32, libc::rusage) {
    let mut status = 0;
    // SAFETY: all fields of rusage are integers, for which zeros are values.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let pid = child.id() as libc::pid_t;
    loop {
        // SAFETY: both pointers are to locals that live through the call; the child is ours and
        // nobody else waits for it.
        let done = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
        if done == pid {
            return (status, usage);
        }
        let error = std::io::Error::last_os_error();
        assert!(
            error.kind() == std::io::ErrorKind::Interrupted,
            "waiting for process {pid}: {error}"
        );
    }
}

/// The largest resident set of a process that runs on, since the last call.
pub fn peak_since(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or_else(|| panic!("process {pid} has ended"));
    // 5 sets the peak back to what is resident now (proc(5)).
    let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
    peak * 1024
}

/// Processor time that a running process has had so far.
pub fn processor_of(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    // utime and stime, in hundredths of a second; the state, a letter, fell out.
    let ticks = fields.get(10).zip(fields.get(11)).map_or(0, |(u, s)| u + s);
    Duration::from_millis(ticks * 10)
}

/// Lengths of all files below a directory.
pub fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Brings a file to stable storage.
pub fn sync(file: &Path) {
    let synced = File::open(file).and_then(|file| file.sync_all());
    synced.unwrap_or_else(|e| panic!("{}: {e}", file.display()));
}
