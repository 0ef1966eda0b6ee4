//! Makes this server known to a vault.

use std::path::PathBuf;

use relevo_wire::client::{self, Renewal};
use relevo_wire::enrollment::{Enrollment, Token};
use relevo_wire::key::SealingKeys;
use relevo_wire::{ServerId, Timestamp};
use serde::Serialize;

use crate::AgentError;
use crate::state::{StateDir, agent_of};

/// What to enrol with.
pub struct EnrollRequest {
    /// The vault, `HOST:PORT`.
    pub vault: String,
    /// The token, as printed.
    pub token: String,
    /// The file of the tenant's sealing keys.
    pub keys: PathBuf,
    /// The server's name for people; its host name if none is given.
    pub name: Option<String>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct EnrollReport {
    /// The server's name.
    pub name: String,
    /// Its id for life.
    pub server: ServerId,
    /// The vault.
    pub vault: String,
    /// When the certificate expires.
    pub expires: Timestamp,
}

/// Enrols. All that can be checked is checked before the token is spent.
pub async fn enroll(state: &StateDir, request: EnrollRequest) -> Result<EnrollReport, AgentError> {
    let token: Token = request.token.parse()?;
    let keys = SealingKeys::read(&request.keys)?;
    state.create()?;
    let _lock = state.lock()?;
    if state.enrollment().exists() {
        return Err(AgentError::AlreadyEnrolled(state.enrollment()));
    }
    let wrote_keys = keep_keys(state, &keys)?;
    let name = request.name.unwrap_or_else(host_name);
    let result = client::enroll(&request.vault, &token, &name, keys.tenant).await;
    let checked = result
        .map_err(AgentError::from)
        .and_then(|enrollment| Ok((agent_of(&enrollment, &keys)?, enrollment)));
    let ((_, server), enrollment) = match checked {
        Ok(checked) => checked,
        Err(error) => {
            if wrote_keys {
                // Another try may come with other keys; the original file is where it was.
                let _ = std::fs::remove_file(state.keys());
            }
            return Err(error);
        }
    };
    enrollment.write(&state.enrollment())?;
    Ok(EnrollReport {
        name,
        server,
        vault: enrollment.vault,
        expires: enrollment.expires,
    })
}

/// The enrolment to connect with: a new one in the file's place when less than half of the
/// certificate's time was left, else the same. A renewal that fails is a warning until the old
/// certificate expires, since every run tries again.
pub async fn renewed(state: &StateDir, enrollment: Enrollment) -> Enrollment {
    match client::renew_when_due(&enrollment, &state.enrollment()).await {
        Renewal::NotDue => enrollment,
        Renewal::Renewed(renewed) => {
            tracing::info!(expires = %renewed.expires, "certificate renewed");
            renewed
        }
        Renewal::Failed(reason) => {
            let expires = enrollment.expires;
            tracing::warn!("the certificate, good until {expires}, was not renewed: {reason}");
            enrollment
        }
    }
}

/// Copies the keys into the state directory. True when they were not there yet.
fn keep_keys(state: &StateDir, keys: &SealingKeys) -> Result<bool, AgentError> {
    let path = state.keys();
    if !path.exists() {
        keys.write(&path)?;
        return Ok(true);
    }
    let kept = SealingKeys::read(&path)?;
    let same =
        kept.tenant == keys.tenant && kept.secret == keys.secret && kept.public == keys.public;
    if same {
        Ok(false)
    } else {
        Err(AgentError::OtherKeys(path))
    }
}

fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}
