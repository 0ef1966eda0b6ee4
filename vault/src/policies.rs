//! `relevo-vault policy`: how each server is imaged, and why.

use std::fmt::Write;

use relevo_wire::zone::Zone;
use relevo_wire::{ServerId, TenantId, Timestamp};
use serde::Serialize;

use crate::directory::Directory;
use crate::error::VaultError;
use crate::images::age;
use crate::settings::{Resolved, Settings, Whose};

/// Times of a calendar that are shown.
const TIMES: usize = 3;

/// How one server is imaged.
#[derive(Clone, Debug, Serialize)]
pub struct ServerPolicy {
    /// Whose.
    pub tenant: TenantId,
    /// The server.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// The moment of its newest recovery point.
    pub latest: Option<Timestamp>,
    /// What counts, and why.
    #[serde(flatten)]
    pub resolved: Resolved,
    /// The next times of its calendar. Servers are spread over some time after each.
    pub next: Vec<Timestamp>,
    /// Whose clock `next` was reckoned with: that of the settings, else this machine's in the
    /// place of the server's, which nobody knows here.
    pub zone: Zone,
}

/// Of all servers that the vault knows, or of one by name or id. Works beside a vault that
/// serves.
pub fn list(directory: &Directory, wanted: Option<&str>) -> Result<Vec<ServerPolicy>, VaultError> {
    let settings = Settings::read(&Settings::path_in(directory.path()))?;
    let catalogue = crate::rebuild::open_beside(directory)?.catalogue;
    let mut policies = Vec::new();
    for tenant in catalogue.tenants()? {
        let servers = catalogue.servers(tenant)?.into_iter();
        let is_wanted = |name: &str, id: ServerId| {
            wanted.is_none_or(|wanted| wanted == name || wanted == id.to_string())
        };
        for server in servers.filter(|s| is_wanted(&s.name, s.id)) {
            let whose = Whose {
                tenant,
                server: server.id,
                name: &server.name,
            };
            let resolved = settings.backup(whose);
            let zone = resolved.policy.time_zone.clone();
            let zone = zone.unwrap_or_else(Zone::of_this_machine);
            let after = |at: &Timestamp| resolved.policy.next_event(*at, &zone);
            let next = std::iter::successors(after(&Timestamp::now()), after);
            policies.push(ServerPolicy {
                tenant,
                server: server.id,
                latest: server.latest,
                next: next.take(TIMES).collect(),
                name: server.name,
                resolved,
                zone,
            });
        }
    }
    match wanted {
        Some(wanted) if policies.is_empty() => Err(VaultError::Usage {
            reason: format!("there is no server '{wanted}'"),
            remedy: "without --server, 'relevo-vault policy' shows all".into(),
        }),
        _ => Ok(policies),
    }
}

/// For people.
pub fn page(policies: &[ServerPolicy], now: Timestamp) -> String {
    if policies.is_empty() {
        return "no servers yet: enrol an agent with a token\n".into();
    }
    let mut text = String::new();
    for (number, one) in policies.iter().enumerate() {
        if number > 0 {
            text.push('\n');
        }
        let state = match one.latest {
            Some(latest) => format!("newest state {} old", age(now.since(latest).as_secs())),
            None => "no recovery point yet".into(),
        };
        // Writing to memory does not fail.
        let _ = writeln!(text, "{} ({}), {state}", one.name, one.server);
        for origin in &one.resolved.origins {
            let (key, value, from) = (origin.key, &origin.value, &origin.from);
            let _ = writeln!(text, "  {key:<12} {value:<40} {from}");
        }
        for (number, next) in one.next.iter().enumerate() {
            let local = one.zone.local(*next).strftime("%a %Y-%m-%d %H:%M:%S");
            let label = if number == 0 { "next" } else { "" };
            let _ = writeln!(text, "  {label:<12} {local} {}", one.zone);
        }
        if one.next.is_empty() {
            let _ = match one.resolved.policy.calendar.is_empty() {
                true => writeln!(text, "  {:<12} before the state is older than rpo", "next"),
                false => writeln!(
                    text,
                    "  {:<12} never: the calendar has no more times",
                    "next"
                ),
            };
        }
    }
    text
}
