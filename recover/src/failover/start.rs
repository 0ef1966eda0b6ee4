//! Making a recovered server, step by step.

use std::path::PathBuf;
use std::time::Instant;

use relevo_wire::{ServerId, Timestamp};

use super::cables::{Cables, NetworkRequest};
use super::check::Check;
use super::daemons::{spawn_disk_server, spawn_forwarder, spawn_machine};
use super::preparation::{MachineRequest, make_plan, probe_host};
use super::record::{RunDir, RunRecord, RunState};
use super::running::{RunningServer, Step};
use super::teardown::{self, Ending};
use crate::adapt::adapt;
use crate::cancel::Cancel;
use crate::failure::Failure;
use crate::image::{Patience, RecoveryPoint};
use crate::network::Publish;
use crate::plan::{BootPlan, StaticAddress};
use crate::serve_disk::process as disk_process;
use crate::site::{PointSelector, Site};

/// When a recovery began, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct StartTime {
    /// For durations.
    pub instant: Instant,
    /// For comparison with the image's time.
    pub wall: Timestamp,
}

impl StartTime {
    /// Now.
    pub fn now() -> Self {
        Self {
            instant: Instant::now(),
            wall: Timestamp::now(),
        }
    }
}

/// What is to be recovered, and how.
#[derive(Clone, Debug)]
pub struct FailoverRequest {
    /// Name or id of the server.
    pub server: String,
    /// Which recovery point.
    pub point: PointSelector,
    /// Kernel, memory, CPUs.
    pub machine: MachineRequest,
    /// Its network.
    pub network: NetworkRequest,
    /// Ports of the host's loopback that lead to it.
    pub publish: Vec<Publish>,
    /// What will be waited for; a check that can never succeed fails the start.
    pub checks: Vec<Check>,
    /// Directory of the run; by default the site's own for this server. A server may run more
    /// than once in directories of their own, as drills do.
    pub run_dir: Option<PathBuf>,
    /// Run on over what an earlier run in this directory wrote.
    pub resume: bool,
    /// When the recovery began.
    pub began: StartTime,
}

impl FailoverRequest {
    /// The latest point of a server, with all that follows from the server itself.
    pub fn new(server: &str) -> Self {
        Self {
            server: server.into(),
            point: PointSelector::Latest,
            machine: MachineRequest::default(),
            network: NetworkRequest::default(),
            publish: Vec::new(),
            checks: Vec::new(),
            run_dir: None,
            resume: false,
            began: StartTime::now(),
        }
    }
}

/// Starts a server and gives it back once its virtual machine runs. `report` hears of each
/// step as it begins. When this fails or is cancelled, nothing of it is left but its logs.
pub fn start(
    site: &Site,
    request: &FailoverRequest,
    cancel: &Cancel,
    report: &mut dyn FnMut(&str),
) -> Result<RunningServer, Failure> {
    // Whatever an interruption made fail on the way, it is the interruption that is told.
    make(site, request, cancel, report).map_err(|error| cancel.check().err().unwrap_or(error))
}

fn make(
    site: &Site,
    request: &FailoverRequest,
    cancel: &Cancel,
    report: &mut dyn FnMut(&str),
) -> Result<RunningServer, Failure> {
    let mut steps = Steps::begin(request.began, report);

    steps.next("select", "connecting to the vault");
    let link = site.connect(Patience::default())?;
    let closing = link.clone();
    cancel.also(move || closing.close());
    let server = link.select_server(&request.server)?;
    let selected = link.select_point(&server, &request.point)?;
    let run = match &request.run_dir {
        Some(dir) => RunDir::at(dir),
        None => RunDir::of(site.state(), server.id),
    };
    let lock = run.lock()?;
    make_room(&run, &server.name, &selected.manifest.point, request.resume)?;
    let point = RecoveryPoint::open(&link, site.keys(), selected.manifest.point)?;
    cancel.check()?;

    steps.next(
        "plan",
        &format!("planning {} as of {}", server.name, point.manifest().taken),
    );
    let host = probe_host()?;
    let (plan, disks) = plan_with_address(&point, request, host.hardware_virtualization)?;
    let cables = Cables::plan(&request.network, server.id, &plan.nics, point.inventory());
    check_reachable(request, &cables)?;
    cables.check_free()?;
    let boot = adapt(&plan, &disks, &run.path().join("boot"))?;
    cancel.check()?;

    let taken = point.manifest().taken;
    let mut record = RunRecord::begin(
        server.id,
        &server.name,
        point.id(),
        taken,
        request.began.wall,
    );
    record.resumed = request.resume;
    record.addresses = cables.addresses.clone();
    run.write(&record)?;
    let mut made = RunningServer::begin(run, lock, record, plan);

    steps.next("disks", "serving its disks");
    let uuid = machine_uuid(point.inventory().system_uuid.as_deref(), server.id);
    let sockets = point.disks().len();
    spawn_disk_server(site, &mut made, cancel)?;
    if !host.kvm {
        return Err(no_kvm(&made, &host));
    }

    steps.next("network", "laying its network");
    made.lay_network(&cables)?;
    for publish in &request.publish {
        spawn_forwarder(&mut made, publish, cancel)?;
    }
    cancel.check()?;

    steps.next("boot", "starting the virtual machine");
    spawn_machine(&mut made, &boot, &cables, sockets, &uuid, cancel)?;
    made.set_steps(steps.end(), request.began);
    Ok(made)
}

/// Sees to it that the run's directory is free for a new run.
fn make_room(
    run: &RunDir,
    name: &str,
    point: &relevo_wire::PointId,
    resume: bool,
) -> Result<(), Failure> {
    if let Some(record) = run.read()? {
        let runs = record.machine.is_some_and(|machine| machine.is_alive());
        if runs && record.state == RunState::Running {
            return Err(Failure::new(
                format!("{name} is already running here, as of {}", record.taken),
                format!(
                    "see 'relevo-recover status {name}'; end it with 'relevo-recover stop {name}'"
                ),
            ));
        }
        if record.state != RunState::Stopped {
            tracing::warn!("cleaning up after an earlier run of {name}");
            let left = teardown::teardown(run, &record, Ending::AtOnce);
            if !left.is_empty() {
                return Err(teardown::left_behind(name, &left));
            }
            teardown::close_record(run, record)?;
        }
    }
    let overlays = disk_process::overlays(run.path(), *point);
    let kept = run.path().join("overlays");
    if resume {
        if overlays.exists() {
            forget_logs(run);
            return Ok(());
        }
        return Err(Failure::new(
            format!(
                "no earlier run of {name} over recovery point {point} has written anything here"
            ),
            "leave out --continue, or name the recovery point of that run",
        ));
    }
    if run.written() > 0 {
        return Err(Failure::new(
            format!("what an earlier run of {name} wrote is kept"),
            format!(
                "run on over it with --continue, or throw it away with 'relevo-recover stop {name} --discard'"
            ),
        ));
    }
    if kept.exists() {
        std::fs::remove_dir_all(&kept).map_err(|e| Failure::io(&kept, &e))?;
    }
    forget_logs(run);
    Ok(())
}

/// What earlier consoles and daemons said is not this run's.
fn forget_logs(run: &RunDir) {
    for old in [
        "console.log",
        "disk-server.log",
        "machine.log",
        "publish.log",
    ] {
        let _ = std::fs::remove_file(run.path().join(old));
    }
}

/// Plans; where the operator gives the server an address, the card that gets it is known only
/// from a first plan.
fn plan_with_address(
    point: &RecoveryPoint,
    request: &FailoverRequest,
    hardware: bool,
) -> Result<(BootPlan, Vec<crate::plan::NamedDisk>), Failure> {
    let (plan, disks) = make_plan(point, &request.machine, hardware, Vec::new())?;
    let Some(address) = request.network.address else {
        return Ok((plan, disks));
    };
    let card = plan.nics.first().and_then(|nic| nic.name.clone());
    let gateway = request
        .network
        .gateway
        .map(|cidr| cidr.address)
        .or_else(|| address.neighbour());
    let wanted = StaticAddress {
        interface: card.unwrap_or_else(|| "eth0".into()),
        address: address.to_string(),
        gateway: gateway.map(|gateway| gateway.to_string()),
    };
    make_plan(point, &request.machine, hardware, vec![wanted])
}

/// Checks and published ports need an address: better said now than after a long wait.
fn check_reachable(request: &FailoverRequest, cables: &Cables) -> Result<(), Failure> {
    let by_network = |check: &Check| !matches!(check, Check::Console(_));
    let wanted = request.checks.iter().any(by_network) || !request.publish.is_empty();
    if wanted && cables.cables.is_empty() {
        return Err(Failure::new(
            "the server is to be reached over the network, but is to have none",
            "leave out --network none",
        ));
    }
    if wanted && cables.addresses.is_empty() {
        return Err(Failure::new(
            "the recovery point does not say which address the server has",
            "name it: --network netns=NAME,address=10.0.0.5/24 (it is set before its init starts)",
        ));
    }
    Ok(())
}

fn no_kvm(made: &RunningServer, host: &super::preparation::Host) -> Failure {
    Failure::new(
        format!(
            "{} was planned and its disks were served, but this host cannot run virtual machines: {}",
            made.record.name,
            host.reason.as_deref().unwrap_or("no KVM")
        ),
        format!(
            "{}. Elsewhere: boot files are in {}; 'relevo-recover export {} --nbd …' serves the disks to any hypervisor",
            host.remedy.as_deref().unwrap_or("use a host with KVM"),
            made.run.path().join("boot").display(),
            made.record.name
        ),
    )
    .with_code(Failure::NO_KVM)
}

/// The SMBIOS UUID of the server, or one that follows from its id.
fn machine_uuid(recorded: Option<&str>, server: ServerId) -> String {
    let is_uuid = |text: &&str| {
        let parts: Vec<usize> = text.split('-').map(str::len).collect();
        parts == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
    };
    if let Some(uuid) = recorded.filter(is_uuid) {
        return uuid.to_ascii_lowercase();
    }
    let hex = server.to_string();
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

/// Times each step and reports its beginning.
struct Steps<'a> {
    done: Vec<Step>,
    current: Option<(&'static str, Instant)>,
    report: &'a mut dyn FnMut(&str),
    began: Instant,
}

impl<'a> Steps<'a> {
    fn begin(began: StartTime, report: &'a mut dyn FnMut(&str)) -> Self {
        Self {
            done: Vec::new(),
            current: None,
            report,
            began: began.instant,
        }
    }

    fn next(&mut self, name: &'static str, words: &str) {
        let now = Instant::now();
        self.close(now);
        // The first step began with the command.
        let since = if self.done.is_empty() {
            self.began
        } else {
            now
        };
        self.current = Some((name, since));
        (self.report)(words);
    }

    fn close(&mut self, now: Instant) {
        if let Some((name, since)) = self.current.take() {
            self.done.push(Step {
                name: name.into(),
                duration: now.saturating_duration_since(since),
            });
        }
    }

    fn end(mut self) -> Vec<Step> {
        self.close(Instant::now());
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_keeps_its_uuid() {
        let server = ServerId::from_bytes([0xab; 16]);
        let own = "4C4C4544-0042-3510-8051-B4C04F303532";
        assert_eq!(machine_uuid(Some(own), server), own.to_ascii_lowercase());
        let made = "abababab-abab-abab-abab-abababababab";
        assert_eq!(machine_uuid(None, server), made);
        assert_eq!(machine_uuid(Some("Not Specified"), server), made);
    }
}
