//! The drill itself: start each server, wait for its evidence, tear everything down, report.
//!
//! Invariants:
//! * Whatever happens after [`Ledger::enter`] (an error, a panic, a signal), every server that was
//!   started is stopped and the drill's directory and namespaces are removed.
//! * Servers start in the plan's order, each when the one before has recovered, so that a
//!   database is there before what needs it.
//! * The report says what was measured; nothing is estimated.

mod conclusion;
mod running;
mod server;

use std::time::Instant;

use relevo_wire::Timestamp;

use self::running::Running;
use self::server::not_run;
use crate::failure::{Exit, Failure};
use crate::interruption::{Interruption, Signal};
use crate::ledger::Ledger;
use crate::plan::{Plan, ServerPlan, in_words};
use crate::progress::Progress;
use crate::rehearsal::{Rehearsal, StartError, StartOrder};
use crate::report::{
    FailedCheck, Report, ServerReport, StartErrorReport, Teardown, Verdict, millis,
};

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
    let mut running = Running::<R::Server>::new(held);
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
                lost: self.started,
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
}

#[cfg(test)]
mod lab;
#[cfg(test)]
mod tests;
