//! The command line: what can be typed, and what it does.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use relevo_wire::key::SealingKeys;
use serde::Serialize;

use crate::AgentError;
use crate::backup_command::{self, BackupArgs};
use crate::consistency::watch;
use crate::daemon_command::{self, PauseArgs, PolicyArgs, ResumeArgs, RunArgs, StatusArgs};
use crate::disk::DiskArgument;
use crate::enroll::{EnrollRequest, enroll};
use crate::hooks_command::{self, HooksArgs};
use crate::install_command::{self, AllowVaultArgs, InstallArgs, UninstallArgs};
use crate::inventory;
use crate::page::{print, print_json};
use crate::report::InventoryPage;
use crate::state::{DEFAULT_DIR, StateDir};
use crate::thaw_command::{self, ThawArgs};
use crate::tracking_command::{self, TrackingArgs};

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
            Command::Backup(args) => backup_command::run(args),
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
