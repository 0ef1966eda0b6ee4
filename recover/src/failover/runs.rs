//! The runs of a site: how they are, and their end by command.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::control;
use super::record::{RunDir, RunRecord, RunState};
use super::teardown::{self, Ending};
use crate::failure::Failure;

/// How a run is.
#[derive(Debug, Serialize)]
pub struct RunStatus {
    /// What was written down.
    #[serde(flatten)]
    pub record: RunRecord,
    /// Bytes that the server wrote, in its overlays.
    pub written_bytes: u64,
    /// The console's file.
    pub console: std::path::PathBuf,
    /// What was found amiss and cleaned up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What the virtual machine says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_status: Option<serde_json::Value>,
}

/// The runs of a site, after cleaning up whatever was killed. `wanted` is a name or id.
pub fn status(state: &Path, wanted: Option<&str>) -> Result<Vec<RunStatus>, Failure> {
    let mut found = Vec::new();
    for run in RunDir::all(state)? {
        let Some(record) = run.read()? else {
            // Killed before the record was there, or a start that got nowhere.
            if run.lock().is_ok() {
                teardown::end_strays(&run);
            }
            continue;
        };
        if wanted.is_none_or(|wanted| is_meant(&run, &record, wanted)) {
            found.push(look_at(&run, record)?);
        }
    }
    if let Some(wanted) = wanted
        && found.is_empty()
    {
        return Err(unknown(wanted));
    }
    Ok(found)
}

fn is_meant(run: &RunDir, record: &RunRecord, wanted: &str) -> bool {
    record.name == wanted
        || record.server.to_string() == wanted
        || run.path().file_name().is_some_and(|name| name == wanted)
}

fn unknown(wanted: &str) -> Failure {
    Failure::new(
        format!("{wanted} does not run here"),
        "see 'relevo-recover status' for what does; start it with 'relevo-recover failover'",
    )
}

fn look_at(run: &RunDir, mut record: RunRecord) -> Result<RunStatus, Failure> {
    let mut note = None;
    // While another command starts or stops it, that one answers for it.
    if record.state != RunState::Stopped
        && let Ok(_lock) = run.lock()
    {
        // It may have been changed before we had the lock.
        record = run.read()?.unwrap_or(record);
        note = clean_up(run, &mut record)?;
    }
    let machine_status = match record.state {
        RunState::Running => control::command(&run.control(), "status").ok(),
        _ => None,
    };
    Ok(RunStatus {
        written_bytes: run.written(),
        console: run.console(),
        record,
        note,
        machine_status,
    })
}

/// Ends what is left of a run whose parts are not all alive.
fn clean_up(run: &RunDir, record: &mut RunRecord) -> Result<Option<String>, Failure> {
    let alive = |process: Option<super::process::ProcessId>| process.is_some_and(|p| p.is_alive());
    let note = match record.state {
        RunState::Stopped => return Ok(None),
        RunState::Starting => "the failover was killed before the server ran",
        RunState::Running if !alive(record.machine) => "its virtual machine has ended",
        RunState::Running if !alive(record.disk_server) => {
            "the process that served its disks was killed"
        }
        RunState::Running => return Ok(None),
    };
    let left = teardown::teardown(run, record, Ending::AtOnce);
    if !left.is_empty() {
        return Err(teardown::left_behind(&record.name, &left));
    }
    teardown::close_record(run, record.clone())?;
    *record = run.read()?.unwrap_or_else(|| record.clone());
    Ok(Some(format!("{note}; what was left of it was removed")))
}

/// What a stop did.
#[derive(Debug, Serialize)]
pub struct Stopped {
    /// The server's name.
    pub name: String,
    /// Bytes that it wrote.
    pub written_bytes: u64,
    /// Whether they are kept.
    pub kept: bool,
}

/// Stops a server: power button, then the plug after `patience`.
pub fn stop(
    state: &Path,
    wanted: &str,
    patience: Duration,
    discard: bool,
) -> Result<Stopped, Failure> {
    let mut stopped = None;
    for run in RunDir::all(state)? {
        let record = run.read()?;
        let is_meant = match &record {
            Some(record) => is_meant(&run, record, wanted),
            None => run.path().file_name().is_some_and(|name| name == wanted),
        };
        if is_meant {
            stopped = Some(stop_one(&run, wanted, patience, discard)?);
        }
    }
    stopped.ok_or_else(|| unknown(wanted))
}

fn stop_one(
    run: &RunDir,
    wanted: &str,
    patience: Duration,
    discard: bool,
) -> Result<Stopped, Failure> {
    let _lock = run.lock()?;
    let record = run.read()?;
    let name = record
        .as_ref()
        .map_or(wanted, |r| r.name.as_str())
        .to_string();
    let left = match &record {
        Some(record) => {
            let served = record.state == RunState::Running;
            let ending = if served {
                Ending::PowerButton(patience)
            } else {
                Ending::AtOnce
            };
            teardown::teardown(run, record, ending)
        }
        None => teardown::end_strays(run),
    };
    if !left.is_empty() {
        return Err(teardown::left_behind(&name, &left));
    }
    let written_bytes = run.written();
    if discard || record.is_none() {
        run.remove()?;
    } else if let Some(record) = record {
        teardown::close_record(run, record)?;
    }
    Ok(Stopped {
        name,
        written_bytes,
        kept: !discard && run.written() > 0,
    })
}
