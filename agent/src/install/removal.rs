//! Takes all away again.

use std::fs;
use std::path::Path;

use super::files::{self, Origin};
use super::setup::ready;
use super::{InstallError, network, systemd};
use crate::AgentError;
use crate::state::StateDir;
use crate::tracking;

/// Stops the service and the programs in the kernel, and takes away every file, but for the state
/// directory and the administrator's hooks when those are to be kept. Whether the package is left.
pub fn uninstall(state: &StateDir, keep_state: bool) -> Result<Origin, AgentError> {
    ready()?;
    for unit in [files::SERVICE, files::RESUME] {
        // One that was never enabled, or is gone already, is no obstacle.
        if let Err(error) = systemd::ask(&["disable", "--now", unit]) {
            tracing::debug!("{error}");
        }
    }
    {
        // Somebody may be imaging by hand.
        let _lock = match state.enrollment().exists() {
            true => Some(state.lock()?),
            false => None,
        };
        tracking::probe::Probe::stop_all().map_err(|source| AgentError::State {
            path: "/sys/fs/bpf/relevo".into(),
            source,
        })?;
        // Marks that nobody makes any more say nothing.
        files::remove(&state.tracking())?;
    }
    network::forget()?;
    let origin = Origin::of_this_program();
    if !keep_state {
        take_state(state)?;
        files::remove(&Path::new(files::SETTINGS).join("hooks"))?;
        // Others may live there, too.
        let _ = fs::remove_dir(files::SETTINGS);
    }
    if origin == Origin::Alone {
        files::take_away()?;
    }
    systemd::ask(&["daemon-reload"])?;
    // Not known any more, or never failed.
    let _ = systemd::ask(&["reset-failed", files::SERVICE]);
    Ok(origin)
}

/// The state directory, and the one above unless others of Relevo's programs live there.
pub fn take_state(state: &StateDir) -> Result<(), InstallError> {
    files::remove(state.path())?;
    let _ = state.path().parent().map(fs::remove_dir);
    Ok(())
}
