//! Whatever befalls the run or its guard, the server goes on.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use relevo_agent::consistency::guard::{Guard, Stand, Thawed};
use relevo_agent::consistency::mounts::FileSystem;
use relevo_agent::consistency::stack::to_freeze;
use relevo_tests::binaries;
use relevo_tests::program::{Running, finish, wait_while};
use relevo_tests::suite::{Need, Suite};
use serde_json::Value;

use super::server::Server;
use super::writers::{Writers, assert_of_one_instant};

/// Tells whether the server goes on: a thread that writes all the time.
struct Pulse {
    beats: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    task: PathBuf,
}

impl Pulse {
    fn of(server: &Server) -> Self {
        let (beats, ended) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (count, end) = (beats.clone(), ended.clone());
        let path = server.path().join("pulse");
        let (told, heard) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let task = std::fs::read_link("/proc/thread-self").unwrap_or_else(|e| panic!("{e}"));
            let _ = told.send(task);
            let mut file = OpenOptions::new().create(true).append(true).open(path);
            let file = file.as_mut().unwrap_or_else(|e| panic!("{e}"));
            while !end.load(Ordering::Relaxed) {
                file.write_all(b".").unwrap_or_else(|e| panic!("{e}"));
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let task = heard.recv().unwrap_or_else(|e| panic!("{e}"));
        Self {
            beats,
            ended,
            thread: Some(thread),
            task: PathBuf::from("/proc").join(task),
        }
    }

    /// Whether it waits for a frozen file system, as the kernel says.
    fn waits(&self) -> bool {
        let place = std::fs::read_to_string(self.task.join("wchan")).unwrap_or_default();
        place.contains("percpu_rwsem_wait") || place.contains("sb_start_write")
    }

    fn await_freeze(&self) {
        let began = std::time::Instant::now();
        while !self.waits() {
            assert!(began.elapsed().as_secs() < 900, "nothing was frozen");
        }
    }

    /// Starts runs with these arguments until one has frozen the server before it ended: on a busy
    /// machine an instant may pass unseen, or not be had.
    fn await_freeze_by_run(&self, server: &Server, args: &[&str]) -> Running {
        for _ in 0..50 {
            let mut run = Running::start(server.command(args));
            while !run.has_ended() {
                if self.waits() {
                    return run;
                }
            }
        }
        panic!("no run was seen to freeze anything")
    }

    /// Waits until it has written again.
    fn goes_on(&self) {
        let beats = self.beats.load(Ordering::Relaxed);
        wait_while(|| self.beats.load(Ordering::Relaxed) < beats + 10);
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The guard process that a run started.
fn guard_of(run: u32) -> u32 {
    let mut found = None;
    wait_while(|| {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        found = entries
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .find(|pid| {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let after = stat.rsplit(')').next().unwrap_or("").trim();
                let parent = after
                    .split(' ')
                    .nth(1)
                    .and_then(|parent| parent.parse().ok());
                let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                parent == Some(run) && String::from_utf8_lossy(&command).contains("hold-frozen")
            });
        found.is_none()
    });
    found.unwrap_or_default()
}

fn signal(pid: u32, name: &str) {
    let sent = std::process::Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status();
    assert!(
        sent.is_ok_and(|status| status.success()),
        "kill -s {name} {pid}"
    );
}

/// The file system of the server, as a run would find it.
fn file_systems(server: &Server) -> Vec<FileSystem> {
    let number = std::fs::metadata(server.device()).map(|m| m.rdev());
    let number = number.unwrap_or_else(|e| panic!("{e}"));
    let number = relevo_agent::consistency::mounts::device_number(number);
    let found = to_freeze([number.as_str()]);
    assert_eq!(found.len(), 1, "{found:?}");
    found
}

/// Guards the server against a run that hangs or dies: the guard alone thaws at its limit, when
/// nobody is at the other end, when told, and is not ended by what ends a service.
fn the_guard_thaws_by_itself() {
    let server = Server::new("ext4", 64);
    let pulse = Pulse::of(&server);
    for end in ["limit", "gone", "told"] {
        let limit_ms = if end == "limit" { 300 } else { 600_000 };
        let order = serde_json::json!({
            "limit_ms": limit_ms,
            "file_systems": file_systems(&server),
        });
        let mut command = server.lab.command("relevo-agent", &["hold-frozen"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut guard = command.spawn().unwrap_or_else(|e| panic!("{e}"));
        let mut orders = guard.stdin.take().unwrap_or_else(|| panic!("no pipe"));
        let told = guard.stdout.take().unwrap_or_else(|| panic!("no pipe"));
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(told));
        let mut next = || lines.next().and_then(Result::ok).unwrap_or_default();
        writeln!(orders, "{order}").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(next(), "ready");
        writeln!(orders, "freeze").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((next(), next()), ("frozen".into(), "held".into()));
        signal(guard.id(), "TERM");
        signal(guard.id(), "INT");
        let mut orders = Some(orders);
        match end {
            "gone" => orders = None,
            "told" => {
                pulse.await_freeze();
                writeln!(orders.as_mut().unwrap_or_else(|| panic!("no pipe")), "thaw")
                    .unwrap_or_else(|e| panic!("{e}"));
            }
            _ => {}
        }
        let last = next();
        assert!(last.starts_with(&format!("thawed {end} ")), "{end}: {last}");
        pulse.goes_on();
        drop(orders);
        assert!(guard.wait().is_ok_and(|status| status.success()));
    }
}

/// Guards the server against a guard that is killed or hangs: the run thaws, and knows.
fn a_run_thaws_when_its_guard_is_lost() {
    let server = Server::new("ext4", 64);
    let pulse = Pulse::of(&server);
    let program = binaries::path("relevo-agent");
    for (name, expected) in [("KILL", Thawed::GuardLost), ("STOP", Thawed::GuardLost)] {
        let limit = Duration::from_secs(600);
        let mut guard =
            Guard::start(&program, &file_systems(&server), limit).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(guard.freeze(), [Stand::Frozen]);
        pulse.await_freeze();
        signal(guard.process(), name);
        if name == "KILL" {
            // Before anybody asks.
            pulse.goes_on();
        }
        assert_eq!(guard.thaw().0, expected, "{name}");
        pulse.goes_on();
    }
    let limit = Duration::from_secs(600);
    let mut guard =
        Guard::start(&program, &file_systems(&server), limit).unwrap_or_else(|e| panic!("{e}"));
    guard.freeze();
    pulse.await_freeze();
    // A run that panics.
    drop(guard);
    pulse.goes_on();
}

/// Guards the server against the end of a run in the very moment that everything is frozen.
fn a_run_that_is_killed_while_all_is_frozen_leaves_a_server_that_goes_on() {
    let server = Server::new("ext4", 128);
    let writers = Writers::start(server.path());
    let pulse = Pulse::of(&server);
    let run = pulse.await_freeze_by_run(&server, &[]);
    signal(run.pid(), "KILL");
    pulse.goes_on();
    drop(run);
    writers.stop();
    // What is noted of the freeze is of no harm to the next run.
    let report = server.backup(&[]);
    assert_eq!(report["consistency"], "file-system", "{report}");
    assert!(!server.lab.path("db1/frozen.json").exists());
}

/// Guards the server against a run that is stopped, and the point against what was written since:
/// the server goes on at the limit, and the run takes another instant.
fn a_run_that_is_stopped_while_all_is_frozen_holds_nobody_up() {
    let mut server = Server::new("ext4", 128);
    let writers = Writers::start(server.path());
    let pulse = Pulse::of(&server);
    let mut run = pulse.await_freeze_by_run(&server, &["--max-freeze", "5"]);
    signal(run.pid(), "STOP");
    pulse.goes_on();
    writers.let_write(20);
    writers.stop();
    signal(run.pid(), "CONT");
    let (code, said) = run.wait();
    assert_eq!(code, 0, "{said}");
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert_eq!(report["consistency"], "file-system", "{report}");
    drop(pulse);
    server.lose_and_restore();
    assert_of_one_instant(server.path());
}

/// Guards the server against the end of both: the next command of the agent thaws.
fn what_was_left_frozen_is_thawed_by_the_next_command() {
    let server = Server::new("ext4", 128);
    for by in ["thaw", "backup"] {
        let pulse = Pulse::of(&server);
        let mut run = pulse.await_freeze_by_run(&server, &["--max-freeze", "60"]);
        signal(run.pid(), "STOP");
        let guard = guard_of(run.pid());
        signal(guard, "STOP");
        signal(run.pid(), "KILL");
        // It is stopped and hears of nothing.
        signal(guard, "KILL");
        run.kill();
        wait_while(|| PathBuf::from(format!("/proc/{guard}")).exists());
        assert!(pulse.waits(), "something else thawed");
        match by {
            "thaw" => {
                let state = server.lab.text("db1");
                let args = ["thaw", "--state", &state, "--json"];
                let thaw = || finish(server.lab.command("relevo-agent", &args)).expect_json();
                assert_eq!(thaw()[0]["thawed"], true);
                pulse.goes_on();
                assert!(thaw().as_array().is_some_and(Vec::is_empty));
            }
            _ => {
                let report = server.backup(&[]);
                assert_eq!(report["consistency"], "file-system", "{report}");
                pulse.goes_on();
            }
        }
    }
}

pub fn cases(mut suite: Suite) -> Suite {
    let cases: [(&str, fn()); 5] = [
        ("the_guard_thaws_by_itself", the_guard_thaws_by_itself),
        (
            "a_run_thaws_when_its_guard_is_lost",
            a_run_thaws_when_its_guard_is_lost,
        ),
        (
            "a_run_that_is_killed_while_all_is_frozen_leaves_a_server_that_goes_on",
            a_run_that_is_killed_while_all_is_frozen_leaves_a_server_that_goes_on,
        ),
        (
            "a_run_that_is_stopped_while_all_is_frozen_holds_nobody_up",
            a_run_that_is_stopped_while_all_is_frozen_holds_nobody_up,
        ),
        (
            "what_was_left_frozen_is_thawed_by_the_next_command",
            what_was_left_frozen_is_thawed_by_the_next_command,
        ),
    ];
    for (name, case) in cases {
        suite = suite.case_with(name, &[Need::root(), Need::tracepoints()], case);
    }
    suite
}
