//! What the command line may say.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};
use relevo_vault::catalogue::Role;
use relevo_vault::token::parse_duration;
use relevo_wire::TenantId;

use crate::checking::Checking;
use crate::governing::Governing;
use crate::keeping::Keeping;

/// Keeps sealed images of servers: proves them whole, cannot read them.
#[derive(Debug, Parser)]
#[command(
    name = "relevo-vault",
    version,
    after_help = "\
A vault from nothing:
  relevo-vault init --dir /srv/vault
  relevo-vault serve --dir /srv/vault --listen 0.0.0.0:7443
  relevo-vault token --dir /srv/vault --role agent      hand the token to the server's administrator
  relevo-vault images --dir /srv/vault                  what can be recovered
  relevo-vault verify --dir /srv/vault                  prove it
  relevo-vault audit --dir /srv/vault --verify          who did what, and that nobody changed that
  relevo-vault prune --dir /srv/vault --dry-run         what the settings would let go
  relevo-vault policy --dir /srv/vault                  when servers are imaged, and why

Exit codes: 0 done, 1 failed or damage found, 2 wrong use."
)]
pub struct Arguments {
    /// Log more; twice for everything. RELEVO_LOG takes a filter instead.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The vault's directory.
#[derive(Debug, Args)]
pub struct Place {
    /// Directory of the vault.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new vault.
    Init {
        #[command(flatten)]
        place: Place,
        /// Name for people; the directory's by default.
        #[arg(long)]
        name: Option<String>,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take and give images until SIGTERM or SIGINT.
    Serve {
        #[command(flatten)]
        place: Place,
        /// Where to listen (UDP); port 0 takes a free one.
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7443")]
        listen: SocketAddr,
        /// Serve metrics for Prometheus here (TCP, HTTP /metrics); unprotected, so on an address
        /// that only the scraper reaches.
        #[arg(long, value_name = "ADDR")]
        metrics: Option<SocketAddr>,
        /// Print {"listening":"ADDR"} once ready.
        #[arg(long)]
        json: bool,
    },
    /// Make a single-use token that lets somebody enrol: an agent, a recovery site, a person.
    ///
    /// Works while the vault serves. Whoever has the token gets in: hand it over on a way that
    /// you trust.
    #[command(after_help = "\
relevo-vault token --dir /srv/vault --role agent                 for a new server
relevo-vault token --dir /srv/vault --role agent --again db1     for a server whose agent was lost:
                                                                 the same id, its history goes on
relevo-vault token --dir /srv/vault --role auditor               for a person: relevo-vault remote enroll")]
    Token {
        #[command(flatten)]
        place: Place,
        /// What its bearer becomes.
        #[arg(long)]
        role: Role,
        /// How long it may be used: 90s, 15m, 1h, 7d.
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
        valid: Duration,
        /// The only tenant whose keys may be brought; needed when the vault has several. By
        /// default the vault's only tenant, or whoever comes first.
        #[arg(long)]
        tenant: Option<TenantId>,
        /// Enrol this server, site or person anew, by name or id: it keeps its id and history,
        /// and its earlier certificates are revoked.
        #[arg(long, visible_alias = "server", value_name = "NAME|ID")]
        again: Option<String>,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the recovery points.
    Images {
        #[command(flatten)]
        place: Place,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show how each server is imaged: its policy, where each part of it comes from, next times.
    ///
    /// Agents ask for it every few minutes and before each run. Times have the zone of the
    /// settings; without one each server goes by its own clock, and this machine's is shown.
    Policy {
        #[command(flatten)]
        place: Place,
        /// Only this server, by name or id.
        #[arg(long, value_name = "NAME|ID")]
        server: Option<String>,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take back the space of what no recovery point needs any more.
    ///
    /// Works while the vault serves, which does it by itself too: see [collect] in settings.toml.
    /// Ends with code 1 when something is held back or damaged; the report says why.
    Collect {
        #[command(flatten)]
        place: Place,
        /// Change nothing: say what would go.
        #[arg(long)]
        dry_run: bool,
        /// Also where packs are damaged or missing: what was below a lost index node is then
        /// given up, even if the node should come back.
        #[arg(long)]
        accept_loss: bool,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make the catalogue anew from the packs.
    Rebuild {
        #[command(flatten)]
        place: Place,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    #[command(flatten)]
    Checking(Checking),
    #[command(flatten)]
    Keeping(Keeping),
    #[command(flatten)]
    Governing(Governing),
    /// Print completions for a shell.
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
    /// Print the man page.
    Man,
}

/// Reads the command line; ends the process with code 2 when it is wrong.
pub fn parse() -> Arguments {
    Arguments::parse()
}
