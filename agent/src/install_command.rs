//! The commands that make the agent a service, and take it away.

use std::path::PathBuf;

use clap::Args;

use crate::AgentError;
use crate::command::runtime;
use crate::enroll::EnrollRequest;
use crate::install::files::Origin;
use crate::install::{network, removal, setup};
use crate::page::{print, print_json};
use crate::state::{DEFAULT_DIR, StateDir};

/// Make the agent a service of this server, in one step: files, enrolment, start.
///
/// Needs systemd. A program that came alone copies itself to /usr/local/bin and writes its units;
/// one from a package has them. On a server that is enrolled already, for instance after an
/// installation that stopped half-way, leave --vault, --token and --keys out.
#[derive(Args)]
pub struct InstallArgs {
    /// Where the vault is, HOST:PORT.
    #[arg(long, requires_all = ["token", "keys"])]
    vault: Option<String>,
    /// The token that 'relevo-vault token --role agent' printed.
    #[arg(long, requires = "vault")]
    token: Option<String>,
    /// The sealing-keys.toml that 'relevo-recover keygen' wrote.
    #[arg(long, value_name = "FILE", requires = "vault")]
    keys: Option<PathBuf>,
    /// The server's name for people [default: the host name].
    #[arg(long, requires = "vault")]
    name: Option<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Stop the agent and take away all that it put on this server, in the kernel too.
///
/// Images in the vault stay. What a package brought is left to the package manager, which also
/// does this when the package is purged.
#[derive(Args)]
pub struct UninstallArgs {
    /// Keep enrolment, keys, cache and hooks for another installation.
    #[arg(long)]
    keep_state: bool,
}

/// Let the service speak with the vault's addresses and the name servers as they are now.
///
/// The service does it when it starts, and before each backup.
#[derive(Args)]
pub struct AllowVaultArgs {
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    state: PathBuf,
}

/// Does what was typed.
pub fn install(args: InstallArgs) -> Result<(), AgentError> {
    let state = StateDir::new(DEFAULT_DIR.into());
    let request = match (args.vault, args.token, args.keys) {
        (Some(vault), Some(token), Some(keys)) => Some(EnrollRequest {
            vault,
            token,
            keys,
            name: args.name,
        }),
        _ => None,
    };
    let report = runtime()?.block_on(setup::install(&state, request))?;
    match (report, args.json) {
        (Some(report), true) => print_json(&report),
        (None, true) => print_json(&serde_json::json!({})),
        (Some(report), false) => print(
            format!(
                "enrolled as {} (server {})\nthe service runs: 'relevo-agent status' says more\n",
                report.name, report.server
            )
            .as_bytes(),
        ),
        (None, false) => print(b"the service runs: 'relevo-agent status' says more\n"),
    }
}

/// Does what was typed.
pub fn uninstall(args: &UninstallArgs) -> Result<(), AgentError> {
    let state = StateDir::new(DEFAULT_DIR.into());
    let origin = removal::uninstall(&state, args.keep_state)?;
    let left: &[u8] = match origin {
        Origin::Package => b"uninstalled; the package manager removes the program itself\n",
        Origin::Alone => b"uninstalled\n",
    };
    print(left)
}

/// Does what was typed.
pub fn allow_vault(args: AllowVaultArgs) -> Result<(), AgentError> {
    let enrolled = StateDir::new(args.state).read()?;
    let vault = enrolled.enrollment.vault;
    let addresses = runtime()?.block_on(network::allow(&vault))?;
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    print(format!("{vault}: {}\n", addresses.join(" ")).as_bytes())
}
