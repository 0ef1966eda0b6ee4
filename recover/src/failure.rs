//! What went wrong, as the operator is told it: the cause, what to do, and the exit code.

use relevo_wire::client::ClientError;
use relevo_wire::enrollment::EnrollmentError;
use relevo_wire::key::{KeyError, ShareError};
use relevo_wire::manifest::ManifestError;

use crate::block::BlockError;

/// An error at the surface of this crate.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{cause}")]
pub struct Failure {
    /// What happened.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
    /// Exit code of the command: 1, or one of the constants of this type.
    pub code: u8,
}

impl Failure {
    /// A failure without a meaning of its own for scripts.
    pub const FAILED: u8 = 1;
    /// This host cannot run virtual machines: everything but the boot was done.
    pub const NO_KVM: u8 = 5;
    /// The server was started, but did not answer as asked within the time allowed.
    pub const NOT_READY: u8 = 6;
    /// Ended by SIGINT or SIGTERM.
    pub const INTERRUPTED: u8 = 130;

    /// A failure in words.
    pub fn new(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            remedy: remedy.into(),
            code: Self::FAILED,
        }
    }

    /// The same with another exit code.
    #[must_use]
    pub fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// The same with what was being done in front.
    #[must_use]
    pub fn while_doing(mut self, what: &str) -> Self {
        self.cause = format!("{what}: {}", self.cause);
        self
    }

    /// A file that the kernel would not let us use.
    pub fn io(path: &std::path::Path, error: &std::io::Error) -> Self {
        let remedy = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => "make room there, then try again",
            Some(libc::EACCES | libc::EPERM) => "run as root, or give this user access to it",
            Some(libc::ENOENT) => "check the path",
            Some(libc::EROFS) => "choose a place that can be written",
            _ => "check the disk behind it and the kernel's log (dmesg)",
        };
        Self::new(format!("{}: {error}", path.display()), remedy)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::new(error.to_string(), error.remedy())
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let remedy = match &error {
            KeyError::Io { .. } => "check the path; 'relevo-recover keygen --out DIR' makes keys",
            KeyError::Newer { .. } => "update Relevo at this site",
            KeyError::Wrapped { .. } | KeyError::NotByPassphrase(_) => {
                "give --passphrase-file or --recovery-key-file, or name a file in \
                 RELEVO_PASSPHRASE_FILE; on a terminal you are asked"
            }
            KeyError::WrongPassphrase => {
                "check upper and lower case, the keyboard's layout and blanks, and which key file \
                 it is for ('relevo-recover keys show'); the recovery key opens it too, if there is one"
            }
            KeyError::WrongRecoveryKey { .. } => {
                "take the paper that bears the id of a recovery key that opens them"
            }
            KeyError::Altered => "take another copy of the key file, or its paper",
            KeyError::Cost { .. } => "take another copy of the key file: no release writes such",
            KeyError::ShortPassphrase { .. } => {
                "choose a longer one: five random words, for instance"
            }
            KeyError::Typed(_) => "compare that line with the paper and type it again",
            KeyError::Share(ShareError::TooFew { .. }) => "ask further officers for theirs",
            KeyError::Share(ShareError::BadSplit { .. }) => {
                "split it 2 of 3 or 3 of 5, for instance"
            }
            KeyError::Share(_) => "leave that one out, and take another share of the same set",
            KeyError::NotAPaper => {
                "type the lines of the paper with the keys; those of recovery keys and shares go \
                 into --recovery-key-file"
            }
            KeyError::Malformed { .. }
            | KeyError::NoWrapping
            | KeyError::Generations(_)
            | KeyError::NoSecrets
            | KeyError::Disordered
            | KeyError::NotAPair
            | KeyError::BadKey => {
                "give the opening-keys.toml that 'relevo-recover keygen' wrote, or its backup"
            }
        };
        Self::new(error.to_string(), remedy)
    }
}

impl From<EnrollmentError> for Failure {
    fn from(error: EnrollmentError) -> Self {
        Self::new(
            error.to_string(),
            "enrol this site with 'relevo-recover enroll', or name its --state directory",
        )
    }
}

impl From<ManifestError> for Failure {
    fn from(error: ManifestError) -> Self {
        let remedy = match &error {
            ManifestError::Newer(_) => "update Relevo at this site",
            ManifestError::Unauthentic => {
                "check that this site's keys are the ones whose sealing half the agents hold"
            }
            ManifestError::Malformed(_) => {
                "run 'relevo-vault verify'; choose an older recovery point"
            }
        };
        Self::new(error.to_string(), remedy)
    }
}

impl From<BlockError> for Failure {
    fn from(error: BlockError) -> Self {
        match &error {
            BlockError::Io { path, source } => Self::io(path, source),
            BlockError::Unavailable { .. } => Self::new(
                error.to_string(),
                "check the vault ('relevo-vault verify' names damage); choose an older recovery point",
            ),
            BlockError::OutOfRange { .. } => Self::new(
                error.to_string(),
                "the image refers to space beyond its disk: choose another recovery point",
            ),
        }
    }
}
