//! `report.html`: one page that needs nothing else, for a person who was not there.

use std::time::Duration;

use super::markup::Markup;
use super::{CheckReport, CheckStatus, Objective, Report, ServerReport, Verdict};
use crate::evidence::Evidence;
use crate::plan::in_words;

/// The page.
pub fn page(report: &Report) -> String {
    let mut m = Markup::default();
    head(&mut m, report);
    m.raw("<main>\n");
    verdict(&mut m, report);
    figures(&mut m, report);
    timeline(&mut m, report);
    for server in &report.servers {
        server_section(&mut m, server);
    }
    circumstances(&mut m, report);
    m.raw("</main>\n</body>\n</html>\n");
    m.finish()
}

fn words(ms: u64) -> String {
    in_words(Duration::from_millis(ms))
}

fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "failed",
        Verdict::Interrupted => "interrupted",
    }
}

fn head(m: &mut Markup, report: &Report) {
    m.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
        // Whatever a guest's text might become, the browser runs and fetches nothing.
        .raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n")
        .raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")
        .raw("<meta name=\"color-scheme\" content=\"light dark\">\n<title>Drill ")
        .text(&report.name)
        .raw(": ")
        .raw(verdict_word(report.verdict))
        .raw("</title>\n<style>\n")
        .raw(include_str!("style.css"))
        .raw("</style>\n</head>\n<body>\n");
}

fn verdict(m: &mut Markup, report: &Report) {
    let (open, sign) = match report.verdict {
        Verdict::Passed => ("<header class=\"verdict passed\">\n", "\u{2713} Passed"),
        Verdict::Failed => ("<header class=\"verdict failed\">\n", "\u{2717} Failed"),
        Verdict::Interrupted => ("<header class=\"verdict interrupted\">\n", "! Interrupted"),
    };
    m.raw(open)
        .element(
            "<p class=\"kind\">Recovery drill</p>\n<h1>",
            &report.name,
            "</h1>\n",
        )
        .raw("<p class=\"sign\">")
        .raw(sign)
        .raw("</p>\n");
    if let Some(reason) = &report.reason {
        m.element("<p class=\"reason\">", reason, "</p>\n");
    }
    if let Some(remedy) = &report.remedy {
        m.element(
            "<p class=\"remedy\"><strong>What to do:</strong> ",
            remedy,
            "</p>\n",
        );
    }
    if let Some(description) = &report.description {
        m.element("<p>", description, "</p>\n");
    }
    m.raw("</header>\n");
}

fn figures(m: &mut Markup, report: &Report) {
    m.raw("<section aria-labelledby=\"figures\">\n<h2 id=\"figures\">At a glance</h2>\n<dl class=\"figures\">\n");
    let names: Vec<_> = report.servers.iter().map(|s| s.server.as_str()).collect();
    let servers = if names.len() == 1 {
        "Server"
    } else {
        "Servers"
    };
    figure(
        m,
        servers,
        &names.join(", "),
        report.servers.first().and_then(|s| s.os.as_deref()),
        None,
    );
    let oldest = report
        .servers
        .iter()
        .filter_map(|s| s.point.as_ref())
        .max_by_key(|point| point.age_ms);
    if let Some(point) = oldest {
        let id: String = point.id.chars().take(8).collect();
        let note = match point.taken {
            Some(taken) => format!("{id}, taken {taken}"),
            None => id,
        };
        let age = point
            .age_ms
            .map_or("age unknown".into(), |ms| format!("{} old", words(ms)));
        figure(m, "Recovery point", &age, Some(&note), None);
    }
    objective(
        m,
        "RPO",
        "data that a loss would have cost",
        &report.objectives.rpo,
    );
    objective(
        m,
        "RTO",
        "from the loss to a working server",
        &report.objectives.rto,
    );
    m.raw("</dl>\n</section>\n");
}

fn objective(m: &mut Markup, name: &'static str, meaning: &'static str, objective: &Objective) {
    let value = objective.measured_ms.map_or("not reached".into(), words);
    let note = match (objective.objective_ms, objective.met) {
        (Some(limit), Some(true)) => format!("objective {}: met", words(limit)),
        (Some(limit), Some(false)) => format!("objective {}: missed", words(limit)),
        (Some(limit), None) => format!("objective {}: not judged", words(limit)),
        (None, _) => format!("{meaning}; no objective set"),
    };
    figure(m, name, &value, Some(&note), objective.met);
}

fn figure(m: &mut Markup, name: &'static str, value: &str, note: Option<&str>, met: Option<bool>) {
    m.raw(match met {
        Some(true) => "<div class=\"met\">",
        Some(false) => "<div class=\"missed\">",
        None => "<div>",
    });
    m.raw("<dt>").raw(name).element("</dt><dd>", value, "</dd>");
    if let Some(note) = note {
        m.element("<dd class=\"note\">", note, "</dd>");
    }
    m.raw("</div>\n");
}

fn timeline(m: &mut Markup, report: &Report) {
    let end = report
        .servers
        .iter()
        .flat_map(|s| &s.steps)
        .map(|s| s.started_ms.saturating_add(s.duration_ms))
        .max()
        .unwrap_or(0);
    if end == 0 {
        return;
    }
    let several = report.servers.len() > 1;
    m.raw("<section aria-labelledby=\"timeline\">\n<h2 id=\"timeline\">Where the time went</h2>\n")
        .raw("<div class=\"scroll\"><table class=\"timeline\">\n<thead><tr>");
    if several {
        m.raw("<th scope=\"col\">Server</th>");
    }
    m.raw("<th scope=\"col\">Step</th><th scope=\"col\" class=\"number\">Begins</th>")
        .raw("<th scope=\"col\" class=\"number\">Takes</th><th scope=\"col\" class=\"bars\">0 to ")
        .text(&words(end))
        .raw("</th></tr></thead>\n<tbody>\n");
    for server in &report.servers {
        for step in &server.steps {
            m.raw("<tr>");
            if several {
                m.element("<td>", &server.server, "</td>");
            }
            m.element("<th scope=\"row\">", &step.name, "</th>")
                .element("<td class=\"number\">", &words(step.started_ms), "</td>")
                .element("<td class=\"number\">", &words(step.duration_ms), "</td>")
                .raw("<td class=\"bars\" aria-hidden=\"true\"><div class=\"bar\" style=\"margin-left:")
                .percent(share(step.started_ms, end))
                .raw(";width:")
                .percent(share(step.duration_ms, end))
                .raw("\"></div></td></tr>\n");
        }
    }
    m.raw("</tbody>\n</table></div>\n</section>\n");
}

/// For drawing: a bar need not be exact to the millisecond.
#[allow(clippy::cast_precision_loss)]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn server_section(m: &mut Markup, server: &ServerReport) {
    m.element("<section>\n<h2>Server ", &server.server, "</h2>\n");
    if let Some(error) = &server.start_error {
        m.element(
            "<p class=\"reason\">It did not start: ",
            &error.cause,
            "</p>\n",
        )
        .element(
            "<p class=\"remedy\"><strong>What to do:</strong> ",
            &error.remedy,
            "</p>\n",
        );
    }
    checks(m, &server.checks);
    if !server.findings.is_empty() {
        m.raw("<h3>Recovery procedure: what was found and changed</h3>\n<ol class=\"findings\">\n");
        for finding in &server.findings {
            m.element("<li><strong>", &finding.step, "</strong>: ")
                .element("<span class=\"found\">", &finding.found, "</span>");
            if let Some(change) = &finding.change {
                m.element("<div class=\"change\">Changed: ", change, "</div>");
            }
            m.element("<div class=\"note\">", &finding.why, "</div></li>\n");
        }
        m.raw("</ol>\n");
    }
    machine(m, server);
    if !server.console_tail.is_empty() {
        m.raw("<h3>End of its serial console</h3>\n");
        console(m, &server.console_tail);
    }
    m.raw("</section>\n");
}

fn checks(m: &mut Markup, checks: &[CheckReport]) {
    if checks.is_empty() {
        return;
    }
    m.raw("<h3>Checks</h3>\n<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">Result</th>")
        .raw("<th scope=\"col\">Check</th><th scope=\"col\" class=\"number\">Took</th><th scope=\"col\">Evidence</th></tr></thead>\n<tbody>\n");
    for check in checks {
        m.raw("<tr><td>")
            .raw(match check.status {
                CheckStatus::Held => "<span class=\"badge held\">\u{2713} held</span>",
                CheckStatus::Failed => "<span class=\"badge lost\">\u{2717} failed</span>",
                CheckStatus::NotRun => "<span class=\"badge\">not run</span>",
            })
            .element("</td><th scope=\"row\">", &check.name, "");
        if check.name != check.expectation {
            m.element("<div class=\"note\">", &check.expectation, "</div>");
        }
        if !check.required {
            m.raw("<div class=\"note\">not required</div>");
        }
        let took = check.duration_ms.map_or(String::new(), words);
        m.element("</th><td class=\"number\">", &took, "").element(
            "<div class=\"note\">of ",
            &words(check.timeout_ms),
            "</div>",
        );
        if check.attempts > 0 {
            let tries = if check.attempts == 1 { "try" } else { "tries" };
            m.element(
                "<div class=\"note\">",
                &format!("{} {tries}", check.attempts),
                "</div>",
            );
        }
        m.raw("</td><td>");
        if let Some(reason) = &check.reason {
            m.element("<div class=\"reason\">", reason, "</div>");
        }
        if let Some(seen) = &check.evidence {
            evidence(m, seen);
        }
        m.raw("</td></tr>\n");
    }
    m.raw("</tbody>\n</table></div>\n");
}

fn evidence(m: &mut Markup, evidence: &Evidence) {
    m.element("<div>", &evidence.summary, "</div>");
    if let Some(received) = evidence.received.as_ref().filter(|r| !r.trim().is_empty()) {
        m.raw("<details><summary>What it answered</summary>")
            .element("<pre tabindex=\"0\">", received, "</pre></details>");
    }
    if !evidence.console_tail.is_empty() {
        m.raw("<details><summary>The console at that moment</summary>");
        console(m, &evidence.console_tail);
        m.raw("</details>");
    }
}

fn console(m: &mut Markup, lines: &[String]) {
    m.element(
        "<pre class=\"console\" tabindex=\"0\">",
        &lines.join("\n"),
        "</pre>\n",
    );
}

fn machine(m: &mut Markup, server: &ServerReport) {
    m.raw("<h3>Machine</h3>\n<dl class=\"facts\">\n");
    fact(m, "Server id", server.id.as_deref());
    fact(m, "Host name", server.name.as_deref());
    fact(m, "Operating system", server.os.as_deref());
    if let Some(point) = &server.point {
        fact(m, "Recovery point", Some(&point.id));
        fact(m, "Taken", point.taken.map(|t| t.to_string()).as_deref());
    }
    if let Some(machine) = &server.machine {
        fact(m, "Kernel", machine.kernel.as_deref());
        fact(m, "Command line", machine.command_line.as_deref());
        fact(
            m,
            "Memory",
            machine.memory_mib.map(|n| format!("{n} MiB")).as_deref(),
        );
        fact(
            m,
            "Virtual CPUs",
            machine.cpus.map(|n| n.to_string()).as_deref(),
        );
    }
    let addresses = server.addresses.join(", ");
    fact(
        m,
        "Addresses",
        (!addresses.is_empty()).then_some(addresses.as_str()),
    );
    m.raw("</dl>\n");
}

fn fact(m: &mut Markup, name: &'static str, value: Option<&str>) {
    if let Some(value) = value.filter(|v| !v.is_empty()) {
        m.raw("<dt>")
            .raw(name)
            .element("</dt><dd>", value, "</dd>\n");
    }
}

fn circumstances(m: &mut Markup, report: &Report) {
    m.raw("<section aria-labelledby=\"circumstances\">\n<h2 id=\"circumstances\">Circumstances</h2>\n<dl class=\"facts\">\n");
    fact(m, "Drill", Some(&report.id));
    fact(m, "Plan", Some(&report.plan_file));
    fact(m, "Started", Some(&report.started.to_string()));
    fact(
        m,
        "Finished",
        Some(&format!(
            "{} ({} in all)",
            report.finished,
            words(report.duration_ms)
        )),
    );
    let teardown = if report.teardown.clean {
        format!(
            "complete after {}; the image was only read",
            words(report.teardown.duration_ms)
        )
    } else {
        format!("left behind: {}", report.teardown.left_behind.join("; "))
    };
    fact(m, "Teardown", Some(&teardown));
    let host = &report.host;
    fact(m, "Host", Some(&host.hostname));
    fact(m, "Host kernel", Some(&host.kernel));
    fact(
        m,
        "Processor",
        Some(&format!("{} ({} CPUs)", host.cpu_model, host.cpus)),
    );
    fact(
        m,
        "Host memory",
        Some(&format!("{} MiB", host.memory_bytes >> 20)),
    );
    let virtualization = if host.hardware_virtualization {
        "in hardware (VT-x or AMD-V)"
    } else {
        "without VT-x and AMD-V: the times measured here are far above those of ordinary hosts"
    };
    fact(m, "Virtualization", Some(virtualization));
    fact(m, "relevo-drills", Some(report.versions.relevo_drills));
    m.raw("</dl>\n</section>\n");
}
