//! A recovered server that runs.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::cables::Cables;
use super::check::{Check, Witness, last_lines, read_console};
use super::record::{RunDir, RunLock, RunRecord, RunState, millis};
use super::start::StartTime;
use super::teardown::{self, Ending};
use crate::cancel::Cancel;
use crate::failure::Failure;
use crate::plan::BootPlan;

/// Time between two looks at a check that has not succeeded.
const PAUSE: Duration = Duration::from_millis(100);

/// A step of a recovery and how long it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `select`, `plan`, `disks`, `network`, `boot` or `service`.
    pub name: String,
    /// How long it took.
    pub duration: Duration,
}

impl Serialize for Step {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut step = serializer.serialize_struct("Step", 2)?;
        step.serialize_field("step", &self.name)?;
        step.serialize_field("duration_ms", &millis(self.duration))?;
        step.end()
    }
}

/// A server that was started. Dropped, it is stopped at once and everything of it removed but
/// its logs, unless it was [`detach`](Self::detach)ed.
pub struct RunningServer {
    pub(super) run: RunDir,
    pub(super) record: RunRecord,
    pub(super) namespace: Option<PathBuf>,
    pub(super) children: Vec<Child>,
    lock: Option<RunLock>,
    plan: BootPlan,
    steps: Vec<Step>,
    began: StartTime,
    over: bool,
}

impl RunningServer {
    pub(super) fn begin(run: RunDir, lock: RunLock, record: RunRecord, plan: BootPlan) -> Self {
        Self {
            run,
            record,
            namespace: None,
            children: Vec::new(),
            lock: Some(lock),
            plan,
            steps: Vec::new(),
            began: StartTime::now(),
            over: false,
        }
    }

    pub(super) fn set_steps(&mut self, steps: Vec<Step>, began: StartTime) {
        self.steps = steps;
        self.began = began;
    }

    pub(super) fn write_record(&self) -> Result<(), Failure> {
        self.run.write(&self.record)
    }

    /// Lays its cables. They are written down just before they are made, and a namespace that
    /// turns out to be somebody else's is struck out again: what a record names is removed
    /// when the run ends.
    pub(super) fn lay_network(&mut self, cables: &Cables) -> Result<(), Failure> {
        cables.check_free()?;
        self.record.network = cables.record();
        self.write_record()?;
        self.make_network(cables)
    }

    fn make_network(&mut self, cables: &Cables) -> Result<(), Failure> {
        match cables.make() {
            Ok(namespace) => {
                if let Some(mut namespace) = namespace {
                    self.namespace = Some(namespace.path().to_path_buf());
                    // From here on the record answers for it.
                    namespace.persist();
                }
                Ok(())
            }
            Err(error) => {
                // One that was made was removed on the way here.
                self.record.network.namespace = None;
                self.write_record()?;
                Err(error)
            }
        }
    }

    /// Server, point, times, processes and addresses.
    pub fn record(&self) -> &RunRecord {
        &self.record
    }

    /// What was found in the image and changed for the virtual machine, and why.
    pub fn plan(&self) -> &BootPlan {
        &self.plan
    }

    /// The directory with console, logs, overlays and sockets.
    pub fn directory(&self) -> &Path {
        self.run.path()
    }

    /// The file that its serial console is written to.
    pub fn console(&self) -> PathBuf {
        self.run.console()
    }

    /// The console's last lines.
    pub fn console_tail(&self, lines: usize) -> Vec<String> {
        read_console(&self.run.console()).map_or_else(|_| Vec::new(), |all| last_lines(&all, lines))
    }

    /// The file of its network namespace, where it has one.
    pub fn namespace(&self) -> Option<&Path> {
        self.namespace.as_deref()
    }

    /// Where evidence of it is looked for.
    pub fn witness(&self) -> Witness {
        Witness {
            console: self.run.console(),
            namespace: self.namespace.clone(),
            addresses: self.record.addresses.clone(),
        }
    }

    /// The steps so far.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// What was lost: the time from the image to the start of the recovery.
    pub fn rpo(&self) -> Duration {
        Duration::from_millis(self.record.rpo_ms)
    }

    /// The time from the start of the recovery to the service's answer, once it answered.
    pub fn rto(&self) -> Option<Duration> {
        self.record.rto_ms.map(Duration::from_millis)
    }

    /// Why it runs no more, if that is so.
    pub fn ended(&mut self) -> Option<String> {
        for child in &mut self.children {
            let id = child.id();
            let Ok(Some(status)) = child.try_wait() else {
                continue;
            };
            let is =
                |process: &Option<super::process::ProcessId>| process.is_some_and(|p| p.pid == id);
            if is(&self.record.machine) {
                return Some(match status.code() {
                    Some(0) => "the guest powered itself off".into(),
                    Some(3) => "the guest reset itself".into(),
                    Some(4) => "the guest crashed".into(),
                    _ => format!("the virtual machine ended ({status})"),
                });
            }
            if is(&self.record.disk_server) {
                return Some(format!(
                    "the process that serves its disks ended ({status})"
                ));
            }
        }
        let gone =
            |process: Option<super::process::ProcessId>| process.is_some_and(|p| !p.is_alive());
        if gone(self.record.machine) || gone(self.record.disk_server) {
            return Some("its virtual machine or disk server was ended".into());
        }
        None
    }

    /// Waits until every check succeeds, one after the other, and notes the RTO. Until then the
    /// run counts as starting: were this process killed, the next `status` would end it.
    pub fn wait_for(
        &mut self,
        checks: &[Check],
        limit: Duration,
        cancel: &Cancel,
    ) -> Result<Duration, Failure> {
        let since = Instant::now();
        let witness = self.witness();
        for check in checks {
            self.wait_for_one(&witness, check, since, limit, cancel)?;
        }
        self.steps.push(Step {
            name: "service".into(),
            duration: since.elapsed(),
        });
        let rto = self.began.instant.elapsed();
        self.record.rto_ms = Some(millis(rto));
        self.record.state = RunState::Running;
        self.write_record()?;
        Ok(rto)
    }

    fn wait_for_one(
        &mut self,
        witness: &Witness,
        check: &Check,
        since: Instant,
        limit: Duration,
        cancel: &Cancel,
    ) -> Result<(), Failure> {
        loop {
            // A look may take long: whoever interrupts does not wait for it.
            let (tell, hear) = std::sync::mpsc::channel();
            let (looker, looked_for) = (witness.clone(), check.clone());
            std::thread::spawn(move || drop(tell.send(looker.look(&looked_for))));
            let missing = loop {
                match hear.recv_timeout(PAUSE) {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(missing)) => break missing,
                    Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                        break "the check failed".to_string();
                    }
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                }
                self.check_alive(check, cancel)?;
                if since.elapsed() >= limit {
                    break "no answer yet".to_string();
                }
            };
            self.check_alive(check, cancel)?;
            if since.elapsed() >= limit {
                return Err(Failure::new(
                    format!(
                        "{} was started but within {} s it was not so that {}: {missing}{}",
                        self.record.name,
                        limit.as_secs(),
                        check.describe(),
                        self.console_words()
                    ),
                    format!(
                        "read {}; allow more time with --timeout, or look for something else",
                        self.run.console().display()
                    ),
                )
                .with_code(Failure::NOT_READY));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn check_alive(&mut self, check: &Check, cancel: &Cancel) -> Result<(), Failure> {
        cancel.check()?;
        match self.ended() {
            None => Ok(()),
            Some(reason) => Err(Failure::new(
                format!(
                    "{reason} before {}{}",
                    check.describe(),
                    self.console_words()
                ),
                format!(
                    "read {} and machine.log beside it; 'relevo-recover plan {}' says what was booted",
                    self.run.console().display(),
                    self.record.name
                ),
            )),
        }
    }

    fn console_words(&self) -> String {
        let tail = self.console_tail(5);
        if tail.is_empty() {
            return String::new();
        }
        format!("; the console's last lines:\n  {}", tail.join("\n  "))
    }

    /// Ends it: with `patience`, by the power button first. What it wrote is kept unless
    /// `discard`. May be called again after a failure.
    pub fn stop(&mut self, patience: Option<Duration>, discard: bool) -> Result<(), Failure> {
        let ending = patience.map_or(Ending::AtOnce, Ending::PowerButton);
        let left = teardown::teardown(&self.run, &self.record, ending);
        self.reap();
        if !left.is_empty() {
            return Err(teardown::left_behind(&self.record.name, &left));
        }
        self.over = true;
        if discard {
            return self.run.remove();
        }
        teardown::close_record(&self.run, self.record.clone())
    }

    /// Lets it run on when this is dropped; `status` and `stop` find it again.
    pub fn detach(mut self) -> Result<(), Failure> {
        self.record.state = RunState::Running;
        self.write_record()?;
        self.over = true;
        self.lock = None;
        Ok(())
    }

    /// Children that have ended are waited for, so that none stays as a zombie.
    fn reap(&mut self) {
        self.children
            .retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let left = teardown::teardown(&self.run, &self.record, Ending::AtOnce);
        self.reap();
        for what in &left {
            tracing::error!(what, "left behind");
        }
        if left.is_empty() {
            // A service that nobody was given the use of has written nothing worth keeping.
            self.record.state = RunState::Starting;
            if let Err(error) = teardown::close_record(&self.run, self.record.clone()) {
                tracing::error!(%error, "the run's record could not be closed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use relevo_wire::{PointId, ServerId, Timestamp};

    use super::*;
    use crate::network::namespace::{self, NetworkNamespace};
    use crate::plan::{KernelSource, RootDevice};

    fn plan() -> BootPlan {
        BootPlan {
            hostname: None,
            system: None,
            kernel: KernelSource::Site { path: "k".into() },
            initrd: Vec::new(),
            command_line: String::new(),
            disks: Vec::new(),
            nics: Vec::new(),
            root: RootDevice {
                device: String::new(),
                uuid: String::new(),
                argument: String::new(),
            },
            memory_mib: 512,
            cpus: 1,
            findings: Vec::new(),
        }
    }

    /// Guards two failovers that want a namespace of the same name: the one that comes too late
    /// takes nothing away from the other when it cleans up.
    #[test]
    fn a_failover_that_lost_the_race_for_a_namespace_leaves_it_alone() {
        let name = format!("relevo-race-{}", std::process::id());
        let Ok(winner) = NetworkNamespace::create(&name) else {
            eprintln!("skipped: this user makes no network namespaces here");
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::at(&dir.path().join("run"));
        let lock = run.lock().unwrap();
        let (server, point) = (ServerId::from_bytes([1; 16]), PointId::from_bytes([2; 16]));
        let now = Timestamp::now();
        let record = RunRecord::begin(server, "db1", point, now, now);
        let mut loser = RunningServer::begin(run, lock, record, plan());
        let cables = Cables {
            namespace: Some(name.clone()),
            bridge: None,
            cables: Vec::new(),
            addresses: Vec::new(),
        };
        assert!(loser.lay_network(&cables).is_err());
        // Even where it came between the look and the making.
        loser.record.network = cables.record();
        assert!(loser.make_network(&cables).is_err());
        drop(loser);
        assert!(
            namespace::exists(&name),
            "the winner's namespace was removed"
        );
        drop(winner);
        assert!(!namespace::exists(&name));
    }
}
