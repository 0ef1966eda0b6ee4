//! The commands about who may do what, and what was done: revoke, people, audit, status, remote.

use std::process::ExitCode;

use clap::Subcommand;

use relevo_vault::audit::{self, Anchor};
use relevo_vault::control::Request;
use relevo_vault::directory::Directory;
use relevo_vault::error::VaultError;
use relevo_vault::rebuild;
use relevo_wire::TenantId;

use crate::arguments::Place;
use crate::keeping::ask;
use crate::remote_command::{self, RemoteCommand};
use crate::run::show;

/// Commands about who may do what, and what was done.
#[derive(Debug, Subcommand)]
pub enum Governing {
    /// Revoke all certificates of a server's agent, a recovery site or a person.
    ///
    /// They count no more from now on, and connections made with them are closed. A token made
    /// with --again lets the same one in again.
    Revoke {
        #[command(flatten)]
        place: Place,
        /// Name, id or identity.
        who: String,
        /// Why; goes into the audit log.
        #[arg(long)]
        reason: String,
        /// Only somebody of this tenant.
        #[arg(long)]
        tenant: Option<TenantId>,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List who is enrolled: agents, recovery sites, operators, auditors, administrators.
    People {
        #[command(flatten)]
        place: Place,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the audit log, or prove that nobody changed it.
    #[command(after_help = "\
relevo-vault audit --dir /srv/vault            who did what, oldest first
relevo-vault audit --dir /srv/vault --verify   the chain of hashes, and what the packs know of it")]
    Audit {
        #[command(flatten)]
        place: Place,
        /// Check the chain and its anchors in the packs; exit code 1 when something is wrong.
        #[arg(long)]
        verify: bool,
        /// Print facts as JSON: one line an entry.
        #[arg(long)]
        json: bool,
    },
    /// Print what the vault that serves counts, as Prometheus reads it.
    Status {
        #[command(flatten)]
        place: Place,
        /// Print facts as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Look after a tenant's images over the network, as operator, auditor or administrator.
    #[command(subcommand)]
    Remote(RemoteCommand),
}

/// Runs one of them.
pub fn run(command: Governing) -> Result<ExitCode, VaultError> {
    match command {
        Governing::Revoke {
            place,
            who,
            reason,
            tenant,
            json,
        } => {
            let request = Request::Revoke {
                tenant,
                who,
                reason,
            };
            ask(&place, json, request)
        }
        Governing::People { place, json } => people(&place, json),
        Governing::Audit {
            place,
            verify: true,
            json,
        } => verify(&place, json),
        Governing::Audit {
            place,
            verify: false,
            json,
        } => list(&place, json),
        Governing::Status { place, json } => ask(&place, json, Request::Status),
        Governing::Remote(command) => remote_command::run(command),
    }
}

fn people(place: &Place, json: bool) -> Result<ExitCode, VaultError> {
    let beside = rebuild::open_beside(&Directory::open(&place.dir)?)?;
    let mut all = Vec::new();
    for tenant in beside.catalogue.tenants()? {
        all.extend(beside.catalogue.enrolled(tenant)?);
    }
    show(json, &all, || {
        let line = |one: &relevo_vault::catalogue::Enrolled| {
            let revoked = match one.revoked {
                Some(until) if until >= one.enrolled => ", revoked",
                _ => "",
            };
            format!(
                "{}  {}, enrolled {}{revoked}\n",
                one.name, one.identity, one.enrolled
            )
        };
        all.iter().map(line).collect()
    })
}

fn list(place: &Place, json: bool) -> Result<ExitCode, VaultError> {
    let directory = Directory::open(&place.dir)?;
    let mut lines = Vec::new();
    audit::each_entry(directory.path(), |line| lines.push(line))?;
    for line in lines {
        show(json, &line, || {
            let (number, time, act) = (line.sequence, line.time, &line.act);
            format!(
                "{number}  {time}  {act}  {}  by {}: {}\n",
                line.on, line.who, line.result
            )
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(place: &Place, json: bool) -> Result<ExitCode, VaultError> {
    let directory = Directory::open(&place.dir)?;
    let beside = rebuild::open_beside(&directory)?;
    let mut anchors = Vec::new();
    for tenant in beside.catalogue.tenants()? {
        let anchor = beside.catalogue.audit_anchor(tenant)?;
        let anchor = anchor.filter(|(entries, _)| *entries > 0);
        anchors.extend(anchor.map(|(entries, hash)| Anchor { entries, hash }));
    }
    let checked = audit::check(directory.path(), directory.file().vault, &anchors)?;
    show(json, &checked, || {
        let mut text = format!(
            "{} entries in {} files, {} of them known to the packs, head {}\n",
            checked.entries, checked.files, checked.anchored, checked.head
        );
        for fault in &checked.faults {
            text += &format!("{fault}\n");
        }
        if checked.faults.is_empty() {
            text += "as it was written\n";
        }
        text
    })?;
    Ok(match checked.faults.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
