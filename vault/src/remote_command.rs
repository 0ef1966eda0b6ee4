//! `relevo-vault remote`: the commands of people who look after a vault from afar.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use relevo_vault::catalogue::Role;
use relevo_vault::error::VaultError;
use relevo_vault::remote::{Connected, Remote};
use relevo_vault::token::parse_duration;
use relevo_wire::message::{PointEntry, Request, TenantReport};
use relevo_wire::{PointId, ServerId, Timestamp};

use crate::run::show;

/// Where this person's enrolment is, and how facts are printed.
#[derive(Debug, Args)]
pub struct From {
    /// Directory of the enrolment [default: ~/.relevo].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Print facts as JSON.
    #[arg(long)]
    json: bool,
}

impl From {
    fn state(&self) -> Result<PathBuf, VaultError> {
        let home = || std::env::home_dir().map(|home| home.join(".relevo"));
        self.state
            .clone()
            .or_else(home)
            .ok_or_else(|| VaultError::Usage {
                reason: "this user has no home directory".into(),
                remedy: "name a directory with --state".into(),
            })
    }
}

/// A recovery point, and why something is done with it.
#[derive(Debug, Args)]
pub struct About {
    /// The server, by name or id.
    server: String,
    /// The recovery point: its id or the beginning of it, or latest.
    point: String,
    /// Why; goes into the audit log.
    #[arg(long)]
    reason: String,
}

/// What can be asked from afar; the role of the enrolment decides what is answered.
#[derive(Debug, Subcommand)]
pub enum RemoteCommand {
    /// Turn a token into an enrolment, once.
    Enroll {
        #[command(flatten)]
        from: From,
        /// Where the vault is, HOST:PORT.
        #[arg(long)]
        vault: String,
        /// What 'relevo-vault token --role operator|auditor|administrator' printed.
        #[arg(long)]
        token: String,
        /// Who this is, for people.
        #[arg(long)]
        name: String,
    },
    /// List the servers and their newest recovery points.
    Servers {
        #[command(flatten)]
        from: From,
    },
    /// List a server's recovery points.
    Points {
        #[command(flatten)]
        from: From,
        /// The server, by name or id.
        server: String,
    },
    /// What the tenant keeps: amounts, quota, verification, collection.
    Report {
        #[command(flatten)]
        from: From,
    },
    /// The tenant's entries in the audit log. For auditors and administrators.
    Audit {
        #[command(flatten)]
        from: From,
        /// Only entries with higher numbers.
        #[arg(long, default_value_t = 0)]
        after: u64,
    },
    /// Hold a recovery point back from deletion. For operators and administrators.
    Hold {
        #[command(flatten)]
        from: From,
        #[command(flatten)]
        about: About,
    },
    /// End a hold. For administrators.
    Release {
        #[command(flatten)]
        from: From,
        #[command(flatten)]
        about: About,
    },
    /// Lock a recovery point: nobody deletes it before that, whoever he is. For operators and
    /// administrators.
    Lock {
        #[command(flatten)]
        from: From,
        /// The server, by name or id.
        server: String,
        /// The recovery point: its id or the beginning of it, or latest.
        point: String,
        /// For so many days of the vault's running time, from now on.
        #[arg(long)]
        days: u16,
    },
    /// Delete a recovery point, unless it is held or locked. For administrators.
    Delete {
        #[command(flatten)]
        from: From,
        #[command(flatten)]
        about: About,
        /// Also when it is its server's latest.
        #[arg(long)]
        even_latest: bool,
    },
    /// Revoke all certificates of a server's agent, a recovery site or a person. For
    /// administrators.
    Revoke {
        #[command(flatten)]
        from: From,
        /// Name, id or identity.
        who: String,
        /// Why; goes into the audit log.
        #[arg(long)]
        reason: String,
    },
    /// Make a single-use token for somebody of the tenant. For administrators.
    Token {
        #[command(flatten)]
        from: From,
        /// What its bearer becomes.
        #[arg(long)]
        role: Role,
        /// How long it may be used: 90s, 15m, 1h, 7d.
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
        valid: Duration,
        /// Enrol this server, site or person anew, by name or id: it keeps its id and history,
        /// and its earlier certificates are revoked.
        #[arg(long, visible_alias = "server", value_name = "NAME|ID")]
        again: Option<String>,
    },
}

/// Runs one of them.
pub fn run(command: RemoteCommand) -> Result<ExitCode, VaultError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| VaultError::io("a runtime", e))?;
    runtime.block_on(ask(command))
}

async fn open(from: &From) -> Result<Connected, VaultError> {
    Remote::open(&from.state()?)?.connect().await
}

async fn ask(command: RemoteCommand) -> Result<ExitCode, VaultError> {
    match command {
        RemoteCommand::Enroll {
            from,
            vault,
            token,
            name,
        } => enroll(&from, &vault, &token, &name).await,
        RemoteCommand::Servers { from } => {
            let vault = open(&from).await?;
            let servers = vault.servers().await?;
            vault.close().await;
            show(from.json, &servers, || {
                let line = |s: &relevo_wire::message::ServerEntry| {
                    let latest = s.latest.map_or("none".into(), |t| t.to_string());
                    format!(
                        "{}  {}  {} points, latest {latest}\n",
                        s.name, s.id, s.points
                    )
                };
                servers.iter().map(line).collect()
            })
        }
        RemoteCommand::Points { from, server } => {
            let vault = open(&from).await?;
            let server = vault.server(&server).await?;
            let points: Vec<_> = vault.points(&server).await?.iter().map(Point::of).collect();
            vault.close().await;
            show(from.json, &points, || {
                points.iter().map(Point::line).collect()
            })
        }
        RemoteCommand::Report { from } => {
            let vault = open(&from).await?;
            let report = vault.report().await?;
            vault.close().await;
            show(from.json, &report, || page(&report))
        }
        RemoteCommand::Audit { from, after } => {
            let vault = open(&from).await?;
            let entries = vault.audit(after).await?;
            vault.close().await;
            show(from.json, &entries, || {
                let line = |e: &relevo_wire::message::AuditEntry| {
                    let (number, time, act) = (e.sequence, e.time, &e.act);
                    format!(
                        "{number}  {time}  {act}  {}  by {}: {}\n",
                        e.on, e.who, e.result
                    )
                };
                entries.iter().map(line).collect()
            })
        }
        RemoteCommand::Hold { from, about } => {
            act(&from, &about.server, &about.point, |point| Request::Hold {
                point,
                reason: about.reason.clone(),
            })
            .await
        }
        RemoteCommand::Release { from, about } => {
            act(&from, &about.server, &about.point, |point| {
                Request::Release {
                    point,
                    reason: about.reason.clone(),
                }
            })
            .await
        }
        RemoteCommand::Lock {
            from,
            server,
            point,
            days,
        } => {
            act(&from, &server, &point, |point| Request::LockPoint {
                point,
                days,
            })
            .await
        }
        RemoteCommand::Delete {
            from,
            about,
            even_latest,
        } => {
            act(&from, &about.server, &about.point, |point| {
                Request::DeletePoint {
                    point,
                    reason: about.reason.clone(),
                    even_latest,
                }
            })
            .await
        }
        RemoteCommand::Revoke { from, who, reason } => {
            let vault = open(&from).await?;
            let what = vault.act(&Request::Revoke { who, reason }).await?;
            vault.close().await;
            show(from.json, &Done { done: &what }, || format!("{what}\n"))
        }
        RemoteCommand::Token {
            from,
            role,
            valid,
            again,
        } => {
            let vault = open(&from).await?;
            let request = Request::MakeToken {
                role: role.into(),
                valid: u64::try_from(valid.as_millis()).unwrap_or(u64::MAX),
                again,
            };
            let (token, expires) = vault.token(&request).await?;
            vault.close().await;
            #[derive(Serialize)]
            struct Made<'a> {
                token: &'a str,
                role: Role,
                expires: Timestamp,
            }
            let made = Made {
                token: &token,
                role,
                expires,
            };
            show(from.json, &made, || {
                eprintln!("good for one enrolment until {expires}");
                format!("{token}\n")
            })
        }
    }
}

async fn enroll(from: &From, vault: &str, token: &str, name: &str) -> Result<ExitCode, VaultError> {
    let remote = Remote::enroll(&from.state()?, vault, token, name).await?;
    let enrolled = remote.enrollment();
    #[derive(Serialize)]
    struct Facts<'a> {
        name: &'a str,
        identity: &'a str,
        vault: &'a str,
        expires: Timestamp,
    }
    let facts = Facts {
        name: &enrolled.name,
        identity: &enrolled.identity,
        vault: &enrolled.vault,
        expires: enrolled.expires,
    };
    show(from.json, &facts, || {
        let (name, identity, expires) = (facts.name, facts.identity, facts.expires);
        format!("enrolled as {name} ({identity})\nwith vault {vault} until {expires}\n")
    })
}

#[derive(Serialize)]
struct Done<'a> {
    done: &'a str,
}

/// Does something with a recovery point of a server.
async fn act(
    from: &From,
    server: &str,
    point: &str,
    request: impl Fn(PointId) -> Request,
) -> Result<ExitCode, VaultError> {
    let vault = open(from).await?;
    let point = vault.point(server, point).await?;
    let what = vault.act(&request(point)).await?;
    vault.close().await;
    show(from.json, &Done { done: &what }, || format!("{what}\n"))
}

/// A recovery point as it is printed.
#[derive(Serialize)]
struct Point {
    point: PointId,
    server: ServerId,
    taken: Timestamp,
    committed: Timestamp,
    disk_bytes: u64,
    stored_bytes: u64,
    verified: Option<Timestamp>,
}

impl Point {
    fn of(entry: &PointEntry) -> Self {
        Self {
            point: entry.manifest.point,
            server: entry.manifest.server,
            taken: entry.manifest.taken,
            committed: entry.committed,
            disk_bytes: entry.manifest.totals.disk,
            stored_bytes: entry.stored,
            verified: entry.verified,
        }
    }

    fn line(&self) -> String {
        let verified = self.verified.map_or("never".into(), |t| t.to_string());
        format!(
            "{}  taken {}, {} of {} bytes stored, proven whole {verified}\n",
            self.point, self.taken, self.stored_bytes, self.disk_bytes
        )
    }
}

fn page(report: &TenantReport) -> String {
    let moment = |at: Option<Timestamp>| at.map_or("never".into(), |at| at.to_string());
    let limit = match report.quota_bytes {
        Some(limit) => format!(" of {limit} allowed"),
        None => String::new(),
    };
    let rate = match report.quota_rate {
        Some(rate) => format!(", at most {rate} bytes/s come in"),
        None => String::new(),
    };
    let mut page = format!(
        "tenant     {}\nstored     {} bytes{limit}, {} of them dead{rate}\n\
         points     {}, {} held, {} never proven whole (the oldest proof: {})\n\
         deleted    {} points; {} packs collected, last {}\ndamage     {} pieces known\n",
        report.tenant,
        report.stored_bytes,
        report.dead_bytes,
        report.points,
        report.held,
        report.unverified,
        moment(report.oldest_verification),
        report.deleted,
        report.retired_packs,
        moment(report.last_collected),
        report.losses
    );
    for server in &report.servers {
        let (name, points, latest) = (&server.name, server.points, moment(server.latest));
        page += &format!("server     {name}: {points} points, latest {latest}\n");
    }
    page
}
