//! The processes of a run: disk server, forwarders and the virtual machine itself. Each is
//! written into the record as soon as it exists, then waited for until it is ready.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cables::Cables;
use super::control;
use super::process::{ProcessId, detach, program};
use super::record::Published;
use super::running::RunningServer;
use crate::adapt::AdaptedBoot;
use crate::cancel::Cancel;
use crate::failure::Failure;
use crate::network::Publish;
use crate::serve_disk::process as disk_process;
use crate::site::Site;

/// How long a daemon may take to say that it is ready.
const DAEMON_PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn spawn_disk_server(
    site: &Site,
    made: &mut RunningServer,
    cancel: &Cancel,
) -> Result<(), Failure> {
    let mut command = Command::new(program("relevo-recover")?);
    command
        .arg("serve-disk")
        .arg("--state")
        .arg(site.state())
        .arg("--point")
        .arg(made.record.point.to_string())
        .arg("--run")
        // With a slash, as every path inside it has: a stray is known by it.
        .arg(made.run.path().join(""));
    let log = made.run.path().join("disk-server.log");
    let mut child = spawn(&mut command, &log, Stdio::piped())?;
    made.record.disk_server = ProcessId::of(child.id());
    made.write_record()?;
    let ready = await_line("the disk server", &mut child, &log, cancel);
    made.children.push(child);
    ready.map(drop)
}

pub(super) fn spawn_forwarder(
    made: &mut RunningServer,
    publish: &Publish,
    cancel: &Cancel,
) -> Result<(), Failure> {
    let Some(server) = made.record.addresses.first().copied() else {
        return Ok(());
    };
    let mut command = Command::new(program("relevo-recover")?);
    command
        .args(["publish", "--forward", &publish.to_string()])
        .args(["--server", &server.to_string()])
        .arg("--run")
        .arg(made.run.path().join(""));
    if let Some(namespace) = &made.namespace {
        command.arg("--netns").arg(namespace);
    }
    let log = made.run.path().join("publish.log");
    let mut child = spawn(&mut command, &log, Stdio::piped())?;
    if let Some(process) = ProcessId::of(child.id()) {
        made.record.published.push(Published {
            listen: publish.listen.to_string(),
            port: publish.port,
            process,
        });
        made.write_record()?;
    }
    let line = await_line("the forwarder", &mut child, &log, cancel);
    made.children.push(child);
    let line = line?;
    if let (Some(listen), Some(last)) =
        (line["listening"].as_str(), made.record.published.last_mut())
    {
        last.listen = listen.into();
    }
    made.write_record()
}

pub(super) fn spawn_machine(
    made: &mut RunningServer,
    boot: &AdaptedBoot,
    cables: &Cables,
    disks: usize,
    uuid: &str,
    cancel: &Cancel,
) -> Result<(), Failure> {
    let mut command = Command::new(program("relevo-vmm")?);
    command.arg("run").arg("--kernel").arg(&boot.kernel);
    for initrd in &boot.initrds {
        command.arg("--initrd").arg(initrd);
    }
    command
        .args(["--cmdline", &boot.command_line])
        .args(["--memory", &made.plan().memory_mib.to_string()])
        .args(["--cpus", &made.plan().cpus.to_string()])
        .args(["--uuid", uuid])
        .args(["--on-reset", "restart"]);
    for index in 0..disks {
        let socket = disk_process::socket(made.run.path(), index);
        command
            .arg("--disk")
            .arg(format!("vhost-user={}", socket.display()));
    }
    for cable in &cables.cables {
        command
            .arg("--net")
            .arg(format!("tap={},mac={}", cable.tap, cable.mac));
    }
    command
        .arg("--console")
        .arg(format!("file={}", made.run.console().display()))
        .arg("--control")
        .arg(made.run.control());
    if let Some(namespace) = &made.namespace {
        crate::network::namespace::enter(namespace, &mut command)?;
    }
    let log = made.run.path().join("machine.log");
    let child = spawn(&mut command, &log, Stdio::null())?;
    let process = ProcessId::of(child.id());
    made.children.push(child);
    made.record.machine = process;
    made.write_record()?;

    let deadline = Instant::now() + DAEMON_PATIENCE;
    let control = made.run.control();
    while control::command(&control, "status").is_err() {
        cancel.check()?;
        if let Some(reason) = made.ended() {
            return Err(said_by("the virtual machine", &log, &reason));
        }
        if Instant::now() > deadline {
            return Err(said_by(
                "the virtual machine",
                &log,
                "it does not answer on its control socket",
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn spawn(command: &mut Command, log: &std::path::Path, stdout: Stdio) -> Result<Child, Failure> {
    let io = |e: std::io::Error| Failure::io(log, &e);
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(log)
        .map_err(io)?;
    command.stdin(Stdio::null()).stdout(stdout).stderr(file);
    detach(command);
    command.spawn().map_err(|e| {
        Failure::new(
            format!("{}: {e}", command.get_program().to_string_lossy()),
            "check that it can be executed here",
        )
    })
}

/// Waits for the line that a daemon prints when it is ready.
fn await_line(
    who: &str,
    child: &mut Child,
    log: &std::path::Path,
    cancel: &Cancel,
) -> Result<Value, Failure> {
    let Some(output) = child.stdout.take() else {
        return Err(Failure::new(
            format!("{who} has no output"),
            "report it as a defect",
        ));
    };
    let (tell, hear) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(output).read_line(&mut line);
        let _ = tell.send(read.map(|_| line));
    });
    let deadline = Instant::now() + DAEMON_PATIENCE;
    let line = loop {
        match hear.recv_timeout(Duration::from_millis(50)) {
            Ok(Ok(line)) => break line,
            Ok(Err(e)) => return Err(said_by(who, log, &e.to_string())),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(said_by(who, log, "it said nothing"));
            }
            Err(RecvTimeoutError::Timeout) => {
                cancel.check()?;
                if Instant::now() > deadline {
                    return Err(said_by(who, log, "it does not become ready"));
                }
            }
        }
    };
    serde_json::from_str(&line).map_err(|_| said_by(who, log, "it ended at once"))
}

/// What a program of ours said in its log, or `reason` where it said nothing.
fn said_by(who: &str, log: &std::path::Path, reason: &str) -> Failure {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let last = |label: &str| {
        text.lines()
            .rev()
            .find_map(|line| line.strip_prefix(label))
            .map(str::to_string)
    };
    Failure::new(
        format!(
            "{who}: {}",
            last("error: ").unwrap_or_else(|| reason.into())
        ),
        last("remedy: ").unwrap_or_else(|| format!("see {}", log.display())),
    )
}
