//! `settings.toml` in the vault's directory: what its operator decides.
//!
//! Every section and key is optional; the defaults stand with the fields. An unknown key is
//! refused by name and line. `serve` reads the file at its start and again when it changes or
//! at SIGHUP ([`watch`]); a version that cannot be read leaves the one before in force.
//!
//! What was promised does not hang on this file: a lock is written into the packs when it is
//! given, and stays whatever is changed or deleted here.

pub mod amount;
mod backup;
mod resolve;
mod sections;
mod unmatched;
pub mod watch;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use relevo_wire::{ServerId, TenantId};

use crate::error::VaultError;
use crate::retention::Keep;

pub use amount::{Rate, Size, Span};
pub use backup::{Backup, Origin, Resolved};
pub use resolve::Whose;
pub use sections::{Collect, Every, HealFrom, Immutability, Parity, Prune, Quota, Scrub};
pub use watch::SettingsWatch;

/// The file's name in the vault's directory.
pub const FILE: &str = "settings.toml";

/// All of `settings.toml`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// What is kept; without it everything.
    pub retention: Keep,
    /// When that is applied.
    pub prune: Prune,
    /// Locks from the commit on.
    pub immutability: Immutability,
    /// Taking back space.
    pub collect: Collect,
    /// Reading everything again.
    pub scrub: Scrub,
    /// Parity, when wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parity: Option<Parity>,
    /// Where damage may be healed from.
    pub heal_from: Vec<HealFrom>,
    /// What each tenant may store.
    pub quota: Quota,
    /// When and how gently servers are imaged.
    pub backup: Backup,
    /// Tenants with settings of their own.
    pub tenant: Vec<TenantSettings>,
    /// Servers with settings of their own.
    pub server: Vec<ServerSettings>,
}

/// `[[tenant]]`: settings that differ for one tenant. A section that is given takes the place of
/// the general one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TenantSettings {
    /// Which.
    pub id: TenantId,
    /// In the place of `[retention]`.
    pub retention: Option<Keep>,
    /// In the place of `[immutability]`.
    pub immutability: Option<Immutability>,
    /// In the place of the keys of `[quota]` that it gives.
    pub quota: Option<Quota>,
    /// In the place of the keys of `[backup]` that it gives.
    pub backup: Option<Backup>,
}

/// `[[server]]`: settings that differ for one server, found by id, or by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ServerSettings {
    /// Which; counts before a name.
    pub id: Option<ServerId>,
    /// All servers of this name, of any tenant when `tenant` is not given.
    pub name: Option<String>,
    /// Of this tenant only.
    pub tenant: Option<TenantId>,
    /// In the place of its tenant's.
    pub retention: Option<Keep>,
    /// In the place of its tenant's.
    pub immutability: Option<Immutability>,
    /// In the place of the keys of its tenant's that it gives.
    pub backup: Option<Backup>,
}

impl Settings {
    /// Of the vault in this directory.
    pub fn path_in(vault: &Path) -> PathBuf {
        vault.join(FILE)
    }

    /// Reads the file; the defaults when there is none.
    pub fn read(path: &Path) -> Result<Self, VaultError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).map_err(|reason| VaultError::Directory {
                path: path.into(),
                reason,
                remedy: "correct that line; docs/settings.md names every key and its default",
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(VaultError::io(path, e)),
        }
    }

    /// Reads the file's text. The error names line and key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let settings: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            place(text, at, error.message())
        })?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), String> {
        let share = self.collect.rewrite_at;
        if !(share > 0.0 && share <= 1.0) {
            return Err(format!(
                "[collect] rewrite-at = {share}: it is a share above 0 and at most 1"
            ));
        }
        if let Some(parity) = self.parity
            && u16::from(parity.data.get()) + u16::from(parity.parity.get()) > 255
        {
            return Err("[parity]: data and parity are at most 255 packs together".into());
        }
        let tenants = self.tenant.iter().filter_map(|t| t.backup.as_ref());
        let servers = self.server.iter().filter_map(|s| s.backup.as_ref());
        for backup in tenants.chain(servers).chain([&self.backup]) {
            backup.check()?;
        }
        for (at, tenant) in self.tenant.iter().enumerate() {
            if self.tenant[..at].iter().any(|t| t.id == tenant.id) {
                return Err(format!("[[tenant]] {} is there twice", tenant.id));
            }
        }
        for (at, server) in self.server.iter().enumerate() {
            let who = match (server.id, &server.name) {
                (Some(id), None) => id.to_string(),
                (None, Some(name)) => format!("'{name}'"),
                _ => return Err("a [[server]] needs an id, or a name, and not both".into()),
            };
            let same = |s: &ServerSettings| {
                (s.id, &s.name, s.tenant) == (server.id, &server.name, server.tenant)
            };
            if self.server[..at].iter().any(same) {
                return Err(format!("[[server]] {who} is there twice"));
            }
        }
        Ok(())
    }
}

/// An error's text with the line and section it is in.
fn place(text: &str, at: usize, message: &str) -> String {
    let before = text.get(..at).unwrap_or(text);
    let number = before.matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or_default().trim();
    let section = before
        .lines()
        .map(str::trim)
        .rfind(|line| line.starts_with('['));
    match section {
        Some(section) if !line.starts_with('[') => {
            format!("line {number}, '{line}' in {section}: {message}")
        }
        _ => format!("line {number}, '{line}': {message}"),
    }
}

#[cfg(test)]
mod tests;
