//! The command line: what can be typed, and what it does.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use relevo_wire::key::SealingKeys;
use relevo_wire::policy::BackupPolicy;
use relevo_wire::upload::UploadLimits;
use serde::Serialize;

use crate::AgentError;
use crate::backup::BackupRun;
use crate::consistency::{Freezing, Holding, watch};
use crate::daemon::history::{self, Noted};
use crate::daemon_command::{
    self, PauseArgs, PolicyArgs, PolicyOptions, ResumeArgs, RunArgs, StatusArgs,
};
use crate::disk::{Disk, DiskArgument};
use crate::enroll::{EnrollRequest, enroll, renewed};
use crate::hooks;
use crate::hooks_command::{self, HooksArgs};
use crate::install::network;
use crate::install_command::{self, AllowVaultArgs, InstallArgs, UninstallArgs};
use crate::inventory;
use crate::page::{print, print_json};
use crate::pipeline::Counters;
use crate::policy::{self, Known};
use crate::progress;
use crate::report::InventoryPage;
use crate::state::{DEFAULT_DIR, StateDir};
use crate::stop::Stop;
use crate::thaw_command::{self, ThawArgs};
use crate::tracking_command::{self, TrackingArgs};
use crate::uplink::{Patience, VaultDial};

/// Most threads that read and seal. Each has a span in memory, of 64 MiB that a run takes at most;
/// three seal more than a line of 1 Gbit/s takes.
const MAX_WORKERS: usize = 3;

/// Images this server's disks and streams them, sealed, to a Relevo vault.
///
/// The vault stores what it cannot read: everything is sealed here, with keys that only the
/// recovery site can undo. After the first image only what changed is sent.
///
/// 'relevo-agent install' with a token from 'relevo-vault token --role agent' makes it a service,
/// which takes images as the vault's settings say; 'relevo-agent status' says how it stands.
/// 'enroll', 'backup' and 'run' do single steps.
#[derive(Parser)]
#[command(name = "relevo-agent", version)]
pub struct Cli {
    /// Say more on standard error; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Enroll(EnrollArgs),
    Backup(BackupArgs),
    Keys(KeysArgs),
    Inventory(InventoryArgs),
    Tracking(TrackingArgs),
    Hooks(HooksArgs),
    Thaw(ThawArgs),
    /// Hold file systems frozen for a backup; started by it.
    #[command(hide = true)]
    HoldFrozen,
    Run(RunArgs),
    Status(StatusArgs),
    Pause(PauseArgs),
    Resume(ResumeArgs),
    Policy(PolicyArgs),
    Install(InstallArgs),
    Uninstall(UninstallArgs),
    AllowVault(AllowVaultArgs),
    /// Print completions for a shell.
    ///
    /// For bash: relevo-agent completions bash > /etc/bash_completion.d/relevo-agent
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    ///
    /// To read it: relevo-agent man | man -l -
    Man,
}

/// Make this server known to a vault, once.
///
/// The token is single-use; what it is exchanged for, a certificate, is this server's identity
/// from then on. The sealing keys are copied into the state directory.
#[derive(Args)]
struct EnrollArgs {
    /// Where the vault is, HOST:PORT.
    #[arg(long)]
    vault: String,
    /// The token that 'relevo-vault token --role agent' printed.
    #[arg(long)]
    token: String,
    /// The sealing-keys.toml that 'relevo-recover keygen' wrote.
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
    /// The server's name for people [default: the host name].
    #[arg(long)]
    name: Option<String>,
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    state: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Take an image of the disks and make it a recovery point.
///
/// It is visible in the vault only when it is whole and on stable storage there. An interrupted
/// run (Ctrl-C and SIGTERM end one with exit code 130) leaves nothing half-done: run it again,
/// and what arrived is not sent again.
#[derive(Args)]
struct BackupArgs {
    /// A disk or raw image file, and its name in the image; can be repeated [default: all local
    /// disks].
    #[arg(long = "disk", value_name = "PATH[=NAME]")]
    disks: Vec<DiskArgument>,
    /// A JSON object whose fields replace those of the inventory found ('relevo-agent inventory
    /// --json' shows them).
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    state: PathBuf,
    /// Read all of every disk, and do not have the kernel mark what is written from now on.
    #[arg(long)]
    no_tracking: bool,
    #[command(flatten)]
    holding: HoldingArgs,
    /// Read blocks that no file system uses, too. Without it they are zeros in the image.
    #[arg(long)]
    all_blocks: bool,
    #[command(flatten)]
    policy: PolicyOptions,
    /// Print the result as one line of JSON.
    #[arg(long)]
    json: bool,
}

/// How the server is held still for an image of one instant.
#[derive(Args)]
struct HoldingArgs {
    /// Seconds for which file systems are frozen at most; 1 to 60 [default: as the vault says].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    max_freeze: Option<u64>,
    /// Do not freeze file systems: the image is as after a power cut, if it can be had of one
    /// instant at all.
    #[arg(long)]
    no_freeze: bool,
    /// Do not run the hooks that make applications ready.
    #[arg(long)]
    no_hooks: bool,
    /// Where hooks are.
    #[arg(long, value_name = "DIR", default_value = hooks::DIR)]
    hooks: PathBuf,
    /// Seconds that one hook may take.
    #[arg(long, value_name = "SECONDS", default_value_t = hooks::LIMIT.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    hook_limit: u64,
}

impl HoldingArgs {
    fn holding(&self, state: &StateDir, policy: &BackupPolicy) -> Holding {
        let limit = match self.max_freeze {
            Some(seconds) => Duration::from_secs(seconds),
            None => Duration::from_millis(policy.max_freeze),
        };
        let hooks = || hooks_command::of(state, &self.hooks, self.hook_limit, limit.as_secs());
        Holding {
            freeze: (!self.no_freeze).then(|| Freezing {
                program: "/proc/self/exe".into(),
                note: state.frozen(),
            }),
            limit,
            hooks: (!self.no_hooks).then(hooks),
        }
    }
}

/// Take newer sealing keys of the same tenant, after 'relevo-recover keys rotate'.
///
/// What was sent before stays as it is and is not sent again. Take them to the recovery site
/// first: it opens only what it has keys for.
#[derive(Args)]
struct KeysArgs {
    /// The sealing-keys.toml that 'relevo-recover keys rotate' wrote.
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    state: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Print what is recorded with an image besides the disks.
///
/// For this server's own disks: the live server. For an image file: what the image tells.
#[derive(Args)]
struct InventoryArgs {
    /// A disk or raw image file; can be repeated [default: all local disks].
    #[arg(long = "disk", value_name = "PATH[=NAME]")]
    disks: Vec<DiskArgument>,
    /// A JSON object whose fields replace those found.
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    /// Where the agent keeps its state, the history of the load for instance.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    state: PathBuf,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

impl Cli {
    /// What is logged unless more is asked for: a daemon says what it does.
    pub fn level(&self) -> &'static str {
        match self.command {
            Command::Run(_) => "warn,relevo_agent=info",
            _ => "warn",
        }
    }

    /// Does what was typed.
    pub fn run(self) -> Result<ExitCode, AgentError> {
        match self.command {
            Command::Status(args) => return daemon_command::status(args),
            Command::Run(args) => daemon_command::run(args),
            Command::Pause(args) => daemon_command::pause(args),
            Command::Resume(args) => daemon_command::resume(args),
            Command::Policy(args) => daemon_command::policy(args),
            Command::Enroll(args) => run_enroll(args),
            Command::Backup(args) => {
                let noted = Noted::begin(&args.state, args.policy.retry());
                let done = run_backup(args, &noted);
                noted.end(&done);
                done
            }
            Command::Keys(args) => run_keys(args),
            Command::Inventory(args) => run_inventory(&args),
            Command::Tracking(args) => tracking_command::run(args),
            Command::Hooks(args) => hooks_command::run(args),
            Command::Thaw(args) => thaw_command::run(&args),
            Command::HoldFrozen => watch::run().map_err(AgentError::Guard),
            Command::Install(args) => install_command::install(args),
            Command::Uninstall(args) => install_command::uninstall(&args),
            Command::AllowVault(args) => install_command::allow_vault(args),
            Command::Completions { shell } => {
                let mut page = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "relevo-agent", &mut page);
                print(&page)
            }
            Command::Man => print(&manual()),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Refuses what 'relevo-agent backup' would refuse, before a daemon goes on with it for days.
pub(crate) fn check_backup_options(options: &[OsString]) -> Result<(), AgentError> {
    let typed = ["relevo-agent", "backup"].map(OsString::from);
    let typed = typed.into_iter().chain(options.iter().cloned());
    match Cli::try_parse_from(typed) {
        Ok(_) => Ok(()),
        Err(error) => Err(AgentError::Options(
            error
                .to_string()
                .lines()
                .next()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .into(),
        )),
    }
}

fn run_enroll(args: EnrollArgs) -> Result<(), AgentError> {
    let state = StateDir::new(args.state);
    let request = EnrollRequest {
        vault: args.vault,
        token: args.token,
        keys: args.keys,
        name: args.name,
    };
    let report = runtime()?.block_on(enroll(&state, request))?;
    if args.json {
        return print_json(&report);
    }
    let text = format!(
        "enrolled as {} (server {})\nwith vault {} until {}\n",
        report.name, report.server, report.vault, report.expires
    );
    print(text.as_bytes())
}

fn run_backup(args: BackupArgs, noted: &Noted) -> Result<(), AgentError> {
    args.policy.begin()?;
    let state = StateDir::new(args.state);
    let enrolled = state.read()?;
    let _lock = state.lock()?;
    thaw_command::before_a_run(&state)?;
    let mut disks = inventory::open_disks(&args.disks)?;
    for disk in &mut disks {
        if args.all_blocks {
            disk.read_all_blocks();
        }
    }
    let mut found = inventory::of_disks(&disks, &state.load());
    if let Some(path) = &args.inventory {
        found = inventory::merge(found, path)?;
    }
    yield_to_others();
    let pace = args.policy.pace(&state);
    let policy = Known::read(&state.policy()).policy;
    let counters = Arc::new(Counters {
        pace: pace.clone(),
        ..Counters::default()
    });
    let imaged = history::imaged(&disks);
    let size = disks.iter().map(Disk::size).sum();
    let stop = Stop::default();
    let run = BackupRun {
        server: enrolled.server,
        tenant: enrolled.tenant,
        keys: enrolled.keys,
        disks,
        inventory: found,
        cache: state.cache(),
        tracking: (!args.no_tracking).then(|| state.tracking()),
        proof_every: Duration::from_secs(policy.proof_every),
        holding: args.holding.holding(&state, &policy),
        workers: std::thread::available_parallelism().map_or(2, |n| n.get().min(MAX_WORKERS)),
        limits: pace.limits(UploadLimits::default()),
        patience: Patience::default(),
        counters: counters.clone(),
        stop: stop.clone(),
    };
    let report = runtime()?.block_on(async {
        stop.on_signals()
            .map_err(|e| AgentError::Internal(e.to_string()))?;
        let progress = progress::show(size, &counters);
        network::renew(&enrolled.enrollment.vault).await;
        let enrollment = renewed(&state, enrolled.enrollment).await;
        // A run goes on with the policy that it knows when only this question fails.
        tokio::select! {
            asked = policy::ask(&state, &enrollment) => drop(asked?),
            () = stop.wait() => return Err(AgentError::Interrupted),
        }
        pace.look_again();
        let done = run.run(&VaultDial(&enrollment, pace)).await;
        drop(progress);
        let (report, link) = done?;
        warn_if_clocks_differ(link.clock_ahead());
        link.close().await;
        Ok::<_, AgentError>(report)
    })?;
    noted.done(&report, imaged);
    if args.json {
        print_json(&report)
    } else {
        print(format!("{report}\n").as_bytes())
    }
}

fn run_keys(args: KeysArgs) -> Result<(), AgentError> {
    let keys = SealingKeys::read(&args.keys)?;
    let replaced = StateDir::new(args.state).take_keys(&keys)?;
    if args.json {
        return print_json(&KeysReport {
            generation: keys.generation,
            replaced,
        });
    }
    let text = format!(
        "images are sealed with generation {} from now on, not {replaced}\n",
        keys.generation
    );
    print(text.as_bytes())
}

/// Generations of keys.
#[derive(Serialize)]
struct KeysReport {
    generation: u32,
    replaced: u32,
}

fn run_inventory(args: &InventoryArgs) -> Result<(), AgentError> {
    let disks = inventory::readable_disks(&args.disks)?;
    let mut found = inventory::of_disks(&disks, &StateDir::new(args.state.clone()).load());
    if let Some(path) = &args.inventory {
        found = inventory::merge(found, path)?;
    }
    if args.json {
        let text = serde_json::to_string_pretty(&found);
        let text = text.map_err(|e| AgentError::Internal(e.to_string()))?;
        print(format!("{text}\n").as_bytes())
    } else {
        print(InventoryPage(&found).to_string().as_bytes())
    }
}

/// A vault that is minutes off gives recovery points misleading times.
fn warn_if_clocks_differ(ahead: i64) {
    if ahead.abs() > 60_000 {
        let (seconds, way) = (
            ahead.abs() / 1000,
            if ahead > 0 { "ahead" } else { "behind" },
        );
        tracing::warn!("the vault's clock is {seconds} s {way} of this server's: check both");
    }
}

/// Leaves processor and disk to the server's own work: the kernel takes the priority of I/O
/// from the niceness too (ioprio_set(2)). Threads started later inherit it.
fn yield_to_others() {
    if let Err(error) = rustix::process::setpriority_process(None, 5) {
        tracing::debug!("priority unchanged: {error}");
    }
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, AgentError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| AgentError::Internal(e.to_string()))
}

fn manual() -> Vec<u8> {
    let mut page = Vec::new();
    let mut command = Cli::command();
    command.build();
    // Writing to memory does not fail.
    let _ = clap_mangen::Man::new(command.clone()).render(&mut page);
    for sub in command
        .get_subcommands()
        .filter(|s| s.get_name() != "help" && !s.is_hide_set())
    {
        let _ = writeln!(page, ".SH \"COMMAND {}\"", sub.get_name().to_uppercase());
        let man = clap_mangen::Man::new(sub.clone());
        let mut body = Vec::new();
        let _ = man.render_synopsis_section(&mut body);
        let _ = man.render_description_section(&mut body);
        let _ = man.render_options_section(&mut body);
        let body = String::from_utf8_lossy(&body).replace(".SH ", ".SS ");
        page.extend_from_slice(body.as_bytes());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound_and_the_manual_names_every_command() {
        Cli::command().debug_assert();
        let page = String::from_utf8_lossy(&manual()).into_owned();
        for name in [
            "ENROLL",
            "BACKUP",
            "KEYS",
            "INVENTORY",
            "TRACKING",
            "HOOKS",
            "THAW",
            "RUN",
            "STATUS",
            "PAUSE",
            "RESUME",
            "POLICY",
            "INSTALL",
            "UNINSTALL",
        ] {
            assert!(page.contains(&format!("COMMAND {name}")), "{name}");
        }
    }
}
