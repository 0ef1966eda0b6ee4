//! What the service may speak with: this server, its name servers, and what the vault's name
//! means now.
//!
//! The unit denies every address but this server's own. Before the daemon starts, and before each
//! of its backups, systemd is told of the others (`IPAddressAllow`, as a property that
//! lasts until the server is restarted): first the name servers, so that they can be asked, then
//! the vault. What was allowed before and is not any more is denied from then on.

use std::net::IpAddr;
use std::path::Path;

use relevo_wire::client::resolve::Resolver;

use super::{InstallError, files, systemd};

/// Where systemd keeps properties that were set until the next restart.
const SET: &str = "/run/systemd/system.control/relevo-agent.service.d";

/// The same for a run that the service started, before it speaks with the vault: the name may mean
/// another address than when the service was started. That it fails is told by what fails next.
pub async fn renew(vault: &str) {
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if group.lines().any(|line| line.ends_with(files::SERVICE))
        && let Err(error) = allow(vault).await
    {
        tracing::info!("{error}");
    }
}

/// Lets the service speak with the vault at `HOST:PORT`, and no other; which addresses that is.
pub async fn allow(vault: &str) -> Result<Vec<IpAddr>, InstallError> {
    let resolver = Resolver::default();
    let servers = resolver.servers();
    let no_such = |reason: String| InstallError::Address {
        vault: vault.into(),
        reason,
    };
    // What is allowed now may not include a name server that was changed.
    let found = match resolver.lookup(vault).await {
        Ok(found) => found,
        Err(_) => {
            set(&servers, &[])?;
            resolver.lookup(vault).await.map_err(no_such)?
        }
    };
    let addresses: Vec<_> = found.iter().map(|a| a.ip()).collect();
    set(&servers, &addresses)?;
    Ok(addresses)
}

fn set(servers: &[IpAddr], vault: &[IpAddr]) -> Result<(), InstallError> {
    let others = servers.iter().chain(vault).map(ToString::to_string);
    let all: Vec<_> = ["127.0.0.0/8", "::1/128"]
        .into_iter()
        .map(String::from)
        .chain(others)
        .collect();
    // An empty list first: what was set before is forgotten.
    let list = format!("IPAddressAllow={}", all.join(" "));
    systemd::ask(&[
        "set-property",
        "--runtime",
        files::SERVICE,
        "IPAddressAllow=",
        &list,
    ])
}

/// Forgets what was set.
pub fn forget() -> Result<(), InstallError> {
    files::remove(Path::new(SET))
}
