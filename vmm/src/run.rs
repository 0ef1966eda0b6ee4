//! The `run` command: one machine, from its options to its exit code.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::api::{self, Command, Controlled, Refusal, SharedMachine, Status};
use crate::boot::ImageFile;
use crate::cli::RunArgs;
use crate::confinement::{self, Confinement};
use crate::devices::console::{Consoles, CurrentSerial};
use crate::devices::power::Power;
use crate::error::Failure;
use crate::events::{Event, Notifier};
use crate::gate::Order;
use crate::machine::{Config, Cpus, Machine, Running};
use crate::options::OnReset;
use crate::pci_devices::OpenDevices;
use crate::socket_file::SocketFile;
use crate::uuid::Uuid;
use crate::without_vtx::Measures;
use crate::{probe, stop_signals, vcpu};

/// The guest powered off, or the machine was stopped.
pub const EXIT_OFF: u8 = 0;
/// The VMM failed.
pub const EXIT_FAILED: u8 = 1;
/// The guest reset the machine.
pub const EXIT_RESET: u8 = 3;
/// The guest crashed.
pub const EXIT_CRASHED: u8 = 4;
/// The command line was not understood.
pub const EXIT_USAGE: u8 = 64;

/// Runs a machine to its end.
pub fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let kvm = probe::open()?;
    let config = config(args)?;
    let open_devices = OpenDevices::open(&config).map_err(|e| Failure::new(&e, e.remedy()))?;
    stop_signals::block().map_err(|e| Failure::new(&e, "see the system's log"))?;
    vcpu::install_kick_handler().map_err(|e| Failure::new(&e, "see the system's log"))?;

    let console_help = "check the path; another machine may be using the socket";
    let consoles = Consoles::open(&args.console).map_err(|e| Failure::new(&e, console_help))?;
    let bound = match &args.control {
        Some(path) => Some(SocketFile::bind(path).map_err(|e| Failure {
            cause: format!("cannot offer the control socket {}: {e}", path.display()),
            remedy: console_help.to_owned(),
        })?),
        None => None,
    };
    // Everything is open, and no other thread runs yet.
    let confinement = confinement::apply(args.confinement, args.user.as_ref())?;

    let serial = CurrentSerial::default();
    let _terminal = consoles
        .start_input(serial.clone())
        .map_err(|e| Failure::new(&e, console_help))?;

    let operated = Arc::new(Mutex::new(Operated::new(&config, confinement)));
    let for_signals = operated.clone();
    stop_signals::watch(move || lock(&for_signals).stop())
        .map_err(|e| Failure::new(&e, "raise the limit on threads (ulimit -u)"))?;
    let _control = match bound {
        Some((file, listener)) => {
            let shared: SharedMachine = operated.clone();
            api::serve(listener, shared)
                .map_err(|e| Failure::new(&e, "raise the limit on threads (ulimit -u)"))?;
            Some(file)
        }
        None => None,
    };
    let devices = open_devices
        .connect()
        .map_err(|e| Failure::new(&e, e.remedy()))?;

    loop {
        let output = consoles
            .output()
            .map_err(|e| Failure::new(&e, console_help))?;
        let machine = Machine::build(&kvm, &config, &devices, output)
            .map_err(|e| Failure::new(&e, e.remedy()))?;
        *serial.lock().unwrap_or_else(PoisonError::into_inner) = Some(machine.serial());
        let quirks = machine.has_quirks();
        let running = machine.start().map_err(|e| Failure::new(&e, e.remedy()))?;
        lock(&operated).started(&running, quirks);
        tracing::info!(uuid = %config.uuid, cpus = config.cpus, quirks, "machine started");
        let event = running.wait();
        lock(&operated).ended();
        tracing::info!(?event, "machine ended");
        if event == Event::Reset && args.on_reset == OnReset::Restart {
            lock(&operated).resets += 1;
            continue;
        }
        return conclude(event);
    }
}

fn conclude(event: Event) -> Result<ExitCode, Failure> {
    match event {
        Event::PowerOff | Event::Stop => Ok(ExitCode::from(EXIT_OFF)),
        Event::Reset => Ok(ExitCode::from(EXIT_RESET)),
        Event::Crash(what) => {
            let remedy = "read the console's last lines; a kernel that cannot run here needs \
                          another one, or other parameters";
            crate::print_failure(&Failure {
                cause: format!("the guest crashed: {what}"),
                remedy: remedy.to_owned(),
            });
            Ok(ExitCode::from(EXIT_CRASHED))
        }
        Event::Failed(cause) => Err(Failure {
            cause,
            remedy: "see the log of the disk's server and the kernel's log (dmesg)".to_owned(),
        }),
    }
}

fn config(args: &RunArgs) -> Result<Config, Failure> {
    let uuid = match args.uuid {
        Some(uuid) => uuid,
        None => Uuid::random().map_err(|e| Failure::new(&e, "give a --uuid"))?,
    };
    let open = |what: &str, path: &Path| {
        ImageFile::open(path).map_err(|error| Failure {
            cause: format!("cannot read the {what} {}: {error}", path.display()),
            remedy: "check the path and who may read it".to_owned(),
        })
    };
    let kernel = open("kernel", &args.kernel)?;
    let initrd = args.initrd.iter().map(|path| open("initramfs", path));
    Ok(Config {
        initrd: initrd.collect::<Result<_, _>>()?,
        measures: Measures::choose(args.quirks, args.tick, &kernel),
        kernel,
        cmdline: args.cmdline.clone(),
        memory_mib: args.memory,
        cpus: args.cpus,
        disks: args.disk.clone(),
        nets: args.net.clone(),
        uuid,
    })
}

/// What the operator's commands work on: the machine that runs now, if one does.
struct Operated {
    current: Option<Handles>,
    stop_asked: bool,
    resets: u32,
    cpus: u8,
    memory_mib: u64,
    uuid: Uuid,
    since: Instant,
    confinement: Confinement,
}

struct Handles {
    cpus: Arc<Cpus>,
    power: Arc<Mutex<Power>>,
    notifier: Notifier,
    quirks: bool,
}

impl Handles {
    fn press_button(&self) -> bool {
        let mut power = self.power.lock().unwrap_or_else(PoisonError::into_inner);
        power.press_button()
    }
}

fn lock(operated: &Mutex<Operated>) -> std::sync::MutexGuard<'_, Operated> {
    operated.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Operated {
    fn new(config: &Config, confinement: Confinement) -> Self {
        Self {
            current: None,
            stop_asked: false,
            resets: 0,
            cpus: config.cpus,
            memory_mib: config.memory_mib,
            uuid: config.uuid,
            since: Instant::now(),
            confinement,
        }
    }

    fn started(&mut self, running: &Running, quirks: bool) {
        self.since = Instant::now();
        let handles = Handles {
            cpus: running.cpus(),
            power: running.power(),
            notifier: running.notifier(),
            quirks,
        };
        if self.stop_asked {
            handles.notifier.tell(Event::Stop);
        }
        self.current = Some(handles);
    }

    fn ended(&mut self) {
        self.current = None;
    }

    fn stop(&mut self) {
        self.stop_asked = true;
        if let Some(handles) = &self.current {
            handles.notifier.tell(Event::Stop);
        }
    }

    fn state(&self) -> &'static str {
        match self.current.as_ref().map(|h| h.cpus.current_order()) {
            None => "starting",
            Some(Order::Run) => "running",
            Some(Order::Pause) => "paused",
            Some(Order::Stop) => "stopped",
        }
    }
}

impl Controlled for Operated {
    fn status(&self) -> Status {
        Status {
            state: self.state(),
            cpus: self.cpus,
            memory_mib: self.memory_mib,
            uuid: self.uuid.to_string(),
            uptime_ms: self.since.elapsed().as_millis() as u64,
            resets: self.resets,
            quirks: self.current.as_ref().is_some_and(|h| h.quirks),
            confinement: self.confinement.clone(),
        }
    }

    fn command(&mut self, command: Command) -> Result<(), Refusal> {
        if command == Command::Stop {
            self.stop();
            return Ok(());
        }
        let refuse = |error: &str, remedy: &str| {
            Err(Refusal {
                error: error.to_owned(),
                remedy: remedy.to_owned(),
            })
        };
        let Some(handles) = &self.current else {
            return refuse("the machine is not running", "ask again in a moment");
        };
        match (command, handles.cpus.current_order()) {
            (Command::Pause, _) => handles.cpus.order(Order::Pause),
            (Command::Resume, _) => handles.cpus.order(Order::Run),
            (Command::PowerButton, Order::Pause) => {
                return refuse("the machine is paused", "resume it first");
            }
            (Command::PowerButton, _) => {
                if !handles.press_button() {
                    return refuse(
                        "the guest does not listen to its power button (yet)",
                        "ask again when it has booted, or use stop",
                    );
                }
            }
            (Command::Reset, _) => handles.notifier.tell(Event::Reset),
            (Command::Stop, _) => {}
        }
        Ok(())
    }
}
