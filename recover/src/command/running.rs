//! Failover, status, stop.

use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::images::cancel_on_signals;
use super::options::{FailoverArgs, StatusArgs, StopArgs};
use super::words::{bytes, duration, print, print_json, table};
use crate::failover::record::RunState;
use crate::failover::{self, Check, FailoverRequest, RunningServer, StartTime, runs};
use crate::failure::Failure;
use crate::site::Site;

/// When the command began.
pub type Start = StartTime;

pub fn failover(state: &Path, args: &FailoverArgs, start: Start) -> Result<(), Failure> {
    let cancel = cancel_on_signals()?;
    let site = Site::open(state)?;
    let checks: Vec<Check> = [
        args.wait_console.clone().map(Check::Console),
        args.wait_tcp.map(Check::Tcp),
        args.wait_http.clone(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let request = FailoverRequest {
        point: args.point.point.clone(),
        machine: (&args.machine).into(),
        network: args.network.clone().unwrap_or_default(),
        publish: args.publish.clone(),
        checks: checks.clone(),
        resume: args.resume,
        began: start,
        ..FailoverRequest::new(&args.point.server)
    };
    let line = status_line();
    let mut report = |step: &str| {
        tracing::info!(step);
        line.set_message(step.to_string());
    };
    let mut server = failover::start(&site, &request, &cancel, &mut report)?;
    for check in &checks {
        tracing::info!("waiting until {}", check.describe());
    }
    if let Some(check) = checks.last() {
        line.set_message(format!("waiting until {}", check.describe()));
    }
    let result = server.wait_for(&checks, args.timeout, &cancel);
    line.finish_and_clear();
    result?;
    // From here on it is in use: an interruption is too late.
    let shown = if args.point.json {
        print_json(&report_json(&server, &checks))
    } else {
        print(&summary(&server, &checks))
    };
    server.detach()?;
    shown
}

fn status_line() -> ProgressBar {
    let line = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}  {elapsed}") {
        line.set_style(style);
    }
    line.enable_steady_tick(Duration::from_millis(200));
    line
}

fn report_json(server: &RunningServer, checks: &[Check]) -> serde_json::Value {
    let (record, plan) = (server.record(), server.plan());
    json!({
        "server": record.server,
        "name": record.name,
        "point": record.point,
        "taken": record.taken,
        "rpo_ms": record.rpo_ms,
        "rto_ms": record.rto_ms,
        "steps": server.steps(),
        "waited_for": checks.iter().map(Check::describe).collect::<Vec<_>>(),
        "addresses": record.addresses,
        "namespace": record.network.namespace,
        "published": record.published.iter().map(|p| p.listen.as_str()).collect::<Vec<_>>(),
        "findings": plan.findings,
        "kernel": plan.kernel,
        "command_line": plan.command_line,
        "memory_mib": plan.memory_mib,
        "cpus": plan.cpus,
        "console": server.console(),
        "run": server.directory(),
    })
}

fn summary(server: &RunningServer, checks: &[Check]) -> String {
    let (record, plan) = (server.record(), server.plan());
    let mut text = format!(
        "{plan}\n{} runs here, as of {}\n",
        record.name, record.taken
    );
    let mut rows = Vec::new();
    let mut fact = |name: &str, value: String| rows.push(vec![format!("  {name}"), value]);
    fact(
        "RPO",
        format!("{} of changes are lost", duration(server.rpo())),
    );
    let until = checks
        .last()
        .map_or("the machine runs".into(), Check::describe);
    if let Some(rto) = server.rto() {
        fact("RTO", format!("{} until {until}", duration(rto)));
    }
    let steps: Vec<String> = server
        .steps()
        .iter()
        .map(|step| format!("{} {}", step.name, duration(step.duration)))
        .collect();
    fact("steps", steps.join(", "));
    if !record.addresses.is_empty() {
        let addresses: Vec<String> = record.addresses.iter().map(ToString::to_string).collect();
        let place = match &record.network.namespace {
            Some(name) => format!(" in network namespace {name}"),
            None => String::new(),
        };
        fact("address", format!("{}{place}", addresses.join(", ")));
    }
    for published in &record.published {
        fact(
            "published",
            format!("{} leads to its port {}", published.listen, published.port),
        );
    }
    fact("console", server.console().display().to_string());
    fact("end it", format!("relevo-recover stop {}", record.name));
    text.push_str(&table(&rows));
    text
}

pub fn status(state: &Path, args: &StatusArgs) -> Result<(), Failure> {
    let found = runs::status(state, args.server.as_deref())?;
    if args.json {
        return print_json(&json!({ "runs": found }));
    }
    if found.is_empty() {
        return print("No server runs here.\n");
    }
    let mut rows = vec![
        ["SERVER", "STATE", "AS OF", "RTO", "WRITTEN", "PUBLISHED"]
            .map(String::from)
            .to_vec(),
    ];
    let mut notes = String::new();
    for run in &found {
        let record = &run.record;
        let state = match record.state {
            RunState::Starting => "starting",
            RunState::Running => "running",
            RunState::Stopped => "stopped",
        };
        let published: Vec<String> = record
            .published
            .iter()
            .map(|p| format!("{}={}", p.listen, p.port))
            .collect();
        rows.push(vec![
            record.name.clone(),
            state.into(),
            record.taken.to_string(),
            record
                .rto_ms
                .map_or("-".into(), |ms| duration(Duration::from_millis(ms))),
            bytes(run.written_bytes),
            published.join(" "),
        ]);
        if let Some(note) = &run.note {
            notes.push_str(&format!("{}: {note}\n", record.name));
        }
    }
    print(&format!("{}{notes}", table(&rows)))
}

pub fn stop(state: &Path, args: &StopArgs) -> Result<(), Failure> {
    let stopped = runs::stop(state, &args.server, args.patience, args.discard)?;
    if args.json {
        return print_json(&stopped);
    }
    let fate = if stopped.kept {
        format!(
            "the {} that it wrote are kept: 'failover --continue' runs on over them, 'stop --discard' throws them away",
            bytes(stopped.written_bytes)
        )
    } else {
        "what it wrote was thrown away".into()
    };
    print(&format!("{} is stopped; {fate}\n", stopped.name))
}
