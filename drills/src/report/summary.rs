//! The closing words on the terminal.

use std::fmt::Write;
use std::time::Duration;

use super::{CheckStatus, Objective, Report, Verdict};
use crate::plan::in_words;

/// A few lines: verdict, objectives, checks.
pub fn summary(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail, here and below.
    let verdict = match report.verdict {
        Verdict::Passed => "PASSED",
        Verdict::Failed => "FAILED",
        Verdict::Interrupted => "INTERRUPTED",
    };
    let _ = writeln!(out, "drill {}: {verdict}", printable(&report.name));
    if let Some(reason) = &report.reason {
        let _ = writeln!(out, "  because  {}", printable(reason));
    }
    for server in &report.servers {
        let point = match &server.point {
            Some(point) => format!(
                "recovery point {}{}",
                point.id.chars().take(8).collect::<String>(),
                point.taken.map(|t| format!(" of {t}")).unwrap_or_default()
            ),
            None => "not started".into(),
        };
        let _ = writeln!(out, "  server   {}, {point}", printable(&server.server));
        for check in &server.checks {
            let status = match check.status {
                CheckStatus::Held => "held",
                CheckStatus::Failed => "FAILED",
                CheckStatus::NotRun => "not run",
            };
            let detail = check
                .reason
                .as_deref()
                .or(check.evidence.as_ref().map(|e| e.summary.as_str()));
            let detail = detail
                .map(|d| format!(": {}", printable(d)))
                .unwrap_or_default();
            let _ = writeln!(
                out,
                "  check    {status}  {}{detail}",
                printable(&check.name)
            );
        }
        if server.steps.is_empty() {
            continue;
        }
        let steps: Vec<_> = server
            .steps
            .iter()
            .map(|s| {
                format!(
                    "{} {}",
                    printable(&s.name),
                    in_words(Duration::from_millis(s.duration_ms))
                )
            })
            .collect();
        let _ = writeln!(out, "  steps    {}", steps.join(", "));
    }
    let _ = writeln!(out, "  RPO      {}", objective(&report.objectives.rpo));
    let _ = writeln!(out, "  RTO      {}", objective(&report.objectives.rto));
    for left in &report.teardown.left_behind {
        let _ = writeln!(out, "  left     {}", printable(left));
    }
    if let (Some(remedy), true) = (&report.remedy, report.verdict != Verdict::Passed) {
        let _ = writeln!(out, "  remedy   {}", printable(remedy));
    }
    out
}

fn objective(objective: &Objective) -> String {
    let words = |ms| in_words(Duration::from_millis(ms));
    let measured = objective.measured_ms.map_or("not measured".into(), words);
    match (objective.objective_ms, objective.met) {
        (Some(limit), Some(true)) => format!("{measured} (objective {}: met)", words(limit)),
        (Some(limit), Some(false)) => format!("{measured} (objective {}: MISSED)", words(limit)),
        _ => measured,
    }
}

/// Without what could steer a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
