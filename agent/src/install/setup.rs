//! From a program and a token to a service that runs.

use std::path::Path;

use super::files::{self, Origin};
use super::{InstallError, removal, systemd};
use crate::AgentError;
use crate::enroll::{EnrollReport, EnrollRequest, enroll};
use crate::state::StateDir;

/// Installs, enrols, enables and starts. Without a request the server must be enrolled.
pub async fn install(
    state: &StateDir,
    request: Option<EnrollRequest>,
) -> Result<Option<EnrollReport>, AgentError> {
    ready()?;
    let origin = Origin::of_this_program();
    if origin == Origin::Alone && Path::new(files::PACKAGED).exists() {
        return Err(InstallError::Packaged(files::PACKAGED.into()).into());
    }
    let Some(request) = request else {
        state.read()?;
        put(origin)?;
        start()?;
        return Ok(None);
    };
    // What was there before is not this installation's to take away.
    let (had_program, had_state) = (Path::new(files::OWN).exists(), state.path().exists());
    let enrolled = async {
        put(origin)?;
        enroll(state, request).await
    };
    match enrolled.await {
        Ok(report) => {
            start()?;
            Ok(Some(report))
        }
        Err(error) => {
            if !had_program && origin == Origin::Alone {
                files::take_away()?;
            }
            if !had_state {
                removal::take_state(state)?;
            }
            Err(error)
        }
    }
}

/// Whether this is the place to do it.
pub fn ready() -> Result<(), InstallError> {
    match (rustix::process::geteuid().is_root(), systemd::runs()) {
        (false, _) => Err(InstallError::NotRoot),
        (true, false) => Err(InstallError::NoSystemd),
        (true, true) => Ok(()),
    }
}

fn put(origin: Origin) -> Result<(), InstallError> {
    match origin {
        Origin::Package => Ok(()),
        Origin::Alone => files::put(),
    }
}

fn start() -> Result<(), InstallError> {
    systemd::ask(&["daemon-reload"])?;
    systemd::ask(&["enable", files::SERVICE, files::RESUME])?;
    // Anew when it runs already: this may be another release.
    systemd::ask(&["restart", files::SERVICE])
}
