//! One server of a drill: its checks in turn, and what was measured.

use std::time::Instant;

use super::{Drill, Shortfall};
use crate::evidence::{self, Outcome, Target, Verdict as CheckVerdict};
use crate::plan::{Check, ServerPlan, in_words};
use crate::rehearsal::{RunningServer, ServerFacts};
use crate::report::{
    CheckReport, CheckStatus, FailedCheck, MachineReport, PointReport, ServerReport, Step, millis,
};

/// So many last console lines stand in the report of each server.
const CONSOLE_TAIL: usize = 60;

impl Drill<'_> {
    /// Waits for the evidence of one server.
    pub(super) fn check(
        &mut self,
        plan: &ServerPlan,
        machine: &mut impl RunningServer,
        start: Instant,
    ) {
        let facts = machine.facts().clone();
        let machine_started = Instant::now();
        let target = Target {
            namespace: facts.namespace.clone(),
            addresses: facts.addresses.clone(),
            console: facts.console.clone(),
        };
        let mut checks = Vec::new();
        let mut first_sign = None;
        let mut recovered = None;
        let mut held_all = true;
        for check in &plan.checks {
            if self.verdict.is_some() {
                checks.push(not_run(check));
                continue;
            }
            let (report, outcome) = self.one_check(plan, check, &target, machine);
            first_sign = first_sign.or(outcome.first_sign);
            if outcome.verdict == CheckVerdict::Held {
                // A check that holds shows that the machine is up, whatever it looked at.
                first_sign = first_sign.or(Some(outcome.ended));
                if check.required {
                    recovered = Some(outcome.ended);
                }
            } else if check.required {
                held_all = false;
            }
            checks.push(report);
        }
        let recovered = recovered.filter(|_| held_all);
        let (mut steps, boot) = self.start_steps(&facts, start, machine_started);
        let up = first_sign.unwrap_or_else(Instant::now);
        steps.push(self.step("boot", boot, up));
        if first_sign.is_some() {
            steps.push(self.step("service", up, recovered.unwrap_or_else(Instant::now)));
        }
        self.servers.push(ServerReport {
            server: plan.server.clone(),
            id: filled(&facts.id),
            name: filled(&facts.name),
            os: facts.os.clone(),
            point: Some(PointReport {
                id: facts.point.clone(),
                taken: facts.taken,
                age_ms: facts.taken.map(|taken| millis(self.started.since(taken))),
            }),
            machine: Some(MachineReport {
                kernel: facts.kernel.clone(),
                command_line: facts.command_line.clone(),
                memory_mib: facts.memory_mib,
                cpus: facts.cpus,
            }),
            addresses: facts.addresses.iter().map(ToString::to_string).collect(),
            findings: facts.findings.clone(),
            start_error: None,
            steps,
            checks,
            recovered_ms: recovered.map(|moment| self.at(moment)),
            console_tail: evidence::tail(&facts.console, CONSOLE_TAIL),
        });
    }

    fn one_check(
        &mut self,
        plan: &ServerPlan,
        check: &Check,
        target: &Target,
        machine: &mut impl RunningServer,
    ) -> (CheckReport, Outcome) {
        let what = format!("{}: {}", plan.server, check.name);
        self.progress.begin(&format!("waiting for {what}"));
        let begins = Instant::now();
        let deadline = (begins + check.timeout).min(self.deadline());
        let progress = &mut *self.progress;
        let outcome = evidence::wait_for(
            check,
            target,
            deadline,
            self.interruption,
            &mut || machine.ended(),
            &mut |seen| progress.news(&seen.summary),
        );
        let took = outcome.ended.saturating_duration_since(begins);
        let reason = match &outcome.verdict {
            CheckVerdict::Held => None,
            CheckVerdict::TimedOut if took < check.timeout => Some(format!(
                "did not hold before the drill's time limit of {} was over",
                in_words(self.plan.time_limit)
            )),
            CheckVerdict::TimedOut => {
                Some(format!("did not hold within {}", in_words(check.timeout)))
            }
            CheckVerdict::MachineEnded(reason) => Some(format!(
                "the virtual machine ended before it held: {reason}"
            )),
            CheckVerdict::Interrupted => Some("the drill was interrupted".into()),
        };
        let report = CheckReport {
            name: check.name.clone(),
            kind: check.kind.word(),
            expectation: check.kind.expectation(),
            required: check.required,
            status: match outcome.verdict {
                CheckVerdict::Held => CheckStatus::Held,
                CheckVerdict::Interrupted => CheckStatus::NotRun,
                _ => CheckStatus::Failed,
            },
            reason: reason.clone(),
            started_ms: Some(self.at(begins)),
            duration_ms: Some(millis(took)),
            timeout_ms: millis(check.timeout),
            attempts: outcome.attempts,
            evidence: Some(outcome.evidence.clone()),
        };
        match reason {
            None => self
                .progress
                .end(true, &format!("{what} holds: {}", outcome.evidence.summary)),
            Some(_) if outcome.verdict == CheckVerdict::Interrupted => self.interrupted(),
            Some(reason) => {
                let seen = &outcome.evidence.summary;
                self.progress
                    .end(false, &format!("{what} {reason}: {seen}"));
                if check.required {
                    self.fall_short(Shortfall {
                        interrupted: false,
                        reason: format!(
                            "the check \"{}\" of {} failed: {reason}; last seen: {seen}",
                            check.name, plan.server
                        ),
                        remedy: "look at the check's evidence and at the end of the console; if \
                                 the server only needed longer, raise the check's `timeout`"
                            .into(),
                        check: Some(FailedCheck {
                            server: plan.server.clone(),
                            check: check.name.clone(),
                            reason,
                            evidence: outcome.evidence.clone(),
                        }),
                    });
                }
            }
        }
        (report, outcome)
    }

    fn step(&self, name: &str, from: Instant, to: Instant) -> Step {
        Step {
            name: name.into(),
            started_ms: self.at(from),
            duration_ms: millis(to.saturating_duration_since(from)),
        }
    }

    /// The steps that recovery has timed itself, one after another from the server's start, and
    /// the moment at which they ended and the virtual machine was started.
    fn start_steps(
        &self,
        facts: &ServerFacts,
        start: Instant,
        running: Instant,
    ) -> (Vec<Step>, Instant) {
        let mut at = start;
        let mut steps = Vec::new();
        for (name, took) in &facts.steps {
            let end = (at + *took).min(running);
            steps.push(self.step(name, at, end));
            at = end;
        }
        (steps, at)
    }
}

/// A check whose turn never came.
pub(super) fn not_run(check: &Check) -> CheckReport {
    CheckReport {
        name: check.name.clone(),
        kind: check.kind.word(),
        expectation: check.kind.expectation(),
        required: check.required,
        status: CheckStatus::NotRun,
        reason: None,
        started_ms: None,
        duration_ms: None,
        timeout_ms: millis(check.timeout),
        attempts: 0,
        evidence: None,
    }
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
