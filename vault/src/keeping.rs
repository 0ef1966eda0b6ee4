//! The commands about what is kept: prune, hold, release, lock, locks, delete, retention.

use std::process::ExitCode;

use clap::Subcommand;
use relevo_wire::Timestamp;

use relevo_vault::control::{self, Request};
use relevo_vault::directory::Directory;
use relevo_vault::error::VaultError;
use relevo_vault::retention::points::Which;
use relevo_vault::retention::prune::Scope;
use relevo_vault::retention::simulate::{Schedule, simulate};
use relevo_vault::retention::{Keep, Within, report};
use relevo_vault::settings::Span;

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
        #[command(flatten)]
        place: Place,
        /// Only this server, by name or id.
        #[arg(long)]
        server: Option<String>,
        #[command(flatten)]
        keep: Keep,
        /// Delete nothing: say what would go, and of each point why.
        #[arg(long)]
        dry_run: bool,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Hold a recovery point back from deletion, until it is released.
    Hold {
        #[command(flatten)]
        place: Place,
        /// The server, by name or id.
        server: String,
        /// The recovery point: its id or the beginning of it, or latest.
        point: String,
        /// Why; shown wherever the point stays for it.
        #[arg(long)]
        reason: String,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// End a hold.
    Release {
        #[command(flatten)]
        place: Place,
        /// The server, by name or id.
        server: String,
        /// The recovery point: its id or the beginning of it, or latest.
        point: String,
        /// Why.
        #[arg(long, default_value = "released")]
        reason: String,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lock a recovery point against deletion for a time; nobody can shorten it.
    ///
    /// The time is counted while the vault runs, by a clock that nobody can set. A longer time
    /// lengthens the lock; a shorter one is refused.
    Lock {
        #[command(flatten)]
        place: Place,
        /// The recovery point: its id or the beginning of it.
        point: String,
        /// How long from now on: 36h, 30d, 52w.
        #[arg(long = "for", value_name = "TIME")]
        length: Span,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List what is locked and until when.
    Locks {
        #[command(flatten)]
        place: Place,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Delete a recovery point, unless it is locked or held.
    Delete {
        #[command(flatten)]
        place: Place,
        /// The recovery point: its id or the beginning of it.
        point: String,
        /// Why; stays on record.
        #[arg(long, default_value = "deleted by hand")]
        reason: String,
        /// Also when it is its server's latest.
        #[arg(long)]
        even_latest: bool,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Think a policy through.
    #[command(subcommand)]
    Retention(Thinking),
}

/// Commands that need no vault.
#[derive(Debug, Subcommand)]
pub enum Thinking {
    /// Say what a policy holds after a schedule of backups.
    #[command(after_help = "\
relevo-vault retention simulate --every 1h --for 2y --keep-hourly 24 --keep-daily 7 --keep-weekly 4 \\
  --keep-monthly 12 --time-zone Europe/Berlin")]
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
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs one of them.
pub fn run(command: Keeping) -> Result<ExitCode, VaultError> {
    let of_server = |server: String, point| Which {
        server: Some(server),
        point,
    };
    let point_only = |point| Which {
        server: None,
        point,
    };
    let (place, json, request) = match command {
        Keeping::Prune {
            place,
            server,
            keep,
            dry_run,
            json,
        } => {
            let scope = Scope { server, keep };
            (place, json, Request::Prune { scope, dry_run })
        }
        Keeping::Hold {
            place,
            server,
            point,
            reason,
            json,
        } => {
            let which = of_server(server, point);
            (place, json, Request::Hold { which, reason })
        }
        Keeping::Release {
            place,
            server,
            point,
            reason,
            json,
        } => {
            let which = of_server(server, point);
            (place, json, Request::Release { which, reason })
        }
        Keeping::Lock {
            place,
            point,
            length,
            json,
        } => {
            let which = point_only(point);
            (place, json, Request::Lock { which, length })
        }
        Keeping::Locks { place, json } => (place, json, Request::Locks),
        Keeping::Delete {
            place,
            point,
            reason,
            even_latest,
            json,
        } => {
            let which = point_only(point);
            let request = Request::Delete {
                which,
                reason,
                even_latest,
            };
            (place, json, request)
        }
        Keeping::Retention(thinking) => return think(thinking),
    };
    ask(&place, json, request)
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
        json,
    } = thinking;
    let policy = keep.policy();
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
