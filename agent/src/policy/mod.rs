//! How this server is to be imaged: what the vault said last.
//!
//! The daemon asks every few minutes, each run when it begins. The answer is kept in the state
//! directory, so that a vault that is away, or an older one that knows no policies, changes
//! nothing. Before the first answer [`BackupPolicy::default`] counts: a state of each day.

use std::io;
use std::path::Path;

use relevo_wire::Timestamp;
use relevo_wire::client::{ClientError, VaultConnection};
use relevo_wire::enrollment::Enrollment;
use relevo_wire::message::{RefusalCode, Request, Response};
use relevo_wire::policy::BackupPolicy;
use relevo_wire::secret_file;
use serde::{Deserialize, Serialize};

use crate::AgentError;
use crate::state::StateDir;

/// The policy in force, and what came of asking for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// What counts.
    pub policy: BackupPolicy,
    /// When the vault last said so; never, when this is the default.
    pub told: Option<Timestamp>,
    /// When it was last asked.
    pub asked: Option<Timestamp>,
    /// Why the last question brought no policy.
    pub trouble: Option<String>,
}

impl Known {
    /// What is kept; the default when nothing is, or nothing that can be read.
    pub fn read(path: &Path) -> Self {
        let read = || -> io::Result<Self> { Ok(serde_json::from_slice(&std::fs::read(path)?)?) };
        match read() {
            Ok(known) => known,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => Self {
                trouble: Some(format!("{}: {error}", path.display())),
                ..Self::default()
            },
        }
    }

    /// Takes what came of a question.
    fn take(&mut self, answer: Result<BackupPolicy, String>) {
        let now = Timestamp::now();
        self.asked = Some(now);
        match answer {
            Ok(policy) => {
                (self.policy, self.told, self.trouble) = (policy, Some(now), None);
            }
            Err(trouble) => self.trouble = Some(trouble),
        }
    }
}

/// Asks the vault and keeps what it says. Only a vault that cannot be spoken with is an error:
/// one that refuses, or says what this release cannot read, leaves the policy as it was.
pub async fn ask(state: &StateDir, enrollment: &Enrollment) -> Result<Known, AgentError> {
    let mut known = Known::read(&state.policy());
    let asked = question(enrollment).await;
    let error = match asked {
        Ok(policy) => {
            known.take(Ok(policy));
            None
        }
        Err(error) => {
            known.take(Err(in_words(&error)));
            let answered = matches!(error, ClientError::Refused(_) | ClientError::Protocol(_));
            (!answered).then_some(error)
        }
    };
    keep(state, &known)?;
    match error {
        Some(error) => Err(error.into()),
        None => Ok(known),
    }
}

async fn question(enrollment: &Enrollment) -> Result<BackupPolicy, ClientError> {
    let (connection, answer) =
        VaultConnection::connect_asking(enrollment, &Request::GetPolicy).await?;
    connection.close().await;
    match answer {
        Response::Policy(policy) => Ok(*policy),
        _ => Err(ClientError::Protocol("an answer that is no policy".into())),
    }
}

fn in_words(error: &ClientError) -> String {
    match error {
        // What a vault says that cannot read the question.
        ClientError::Refused(refusal) if refusal.code == RefusalCode::Malformed => {
            format!("this vault knows no policies, update it ({error})")
        }
        ClientError::Protocol(_) => format!("{error}; update this agent"),
        _ => error.to_string(),
    }
}

fn keep(state: &StateDir, known: &Known) -> Result<(), AgentError> {
    let path = state.policy();
    let text = serde_json::to_vec(known).map_err(|e| AgentError::Internal(e.to_string()))?;
    state.create_schedule()?;
    secret_file::replace(&path, text).map_err(|source| AgentError::State { path, source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use relevo_wire::message::Refusal;

    /// Guards a server whose vault was replaced by an older one, or says what nobody understands:
    /// it goes on as before.
    #[test]
    fn what_is_no_answer_leaves_the_policy_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path().into());
        let mut known = Known::read(&state.policy());
        assert_eq!(known, Known::default());
        let hourly = BackupPolicy {
            calendar: vec!["hourly".parse().unwrap()],
            ..BackupPolicy::default()
        };
        known.take(Ok(hourly.clone()));
        keep(&state, &known).unwrap();
        let mut known = Known::read(&state.policy());
        assert_eq!(
            (known.policy.clone(), known.trouble.clone()),
            (hourly.clone(), None)
        );
        let refusal = Refusal::new(RefusalCode::Malformed, "unknown variant", "ask otherwise");
        known.take(Err(in_words(&refusal.into())));
        assert_eq!(known.policy, hourly);
        assert!(known.trouble.unwrap().contains("update it"));
        std::fs::write(state.policy(), b"{}").unwrap();
        let damaged = Known::read(&state.policy());
        assert_eq!(damaged.policy, BackupPolicy::default());
        assert!(damaged.trouble.is_some());
    }
}
