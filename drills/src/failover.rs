//! The real rehearsal: recover's failover, in a directory and a namespace of the drill's own.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use relevo_recover::cancel::Cancel;
use relevo_recover::failover::preparation::probe_host;
use relevo_recover::failover::record::{RunDir, RunState};
use relevo_recover::failover::{
    self, Check as ReachCheck, FailoverRequest, MachineRequest, NetworkPlace, NetworkRequest, runs,
};
use relevo_recover::failure::Failure as RecoverFailure;
use relevo_recover::network::Cidr;
use relevo_recover::plan::KernelSource;
use relevo_recover::site::{PointSelector, Site};

use crate::evidence;
use crate::failure::{Exit, Failure};
use crate::interruption::{Interruption, Waited};
use crate::plan::{Address, CheckKind, Plan, PlanError, ServerPlan};
use crate::rehearsal::{Finding, Rehearsal, RunningServer, ServerFacts, StartError, StartOrder};

/// So many console lines of a server that did not start are kept.
const CONSOLE_TAIL: usize = 60;

/// Checks what only recovery can judge: the recovery points that a plan names.
pub fn check(plan: &Plan, shown: &str) -> Result<(), Failure> {
    for server in &plan.servers {
        server
            .point
            .parse::<PointSelector>()
            .map_err(|e| PlanError {
                plan: shown.to_owned(),
                problem: format!("`point` of {}: {e}", server.server),
                remedy: "leave `point` out for the latest".into(),
            })?;
    }
    Ok(())
}

/// Recovery at an enrolled site, on a host with KVM.
pub struct Failover {
    site: Site,
    interruption: Interruption,
}

impl Failover {
    /// Opens the site and makes sure that machines can run here.
    pub fn open(state: &Path, interruption: &Interruption) -> Result<Self, Failure> {
        let site = Site::open(state).map_err(as_error)?;
        let host = probe_host().map_err(as_error)?;
        if !host.kvm {
            let reason = host.reason.unwrap_or_else(|| "there is no KVM".into());
            return Err(Failure::no_kvm(
                format!(
                    "a drill boots the server, and this host cannot run virtual machines: {reason}"
                ),
                host.remedy
                    .unwrap_or_else(|| "hold the drill on a host with KVM".into()),
            ));
        }
        Ok(Self {
            site,
            interruption: interruption.clone(),
        })
    }

    /// Refuses to rehearse what really runs here, or is being started.
    fn refuse_beside_failover(
        &self,
        is_meant: impl Fn(&str, &str) -> bool,
    ) -> Result<(), StartError> {
        let refuse = |name: &str, how: &str| {
            StartError::Refused(Failure::refused(
                format!("{name} {how} at this site, and a drill must not stand in its way"),
                format!(
                    "hold the drill when the failover is over: see 'relevo-recover status {name}'"
                ),
            ))
        };
        let running = runs::status(self.site.state(), None);
        let running = running.map_err(|e| StartError::Refused(as_error(e)))?;
        for run in running {
            let (record, id) = (&run.record, run.record.server.to_string());
            if !is_meant(&record.name, &id) {
                continue;
            }
            match record.state {
                RunState::Running => return Err(refuse(&record.name, "really runs")),
                RunState::Starting => return Err(refuse(&record.name, "is being failed over")),
                RunState::Stopped => {}
            }
        }
        // A failover that has only begun has no record yet, but holds its directory's lock.
        let runs = RunDir::all(self.site.state()).map_err(|e| StartError::Refused(as_error(e)))?;
        for run in runs {
            let id = run.path().file_name().unwrap_or_default().to_string_lossy();
            if is_meant("", &id) && run.lock().is_err() {
                return Err(refuse(&id, "is being failed over or stopped"));
            }
        }
        Ok(())
    }
}

impl Rehearsal for Failover {
    type Server = Rehearsed;

    fn start(
        &self,
        order: &StartOrder<'_>,
        limit: Duration,
        report: &mut dyn FnMut(&str),
    ) -> Result<Rehearsed, StartError> {
        let plan = order.server;
        self.refuse_beside_failover(|name, id| plan.server == name || plan.server == id)?;
        let request = request(order)?;
        let cancel = Cancel::never();
        let over = AtomicBool::new(false);
        let started = std::thread::scope(|scope| {
            let (cancel, over) = (&cancel, &over);
            scope.spawn(move || {
                let done = || over.load(Ordering::Acquire);
                if self.interruption.wait(Instant::now() + limit, done) != Waited::Ready {
                    cancel.set();
                }
            });
            // Even a panic must end the watcher, which the scope waits for.
            let _ending = Ending(over, &self.interruption);
            failover::start(&self.site, &request, cancel, report)
        });
        let server = match started {
            Ok(server) => server,
            Err(_) if self.interruption.raised().is_some() => return Err(StartError::Interrupted),
            Err(failure) => return Err(not_started(failure, &cancel, limit, order)),
        };
        let mut rehearsed = Rehearsed {
            facts: facts(plan, &server),
            server,
        };
        // Now its id is known, and a failover may have begun meanwhile.
        let own = rehearsed.facts.id.clone();
        if let Err(refusal) = self.refuse_beside_failover(|_, id| id == own) {
            if let Err(problems) = rehearsed.stop() {
                tracing::warn!(?problems, "the rehearsed server did not stop in order");
            }
            return Err(refusal);
        }
        Ok(rehearsed)
    }
}

/// Tells the watcher of a start that the start is over.
struct Ending<'a>(&'a AtomicBool, &'a Interruption);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        self.1.wake();
    }
}

fn request(order: &StartOrder<'_>) -> Result<FailoverRequest, StartError> {
    let plan = order.server;
    let point: PointSelector = plan.point.parse().map_err(|e| {
        StartError::Refused(Failure::error(
            format!("`point` of {}: {e}", plan.server),
            "leave `point` out for the latest",
        ))
    })?;
    // An image that was finished since the drill began would make the measured loss look small.
    let point = match point {
        PointSelector::Latest => PointSelector::NotLater(order.lost),
        named => named,
    };
    let cidr = |address: Address| Cidr {
        address: address.address,
        prefix: address.prefix,
    };
    // Said to recover so that a server without a known address is refused before it boots.
    let checks = plan.checks.iter().filter_map(|check| match check.kind {
        CheckKind::Tcp { port, .. } | CheckKind::Http { port, .. } => Some(ReachCheck::Tcp(port)),
        CheckKind::Console { .. } => None,
    });
    Ok(FailoverRequest {
        point,
        machine: MachineRequest {
            site_kernel: plan.site_kernel.clone(),
            image_kernel: false,
            memory_mib: plan.memory_mib.map(u64::from),
            cpus: plan.cpus,
        },
        network: NetworkRequest {
            place: NetworkPlace::Namespace(order.namespace.to_owned()),
            gateway: plan.gateway.map(cidr),
            address: plan.address.map(cidr),
        },
        checks: checks.collect(),
        run_dir: Some(order.run_dir.to_owned()),
        ..FailoverRequest::new(&plan.server)
    })
}

fn not_started(
    failure: RecoverFailure,
    cancel: &Cancel,
    limit: Duration,
    order: &StartOrder<'_>,
) -> StartError {
    if failure.code == RecoverFailure::NO_KVM {
        return StartError::Refused(Failure::no_kvm(failure.cause, failure.remedy));
    }
    let console = evidence::tail(&order.run_dir.join("console.log"), CONSOLE_TAIL);
    if cancel.is_set() {
        return StartError::Failed {
            cause: format!(
                "it did not start in the {} that were left of the drill's time limit",
                crate::plan::in_words(limit)
            ),
            remedy: "see how far it came; raise `time_limit` if it only needs longer".into(),
            console,
        };
    }
    let remedy = failure.remedy.replace(
        "--network netns=NAME,address=10.0.0.5/24",
        "`address = \"10.0.0.5/24\"` in [network]",
    );
    StartError::Failed {
        cause: failure.cause,
        remedy,
        console,
    }
}

fn as_error(failure: RecoverFailure) -> Failure {
    Failure {
        cause: failure.cause,
        remedy: failure.remedy,
        exit: Exit::Error,
    }
}

fn facts(plan: &ServerPlan, server: &failover::RunningServer) -> ServerFacts {
    let (record, boot) = (server.record(), server.plan());
    ServerFacts {
        id: record.server.to_string(),
        name: boot.hostname.clone().unwrap_or_else(|| record.name.clone()),
        point: record.point.to_string(),
        taken: Some(record.taken),
        os: boot.system.clone(),
        findings: boot
            .findings
            .iter()
            .map(|finding| Finding {
                step: finding.step.clone(),
                found: finding.found.clone(),
                change: finding.change.clone(),
                why: finding.why.clone(),
            })
            .collect(),
        kernel: Some(match &boot.kernel {
            KernelSource::Image { release, .. } => format!("the image's own, {release}"),
            KernelSource::Site { path } => format!("the site's, {}", path.display()),
        }),
        command_line: Some(boot.command_line.clone()),
        memory_mib: Some(boot.memory_mib),
        cpus: Some(u64::from(boot.cpus)),
        // The last one, starting the machine, goes on until the server gives a sign of life.
        steps: server
            .steps()
            .iter()
            .filter(|step| step.name != "boot")
            .map(|step| (step.name.clone(), step.duration))
            .collect(),
        console: server.console(),
        namespace: server.namespace().map(Path::to_path_buf),
        addresses: match plan.address {
            Some(own) => std::iter::once(own.address.into())
                .chain(
                    record
                        .addresses
                        .iter()
                        .copied()
                        .filter(|other| *other != own.address),
                )
                .collect(),
            None => record.addresses.clone(),
        },
    }
}

/// A server that recover has started for the drill.
pub struct Rehearsed {
    facts: ServerFacts,
    server: failover::RunningServer,
}

impl RunningServer for Rehearsed {
    fn facts(&self) -> &ServerFacts {
        &self.facts
    }

    fn ended(&mut self) -> Option<String> {
        self.server.ended()
    }

    fn stop(&mut self) -> Result<(), Vec<String>> {
        // The plug is pulled: what the server wrote is thrown away in any case.
        self.server
            .stop(None, true)
            .map_err(|failure| vec![failure.cause])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use relevo_wire::Timestamp;

    /// Guards the measured loss: an image taken while the drill goes on is not its latest.
    #[test]
    fn the_latest_point_is_the_latest_at_the_moment_of_the_loss() {
        let lost = Timestamp::from_millis(1_700_000_000_000);
        let point_of = |point: &str| {
            let text = format!(
                "name = \"t\"\nserver = \"web\"\npoint = \"{point}\"\n[[check]]\nkind = \"http\"\n"
            );
            let plan = Plan::parse(&text, "plan", Path::new(".")).unwrap();
            let order = StartOrder {
                server: &plan.servers[0],
                namespace: "n",
                run_dir: Path::new("/run"),
                lost,
            };
            request(&order).unwrap().point
        };
        assert_eq!(point_of("latest"), PointSelector::NotLater(lost));
        assert_eq!(point_of("abcd12"), PointSelector::Id("abcd12".into()));
    }
}
