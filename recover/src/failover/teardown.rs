//! The end of a run: every process, device and socket that its record names, and those that a
//! killed command did not come to write down.

use std::time::{Duration, Instant};

use super::cables;
use super::control;
use super::process::{ProcessId, strays};
use super::record::{RunDir, RunRecord, RunState};
use crate::failure::Failure;

/// A disk server has to make everything durable before it ends.
const FLUSH_PATIENCE: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(10);
/// Time between two presses of the power button.
const PRESS_AGAIN: Duration = Duration::from_secs(5);
const SHORT_PAUSE: Duration = Duration::from_millis(500);
/// How long a guest may take to listen to its power button at all.
const LISTEN_PATIENCE: Duration = Duration::from_secs(5);

/// How a virtual machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By its power button; the plug is pulled when it takes longer than this.
    PowerButton(Duration),
    /// The plug is pulled.
    AtOnce,
}

/// Ends everything of a run. Returns what could not be ended or removed, in words. Files other
/// than sockets stay.
pub fn teardown(run: &RunDir, record: &RunRecord, ending: Ending) -> Vec<String> {
    let mut left = Vec::new();
    if let Some(machine) = record.machine
        && machine.is_alive()
        && !end_machine(run, machine, ending)
    {
        left.push(format!("the virtual machine, process {}", machine.pid));
    }
    for published in &record.published {
        if !published.process.end(SHORT) {
            left.push(format!("a forwarder, process {}", published.process.pid));
        }
    }
    if let Some(server) = record.disk_server
        && !server.end(FLUSH_PATIENCE)
    {
        left.push(format!("the disk server, process {}", server.pid));
    }
    left.extend(end_strays(run));
    left.extend(cables::remove(&record.network));
    remove_sockets(run);
    left
}

/// Ends programs of ours that work in the run's directory without being in its record.
pub fn end_strays(run: &RunDir) -> Vec<String> {
    let mut left = Vec::new();
    for stray in strays(run.path()) {
        tracing::info!(pid = stray.pid, "ending a process of the run");
        if !stray.end(SHORT) {
            left.push(format!("process {}", stray.pid));
        }
    }
    left
}

fn end_machine(run: &RunDir, machine: ProcessId, ending: Ending) -> bool {
    let control = run.control();
    if let Ending::PowerButton(patience) = ending
        && press_until_gone(&control, machine, patience)
    {
        return true;
    }
    if control::command(&control, "stop").is_ok() && machine.wait_gone(SHORT) {
        return true;
    }
    machine.end(SHORT)
}

/// Presses the power button, again and again: a guest that is still starting up forgets the
/// first press. False when it has not shut down in the end.
fn press_until_gone(control: &std::path::Path, machine: ProcessId, patience: Duration) -> bool {
    let began = Instant::now();
    loop {
        let elapsed = began.elapsed();
        let pressed = control::command(control, "power-button");
        if let Err(error) = &pressed
            && elapsed >= LISTEN_PATIENCE.min(patience)
        {
            tracing::warn!(error, "the power button could not be pressed");
            return machine.wait_gone(Duration::ZERO);
        }
        let again = if pressed.is_ok() {
            PRESS_AGAIN
        } else {
            SHORT_PAUSE
        };
        if machine.wait_gone(again.min(patience.saturating_sub(elapsed))) {
            return true;
        }
        if began.elapsed() >= patience {
            tracing::warn!("the guest did not shut down in time and is switched off");
            return false;
        }
    }
}

fn remove_sockets(run: &RunDir) {
    for entry in std::fs::read_dir(run.path())
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "sock")
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Writes down that a run is over. What a start that never succeeded wrote is removed.
pub fn close_record(run: &RunDir, mut record: RunRecord) -> Result<(), Failure> {
    let worthless = record.state == RunState::Starting && !record.resumed;
    if worthless {
        let overlays = run.path().join("overlays");
        match std::fs::remove_dir_all(&overlays) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::io(&overlays, &e));
            }
            _ => {}
        }
    }
    record.state = RunState::Stopped;
    record.machine = None;
    record.disk_server = None;
    record.published.clear();
    record.network = Default::default();
    run.write(&record)
}

/// The failure to end something.
pub fn left_behind(name: &str, left: &[String]) -> Failure {
    Failure::new(
        format!("of {name} there is left: {}", left.join("; ")),
        "run 'relevo-recover stop' again as root; see the kernel's log (dmesg) if it stays",
    )
}
