//! The status in one screen.

use std::fmt;

use indicatif::HumanBytes;
use relevo_wire::policy::BackupPolicy;

use super::history::{Attempt, Outcome};
use super::status::{BackOff, DiskStanding, Newest, Status};

/// A length of time in its largest fitting unit.
pub(super) fn length(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &str| {
            // What a vault or a disk says must not command the terminal.
            let value: String = value.chars().filter(|c| !c.is_control()).collect();
            writeln!(f, "{name:<10} {value}")
        };
        line(
            "server",
            &format!("{} ({}), vault {}", self.name, self.server, self.vault),
        )?;
        line("standing", if self.fine { "fine" } else { "WRONG" })?;
        for trouble in &self.wrong {
            line("  wrong", &trouble.what)?;
            line("  remedy", &trouble.remedy)?;
        }
        match &self.newest {
            Some(newest) => {
                line("newest", &newest_line(newest))?;
                line("", &figures(newest))?;
            }
            None => line("newest", "none")?,
        }
        for disk in &self.disks {
            line("disk", &disk_line(disk))?;
        }
        if let Some(last) = &self.last_run {
            line("last run", &run_line(last))?;
        }
        line("next run", &self.next_line())?;
        if let Some(paused) = &self.paused {
            let until = match paused.until {
                Some(until) => format!("until {until}"),
                None => "until 'relevo-agent resume'".into(),
            };
            line("paused", &format!("since {} {until}", paused.since))?;
        }
        let daemon = match self.daemon {
            Some(pid) => format!("runs (process {pid})"),
            None => "does not run".into(),
        };
        line("daemon", &daemon)?;
        let told = match self.policy.told {
            Some(told) => format!("as the vault said {told}"),
            None => "default, the vault has said nothing".into(),
        };
        line("policy", &told)?;
        for part in policy_lines(&self.policy.policy) {
            line("", &part)?;
        }
        if self.back_off == BackOff::BeforeRuns {
            line(
                "back-off",
                "before runs; during runs only as a service with cgroup v2",
            )?;
        }
        for note in &self.notes {
            line("note", note)?;
        }
        Ok(())
    }
}

impl Status {
    fn next_line(&self) -> String {
        match (self.running, &self.held_back, self.next) {
            (Some(since), _, _) => format!("under way since {since}"),
            (None, Some(why), _) => format!("due, and waits: {why}"),
            (None, None, Some(next)) => format!("{next} ({})", self.next_why),
            (None, None, None) => format!("none: {}", self.next_why),
        }
    }
}

fn newest_line(newest: &Newest) -> String {
    let consistency = newest.report["consistency"].as_str().unwrap_or("unknown");
    let (taken, point) = (newest.taken, newest.point);
    format!(
        "{taken}, {}; {consistency}, point {point}",
        newest.in_words()
    )
}

/// The run's figures, by the names that 'backup --json' has.
fn figures(newest: &Newest) -> String {
    let bytes = |name: &str| HumanBytes(newest.report[name].as_u64().unwrap_or(0)).to_string();
    format!(
        "read {}, changed {}, sent {}, stored {} in {} s",
        bytes("read_bytes"),
        bytes("changed_bytes"),
        bytes("sent_bytes"),
        bytes("stored_bytes"),
        newest.took_ms / 1000,
    )
}

fn disk_line(disk: &DiskStanding) -> String {
    let tracking = match &disk.tracking {
        None => "cannot be opened now".into(),
        Some(standing) => match &standing.doubt {
            Some(doubt) => format!("all is read next time: {doubt}"),
            None => format!("tracked, {} to read", HumanBytes(standing.marked_bytes)),
        },
    };
    let (name, path, size) = (&disk.name, disk.path.display(), HumanBytes(disk.size));
    format!("{name} ({path}), {size}: {tracking}")
}

fn run_line(last: &Attempt) -> String {
    let who = if last.retry.is_some() {
        "by the daemon"
    } else {
        "by hand"
    };
    let came = match &last.outcome {
        Outcome::Done => "made a recovery point",
        Outcome::Interrupted => "was asked to end",
        Outcome::Failed { .. } => "failed",
    };
    format!("{} {came}, {who}", last.started.wall)
}

/// The policy in a few lines.
pub(crate) fn policy_lines(policy: &BackupPolicy) -> Vec<String> {
    fn texts<T: fmt::Display>(items: &[T]) -> String {
        let texts: Vec<String> = items.iter().map(T::to_string).collect();
        texts.join("; ")
    }
    let mut when = Vec::new();
    if let Some(rpo) = policy.rpo {
        when.push(format!("rpo {}", length(rpo)));
    }
    if !policy.calendar.is_empty() {
        when.push(format!("calendar {}", texts(&policy.calendar)));
    }
    if !policy.window.is_empty() {
        when.push(format!("window {}", texts(&policy.window)));
    }
    if let Some(zone) = &policy.time_zone {
        when.push(format!("time zone {zone}"));
    }
    let retries = (
        policy.retries,
        length(policy.retry_after),
        length(policy.spread),
    );
    when.push(format!(
        "{} retries after {}, spread {}",
        retries.0, retries.1, retries.2
    ));
    let mut how = Vec::new();
    if !policy.line.is_empty() {
        how.push(format!("line {}", texts(&policy.line)));
    }
    if let Some(rate) = policy.read_rate {
        how.push(format!("read rate {}/s", HumanBytes(rate)));
    }
    if let Some(cpu) = policy.cpu {
        how.push(format!("cpu {cpu}"));
    }
    let pressure = policy.pressure;
    let limits = [
        ("io", pressure.io),
        ("cpu", pressure.cpu),
        ("memory", pressure.memory),
    ];
    let limits = limits.iter().filter(|(_, most)| *most > 0);
    let limits: Vec<String> = limits
        .map(|(kind, most)| format!("{kind} {most}%"))
        .collect();
    if !limits.is_empty() {
        how.push(format!("backs off from {}", limits.join(", ")));
    }
    [when, how]
        .iter()
        .filter(|p| !p.is_empty())
        .map(|p| p.join(", "))
        .collect()
}
