//! For tests: a recovery that fails wherever it is told to, and what is around a drill.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use relevo_wire::Timestamp;

use super::{Means, exit_of, run};
use crate::failure::{Exit, Failure};
use crate::interruption::{Interruption, Signal};
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::rehearsal::{Finding, Rehearsal, RunningServer, ServerFacts, StartError, StartOrder};
use crate::report::Report;

/// Where the fake recovery fails.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Fault {
    None,
    Start,
    StartRefused,
    StartInterrupted,
    StartPanics,
    FactsPanic,
    MachineEnds,
    MachineEndsWithPanic,
    StopFails,
    Signal,
}

/// What was started and stopped, in order.
pub(super) type Journal = Rc<RefCell<Vec<String>>>;

pub(super) struct Fake {
    fault: Fault,
    /// The fault strikes at the server with this number.
    at: usize,
    interruption: Interruption,
    /// An hour before the fake was made, so never less than that before the drill's start.
    taken: Timestamp,
    pub(super) journal: Journal,
}

pub(super) struct FakeServer {
    facts: ServerFacts,
    fault: Fault,
    journal: Journal,
    stopped: bool,
}

impl Rehearsal for Fake {
    type Server = FakeServer;

    fn start(
        &self,
        order: &StartOrder<'_>,
        _: Duration,
        report: &mut dyn FnMut(&str),
    ) -> Result<FakeServer, StartError> {
        report("plan");
        let n = self
            .journal
            .borrow()
            .iter()
            .filter(|l| l.starts_with("start"))
            .count();
        let fault = if n == self.at {
            self.fault
        } else {
            Fault::None
        };
        match fault {
            Fault::Start => {
                return Err(StartError::Failed {
                    cause: "the file system is unknown".into(),
                    remedy: "use restore".into(),
                    console: vec!["panic".into()],
                });
            }
            Fault::StartRefused => {
                return Err(StartError::Refused(Failure::refused(
                    "it runs already",
                    "stop it",
                )));
            }
            Fault::StartInterrupted => {
                self.interruption.raise(Signal::Interrupt);
                return Err(StartError::Interrupted);
            }
            Fault::StartPanics => panic!("start"),
            Fault::Signal => self.interruption.raise(Signal::Terminate),
            _ => {}
        }
        let console = order.run_dir.join("console");
        std::fs::write(&console, "booting\r\nready\r\n").unwrap();
        self.journal
            .borrow_mut()
            .push(format!("start {}", order.server.server));
        Ok(FakeServer {
            facts: ServerFacts {
                id: "00".repeat(16),
                name: order.server.server.clone(),
                point: "ab".repeat(16),
                taken: Some(self.taken),
                steps: vec![
                    ("plan".into(), Duration::ZERO),
                    ("disk".into(), Duration::ZERO),
                ],
                console,
                addresses: vec![Ipv4Addr::LOCALHOST.into()],
                findings: vec![Finding::default()],
                ..ServerFacts::default()
            },
            fault,
            journal: self.journal.clone(),
            stopped: false,
        })
    }
}

impl RunningServer for FakeServer {
    fn facts(&self) -> &ServerFacts {
        assert!(self.fault != Fault::FactsPanic, "facts");
        &self.facts
    }

    fn ended(&mut self) -> Option<String> {
        assert!(self.fault != Fault::MachineEndsWithPanic, "ended");
        (self.fault == Fault::MachineEnds).then(|| "triple fault".into())
    }

    fn stop(&mut self) -> Result<(), Vec<String>> {
        assert!(!self.stopped, "stopped twice");
        self.stopped = true;
        self.journal
            .borrow_mut()
            .push(format!("stop {}", self.facts.name));
        match self.fault {
            Fault::StopFails => Err(vec!["it does not answer".into()]),
            _ => Ok(()),
        }
    }
}

#[derive(Default)]
struct Quiet(Vec<String>);

impl Progress for Quiet {
    fn begin(&mut self, what: &str) {
        self.0.push(what.into());
    }
    fn news(&mut self, what: &str) {
        self.0.push(what.into());
    }
    fn end(&mut self, _: bool, what: &str) {
        self.0.push(what.into());
    }
}

pub(super) struct Lab {
    state: tempfile::TempDir,
    port: u16,
    _listener: TcpListener,
}

pub(super) struct Held {
    pub(super) result: Result<Report, Failure>,
    pub(super) exit: Option<Exit>,
    pub(super) journal: Vec<String>,
}

impl Lab {
    pub(super) fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Self {
            state: tempfile::tempdir().unwrap(),
            port: listener.local_addr().unwrap().port(),
            _listener: listener,
        }
    }

    /// A plan of two servers, db and web, with `more` lines in front.
    pub(super) fn plan(&self, more: &str, web_check: &str) -> Plan {
        let port = self.port;
        let text = format!(
            "name = \"test\"\n{more}\n[[server]]\nname = \"db\"\n[[server.check]]\nkind = \"console\"\n\
             pattern = \"ready\"\n[[server]]\nname = \"web\"\n[[server.check]]\nkind = \"tcp\"\nport = {port}\n{web_check}"
        );
        Plan::parse(&text, "plan", Path::new(".")).unwrap()
    }

    pub(super) fn fake(&self, fault: Fault, at: usize) -> Fake {
        Fake {
            fault,
            at,
            interruption: Interruption::default(),
            taken: Timestamp::from_millis(Timestamp::now().as_millis() - 3_600_000),
            journal: Journal::default(),
        }
    }

    pub(super) fn hold(&self, plan: &Plan, fake: &Fake) -> Held {
        let ledger = Ledger::open(self.state.path()).unwrap();
        let mut progress = Quiet::default();
        let result = run(
            plan,
            "plan.toml",
            Means {
                rehearsal: fake,
                ledger: &ledger,
                interruption: &fake.interruption,
                progress: &mut progress,
            },
        );
        Held {
            exit: result.as_ref().ok().map(|r| exit_of(r, &fake.interruption)),
            result,
            journal: fake.journal.borrow().clone(),
        }
    }

    /// What is in the ledger besides its own lock.
    pub(super) fn left(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.state.path().join("drills"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.ends_with("lock"))
            .collect()
    }
}
