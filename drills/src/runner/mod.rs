//! The drill itself: start each server, wait for its evidence, tear everything down, report.
//!
//! Invariants:
//! * Whatever happens after [`Ledger::enter`] (an error, a panic, a signal), every server that was
//!   started is stopped and the drill's directory and namespaces are removed.
//! * Servers start in the plan's order, each when the one before has recovered, so that a
//!   database is there before what needs it.
//! * The report says what was measured; nothing is estimated.

use std::time::{Duration, Instant};

use relevo_wire::Timestamp;

use crate::evidence::{self, Outcome, Target, Verdict as CheckVerdict};
use crate::failure::{Exit, Failure};
use crate::interruption::{Interruption, Signal};
use crate::ledger::{HeldDrill, Ledger};
use crate::plan::{Check, Plan, ServerPlan, in_words};
use crate::progress::Progress;
use crate::rehearsal::{Rehearsal, RunningServer, ServerFacts, StartError, StartOrder};
use crate::report::{
    CheckReport, CheckStatus, FailedCheck, Host, MachineReport, ObjectivesReport, PointReport,
    Report, SCHEMA, SCHEMA_VERSION, ServerReport, StartErrorReport, Step, Teardown, Verdict,
    Versions, millis,
};

/// So many last console lines stand in the report of each server.
const CONSOLE_TAIL: usize = 60;

/// What a drill needs besides its plan.
pub struct Means<'a, R> {
    /// Starts the servers.
    pub rehearsal: &'a R,
    /// Where the drill is entered.
    pub ledger: &'a Ledger,
    /// The wish to stop.
    pub interruption: &'a Interruption,
    /// Who watches.
    pub progress: &'a mut dyn Progress,
}

/// Holds the drill. An error means that there was none; a drill that failed is a [`Report`].
pub fn run<R: Rehearsal>(
    plan: &Plan,
    plan_file: &str,
    means: Means<'_, R>,
) -> Result<Report, Failure> {
    let Means {
        rehearsal,
        ledger,
        interruption,
        progress,
    } = means;
    let held = ledger.enter(&plan.name, plan.servers.len())?;
    let mut drill = Drill {
        began: Instant::now(),
        started: Timestamp::now(),
        plan,
        interruption,
        progress,
        servers: Vec::new(),
        verdict: None,
    };
    // Filled by `rehearse`, emptied by its own end or, after a panic, by its `Drop`.
    let mut running = Running::<R::Server> {
        servers: Vec::new(),
        held: Some(held),
    };
    let refused = drill.rehearse(rehearsal, &mut running).err();
    let id = running.id();
    drill.progress.begin("tearing down");
    let before = Instant::now();
    let left_behind = running.tear_down();
    let teardown = Teardown {
        clean: left_behind.is_empty(),
        duration_ms: millis(before.elapsed()),
        left_behind,
    };
    match teardown.left_behind.first() {
        None => drill.progress.end(true, "torn down: nothing is left"),
        Some(left) => drill
            .progress
            .end(false, &format!("torn down, but left behind: {left}")),
    }
    match refused {
        Some(failure) => Err(failure),
        None => Ok(drill.report(id, plan_file, teardown)),
    }
}

/// The exit code that a report means.
pub fn exit_of(report: &Report, interruption: &Interruption) -> Exit {
    match (report.verdict, interruption.raised()) {
        (Verdict::Passed, _) => Exit::Passed,
        (Verdict::Failed, _) => Exit::Failed,
        (Verdict::Interrupted, Some(Signal::Interrupt)) => Exit::Interrupted,
        (Verdict::Interrupted, _) => Exit::Terminated,
    }
}

/// The servers that run, and the drill's place in the ledger.
struct Running<S: RunningServer> {
    servers: Vec<S>,
    held: Option<HeldDrill>,
}

impl<S: RunningServer> Running<S> {
    fn id(&self) -> String {
        self.held
            .as_ref()
            .map(|held| held.entry.id.clone())
            .unwrap_or_default()
    }

    /// Stops all, last started first, and removes everything. Says what is left.
    fn tear_down(&mut self) -> Vec<String> {
        while let Some(mut server) = self.servers.pop() {
            if let Err(problems) = server.stop() {
                // What it could not stop is removed by force below.
                for problem in problems {
                    tracing::warn!(problem, "a server did not stop in order");
                }
            }
        }
        let Some(held) = self.held.take() else {
            return Vec::new();
        };
        let removed = held.remove();
        for what in &removed.removed {
            tracing::debug!(what, "removed");
        }
        removed.left
    }
}

impl<S: RunningServer> Drop for Running<S> {
    fn drop(&mut self) {
        for left in self.tear_down() {
            tracing::error!(left, "left behind");
        }
    }
}

/// Why the drill did not pass, in words.
struct Shortfall {
    interrupted: bool,
    reason: String,
    remedy: String,
    check: Option<FailedCheck>,
}

struct Drill<'a> {
    began: Instant,
    started: Timestamp,
    plan: &'a Plan,
    interruption: &'a Interruption,
    progress: &'a mut dyn Progress,
    servers: Vec<ServerReport>,
    verdict: Option<Shortfall>,
}

impl Drill<'_> {
    fn at(&self, moment: Instant) -> u64 {
        millis(moment.saturating_duration_since(self.began))
    }

    fn deadline(&self) -> Instant {
        self.began + self.plan.time_limit
    }

    fn fall_short(&mut self, shortfall: Shortfall) {
        // The first is the cause, what follows is its consequence.
        self.verdict.get_or_insert(shortfall);
    }

    fn interrupted(&mut self) {
        let signal = self.interruption.raised().map_or("a signal", Signal::name);
        self.fall_short(Shortfall {
            interrupted: true,
            reason: format!("the drill was interrupted by {signal}"),
            remedy: "run it again; it says nothing about the server".into(),
            check: None,
        });
    }

    /// Starts and checks the servers in turn, until one falls short.
    fn rehearse<R: Rehearsal>(
        &mut self,
        rehearsal: &R,
        running: &mut Running<R::Server>,
    ) -> Result<(), Failure> {
        for (n, server) in self.plan.servers.iter().enumerate() {
            let Some(held) = running.held.as_ref() else {
                break;
            };
            let run_dir = held.run_dir(n)?;
            let namespace = held.entry.namespaces.get(n).cloned().unwrap_or_default();
            let order = StartOrder {
                server,
                namespace: &namespace,
                run_dir: &run_dir,
            };
            let start = Instant::now();
            let what = format!("starting {}", server.server);
            self.progress.begin(&what);
            let limit = self.deadline().saturating_duration_since(start);
            let progress = &mut *self.progress;
            let mut report = |step: &str| progress.news(&format!("{what}: {step}"));
            match rehearsal.start(&order, limit, &mut report) {
                Ok(started) => running.servers.push(started),
                Err(StartError::Refused(failure)) => return Err(failure),
                Err(StartError::Interrupted) => {
                    self.interrupted();
                    self.not_started(server, None, Vec::new());
                }
                Err(StartError::Failed {
                    cause,
                    remedy,
                    console,
                }) => {
                    self.progress
                        .end(false, &format!("{} did not start: {cause}", server.server));
                    self.fall_short(Shortfall {
                        interrupted: false,
                        reason: format!("{} could not be started: {cause}", server.server),
                        remedy: remedy.clone(),
                        check: None,
                    });
                    self.not_started(server, Some(StartErrorReport { cause, remedy }), console);
                }
            }
            if self.verdict.is_some() {
                break;
            }
            if let Some(machine) = running.servers.last_mut() {
                self.progress.end(
                    true,
                    &format!("{} runs after {}", server.server, in_words(start.elapsed())),
                );
                self.check(server, machine, start);
            }
            if self.verdict.is_some() {
                break;
            }
        }
        Ok(())
    }

    fn not_started(
        &mut self,
        server: &ServerPlan,
        error: Option<StartErrorReport>,
        console: Vec<String>,
    ) {
        self.servers.push(ServerReport {
            server: server.server.clone(),
            start_error: error,
            checks: server.checks.iter().map(not_run).collect(),
            console_tail: console,
            ..ServerReport::default()
        });
    }

    /// Waits for the evidence of one server.
    fn check(&mut self, plan: &ServerPlan, machine: &mut impl RunningServer, start: Instant) {
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

    fn report(mut self, id: String, plan_file: &str, teardown: Teardown) -> Report {
        let rpo_ms = self
            .servers
            .iter()
            .filter_map(|s| s.point.as_ref())
            .filter_map(|point| point.age_ms)
            .max();
        let rto_ms = match self.verdict {
            None => self.servers.iter().filter_map(|s| s.recovered_ms).max(),
            Some(_) => None,
        };
        let mut objectives = ObjectivesReport::new(&self.plan.objectives, rpo_ms, rto_ms);
        if self.verdict.as_ref().is_some_and(|s| s.interrupted) {
            // What there was no time to measure was not missed.
            for objective in [&mut objectives.rpo, &mut objectives.rto] {
                objective.met = objective.met.filter(|_| objective.measured_ms.is_some());
            }
        }
        if objectives.required && self.verdict.is_none() {
            for (name, objective, remedy) in [
                (
                    "RPO",
                    &objectives.rpo,
                    "take images of the server more often",
                ),
                (
                    "RTO",
                    &objectives.rto,
                    "see in the report where the time went",
                ),
            ] {
                if objective.met == Some(false) {
                    let words = |ms: Option<u64>| {
                        ms.map_or("unknown".into(), |ms| in_words(Duration::from_millis(ms)))
                    };
                    self.fall_short(Shortfall {
                        interrupted: false,
                        reason: format!(
                            "the {name} is {}, and the plan requires {}",
                            words(objective.measured_ms),
                            words(objective.objective_ms)
                        ),
                        remedy: format!("{remedy}, or change `objectives`"),
                        check: None,
                    });
                }
            }
        }
        if !teardown.clean {
            self.fall_short(Shortfall {
                interrupted: false,
                reason: "the drill could not be torn down completely".into(),
                remedy: "see what was left behind, then run `relevo-drills clean`".into(),
                check: None,
            });
        }
        let finished = Timestamp::now();
        let verdict = match &self.verdict {
            None => Verdict::Passed,
            Some(shortfall) if shortfall.interrupted => Verdict::Interrupted,
            Some(_) => Verdict::Failed,
        };
        let (reason, remedy, failed_check) = match self.verdict {
            None => (None, None, None),
            Some(s) => (Some(s.reason), Some(s.remedy), s.check),
        };
        Report {
            schema: SCHEMA,
            schema_version: SCHEMA_VERSION,
            id,
            name: self.plan.name.clone(),
            description: self.plan.description.clone(),
            plan_file: plan_file.to_owned(),
            verdict,
            reason,
            remedy,
            failed_check,
            started: self.started,
            finished,
            duration_ms: millis(self.began.elapsed()),
            rpo_ms,
            rto_ms,
            objectives,
            servers: self.servers,
            teardown,
            host: Host::look(),
            versions: Versions::default(),
        }
    }
}

fn not_run(check: &Check) -> CheckReport {
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

#[cfg(test)]
mod tests;
