//! The commands about what is kept: prune, hold, release, lock, locks, delete, retention.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use relevo_wire::Timestamp;

use relevo_vault::control::{self, Request};
use relevo_vault::directory::Directory;
use relevo_vault::error::VaultError;
use relevo_vault::rebuild;
use relevo_vault::retention::points::Which;
use relevo_vault::retention::prune::Scope;
use relevo_vault::retention::simulate::{Schedule, simulate};
use relevo_vault::retention::{Keep, Policy, Within, report};
use relevo_vault::settings::{Settings, Span, Whose};

use crate::arguments::Place;
use crate::run::show;

/// Commands about what is kept.
#[derive(Debug, Subcommand)]
pub enum Keeping {
    /// Delete the recovery points that the policy does not keep.
    ///
    /// The policy is settings.toml's, of each server its own, unless rules are given here. Held
    /// and locked points and each server's newest stay whatever it says. A vault that serves
    /// does this by itself, see [prune] in settings.toml.
    #[command(after_help = "\
relevo-vault prune --dir /srv/vault --dry-run                   what would go, and why the rest stays
relevo-vault prune --dir /srv/vault --server db1 --keep-last 3  by other rules than the settings'")]
    Prune {
        /// Only this server, by name or id.
        #[arg(long)]
        server: Option<String>,
        #[command(flatten)]
        keep: Keep,
        /// Delete nothing: say what would go, and of each point why.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        at: At,
    },
    /// Hold a recovery point back from deletion, until it is released.
    Hold {
        #[command(flatten)]
        which: OfServer,
        /// Why; shown wherever the point stays for it.
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        at: At,
    },
    /// End a hold.
    Release {
        #[command(flatten)]
        which: OfServer,
        /// Why.
        #[arg(long, default_value = "released")]
        reason: String,
        #[command(flatten)]
        at: At,
    },
    /// Lock a recovery point against deletion for a time; nobody can shorten it.
    ///
    /// The time is counted while the vault runs, by a clock that nobody can set. A longer time
    /// lengthens the lock; a shorter one is refused.
    Lock {
        #[command(flatten)]
        which: OfAny,
        /// How long from now on: 36h, 30d, 52w.
        #[arg(long = "for", value_name = "TIME")]
        length: Span,
        #[command(flatten)]
        at: At,
    },
    /// List what is locked and until when.
    Locks {
        #[command(flatten)]
        at: At,
    },
    /// Delete a recovery point, unless it is locked or held.
    Delete {
        #[command(flatten)]
        which: OfAny,
        /// Why; stays on record.
        #[arg(long, default_value = "deleted by hand")]
        reason: String,
        /// Also when it is its server's latest.
        #[arg(long)]
        even_latest: bool,
        #[command(flatten)]
        at: At,
    },
    /// Think a policy through.
    #[command(subcommand)]
    Retention(Thinking),
}

/// Commands that change nothing.
#[derive(Debug, Subcommand)]
pub enum Thinking {
    /// Say what a policy holds after a schedule of backups.
    #[command(after_help = "\
relevo-vault retention simulate --every 1h --for 2y --keep-hourly 24 --keep-daily 7 --keep-weekly 4 \\
  --keep-monthly 12 --time-zone Europe/Berlin
relevo-vault retention simulate --every 1h --for 2y --dir /srv/vault --server db1")]
    Simulate {
        /// Pause between two backups: 15m, 1h, 1d.
        #[arg(long, value_name = "TIME")]
        every: Span,
        /// How long backups are taken: 14d, 6mo, 2y.
        #[arg(long = "for", value_name = "SPAN")]
        length: Within,
        /// The moment of the last one, such as 2026-11-22T12:00:00Z; now by default.
        #[arg(long, value_name = "TIME")]
        end: Option<Timestamp>,
        #[command(flatten)]
        keep: Keep,
        /// The rules of this vault's settings.toml, rather than rules given here.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Those of this server, by name or id, rather than the general ones.
        #[arg(long, requires = "dir")]
        server: Option<String>,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// In which vault, and how to answer.
#[derive(Debug, Args)]
pub struct At {
    #[command(flatten)]
    place: Place,
    /// Print facts as JSON.
    #[arg(long)]
    json: bool,
}

/// A recovery point of a server.
#[derive(Debug, Args)]
pub struct OfServer {
    /// The server, by name or id.
    server: String,
    /// The recovery point: its id or the beginning of it, or latest.
    point: String,
}

impl From<OfServer> for Which {
    fn from(OfServer { server, point }: OfServer) -> Self {
        Self {
            server: Some(server),
            point,
        }
    }
}

/// A recovery point of whatever server.
#[derive(Debug, Args)]
pub struct OfAny {
    /// The recovery point: its id or the beginning of it.
    point: String,
}

impl From<OfAny> for Which {
    fn from(OfAny { point }: OfAny) -> Self {
        Self {
            server: None,
            point,
        }
    }
}

/// Runs one of them.
pub fn run(command: Keeping) -> Result<ExitCode, VaultError> {
    let (at, request) = match command {
        Keeping::Prune {
            server,
            keep,
            dry_run,
            at,
        } => {
            let scope = Scope { server, keep };
            (at, Request::Prune { scope, dry_run })
        }
        Keeping::Hold { which, reason, at } => {
            let which = which.into();
            (at, Request::Hold { which, reason })
        }
        Keeping::Release { which, reason, at } => {
            let which = which.into();
            (at, Request::Release { which, reason })
        }
        Keeping::Lock { which, length, at } => {
            let which = which.into();
            (at, Request::Lock { which, length })
        }
        Keeping::Locks { at } => (at, Request::Locks),
        Keeping::Delete {
            which,
            reason,
            even_latest,
            at,
        } => {
            let request = Request::Delete {
                which: which.into(),
                reason,
                even_latest,
            };
            (at, request)
        }
        Keeping::Retention(thinking) => return think(thinking),
    };
    ask(&at.place, at.json, request)
}

/// Has a request done and prints the answer.
pub fn ask(place: &Place, json: bool, request: Request) -> Result<ExitCode, VaultError> {
    let directory = Directory::open(&place.dir)?;
    let mut note = |text| eprintln!("{text}");
    let answer = control::ask(&directory, request, &mut note)?;
    show(json, &answer.facts, || answer.text)?;
    Ok(match answer.success {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn think(thinking: Thinking) -> Result<ExitCode, VaultError> {
    let Thinking::Simulate {
        every,
        length,
        end,
        keep,
        dir,
        server,
        json,
    } = thinking;
    let policy = match dir {
        None => keep.policy(),
        Some(_) if keep.has_rules() => {
            return Err(VaultError::Usage {
                reason: "rules are given here and by --dir".into(),
                remedy: "leave out the one or the other".into(),
            });
        }
        Some(dir) => policy_of(&dir, server.as_deref())?,
    };
    let schedule = Schedule {
        every: every.duration(),
        length,
        end: end.unwrap_or_else(Timestamp::now),
    };
    let simulated = simulate(schedule, &policy)?;
    show(json, &simulated, || {
        report::simulated(&simulated, &policy.to_string())
    })
}

/// What a vault's settings say of a server, or in general. Sections that count for nobody are
/// told on the way.
fn policy_of(dir: &Path, wanted: Option<&str>) -> Result<Policy, VaultError> {
    let settings = Settings::read(&Settings::path_in(dir))?;
    let beside = rebuild::open_beside(&Directory::open(dir)?)?;
    for section in settings.unmatched(&beside.catalogue)? {
        eprintln!("{section} of settings.toml counts for nobody: look at its spelling");
    }
    let Some(wanted) = wanted else {
        return Ok(settings.retention.policy());
    };
    for tenant in beside.catalogue.tenants()? {
        for server in beside.catalogue.servers(tenant)? {
            if server.name == wanted || server.id.to_string() == wanted {
                return Ok(settings.policy(Whose {
                    tenant,
                    server: server.id,
                    name: &server.name,
                }));
            }
        }
    }
    Err(VaultError::Usage {
        reason: format!("there is no server '{wanted}'"),
        remedy: "'relevo-vault images' lists servers and recovery points".into(),
    })
}
