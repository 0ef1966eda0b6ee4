//! What can go wrong in the agent, in words, and what to do about it.

use std::io;
use std::path::PathBuf;

use relevo_wire::client::ClientError;
use relevo_wire::enrollment::{EnrollmentError, TokenError};
use relevo_wire::identity::IdentityError;
use relevo_wire::key::KeyError;
use relevo_wire::manifest::ManifestError;

use crate::disk::DiskError;
use crate::hooks::ready::ReadyError;
use crate::install::InstallError;
use crate::stop::INTERRUPTED;
use crate::uplink::UplinkError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file or directory of the agent's own.
    #[error("{path}: {source}")]
    State {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nothing is in the state directory.
    #[error("this server is not enrolled: {0} does not exist")]
    NotEnrolled(PathBuf),
    /// The state directory is in use for good.
    #[error("this server is enrolled already: {0} exists")]
    AlreadyEnrolled(PathBuf),
    /// Other keys are in the state directory.
    #[error("{0} holds other keys than those given")]
    OtherKeys(PathBuf),
    /// Keys that were rotated away.
    #[error("the keys are of generation {given}, those of this server already of {kept}")]
    OlderKeys {
        /// Of the file given.
        given: u32,
        /// In the state directory.
        kept: u32,
    },
    /// A backup runs already.
    #[error("another backup is running with the state directory {0}")]
    Busy(PathBuf),
    /// A daemon runs already.
    #[error("another 'relevo-agent run' is running with {0}")]
    Running(PathBuf),
    /// Options for runs that are none of theirs.
    #[error("options of 'relevo-agent backup': {0}")]
    Options(String),
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The enrolment cannot be used.
    #[error(transparent)]
    Enrollment(#[from] EnrollmentError),
    /// The enrolment says nothing that this release understands.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The token is mistyped.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token or enrolment is for something else.
    #[error("the vault enrolled this as '{0}', not as an agent of the keys' tenant")]
    WrongRole(String),
    /// The vault cannot be spoken with, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The upload failed.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// A disk cannot be imaged.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// There is nothing to image.
    #[error("this server has no local disk that the agent recognises")]
    NoDisk,
    /// Two disks would have the same name.
    #[error("two disks are named '{0}'")]
    DuplicateName(String),
    /// The cache's file cannot be made.
    #[error("cache {path}: {source}")]
    Cache {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The inventory given cannot be used.
    #[error("inventory {path}: {reason}")]
    Inventory {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The manifest could not be made.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The vault misses chunks even of an image that was sent from scratch.
    #[error(
        "the vault says that {0} chunks of the image are missing, although it acknowledged them"
    )]
    Incomplete(usize),
    /// A file system that an earlier run froze cannot be thawed.
    #[error("{mounted} may be frozen, and cannot be thawed: {reason}")]
    LeftFrozen {
        /// Where it is mounted.
        mounted: String,
        /// Why.
        reason: String,
    },
    /// A ready hook cannot be enabled or disabled.
    #[error(transparent)]
    Hook(#[from] ReadyError),
    /// So many hooks failed when they were tried.
    #[error("{0} hooks failed")]
    HooksFailed(usize),
    /// The guard of frozen file systems failed.
    #[error("the guard of frozen file systems: {0}")]
    Guard(io::Error),
    /// Asked to end before there was a recovery point.
    #[error("interrupted: no recovery point was made")]
    Interrupted,
    /// The server could not be set up, or cleared.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// A thread of the agent ended unexpectedly.
    #[error("internal error: {0}")]
    Internal(String),
}

impl AgentError {
    /// The exit code that tells scripts of it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted => INTERRUPTED,
            _ => 1,
        }
    }

    /// What the administrator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::State { .. } => {
                "run the agent as root; check that the directory exists, is writable and has room"
                    .into()
            }
            Self::NotEnrolled(_) => "run 'relevo-agent enroll' first, or give --state DIR".into(),
            Self::AlreadyEnrolled(path) => format!(
                "nothing needs to be done; to enrol anew, remove {} first, or give another \
                 --state DIR",
                path.display()
            ),
            Self::OtherKeys(path) => format!(
                "remove {} if this server shall belong to the other tenant",
                path.display()
            ),
            Self::OlderKeys { .. } => {
                "give the sealing-keys.toml that 'relevo-recover keys rotate' wrote last".into()
            }
            Self::Busy(_) => "wait until it is done".into(),
            Self::Running(_) => "nothing needs to be done; 'relevo-agent status' says how it \
                                 stands"
                .into(),
            Self::Options(_) => "see 'relevo-agent backup --help'".into(),
            Self::Keys(KeyError::Io { .. }) => {
                "give the sealing-keys.toml that 'relevo-recover keygen' wrote".into()
            }
            Self::Keys(_) => "give sealing-keys.toml, as 'relevo-recover keygen' wrote it; \
                              opening-keys.toml stays at the recovery site"
                .into(),
            Self::Enrollment(_) | Self::Identity(_) => {
                "remove the enrolment file and enrol again with a new token".into()
            }
            Self::Token(_) => "copy the whole token that 'relevo-vault token' printed".into(),
            Self::WrongRole(_) => "ask for a token with 'relevo-vault token --role agent', and \
                                   use the keys of the tenant that it is for"
                .into(),
            Self::Client(error) | Self::Uplink(UplinkError::Client(error)) => error.remedy(),
            Self::Uplink(UplinkError::Upload(_)) => {
                "update this program and the vault to the same release".into()
            }
            Self::Uplink(UplinkError::VaultChanged) => "run the backup again".into(),
            Self::Disk(error) => error.remedy().into(),
            Self::NoDisk => "name the disks: --disk /dev/sda".into(),
            Self::DuplicateName(_) => "name them apart: --disk PATH=NAME".into(),
            Self::Cache { .. } => "check that the state directory is writable and has room".into(),
            Self::Inventory { .. } => {
                "give a JSON object as 'relevo-agent inventory --json' prints it".into()
            }
            Self::Manifest(_) => "check the keys in the state directory".into(),
            Self::Incomplete(_) => {
                "run 'relevo-vault verify' at the vault: it loses what it stored".into()
            }
            Self::LeftFrozen { mounted, .. } => {
                format!("run 'fsfreeze --unfreeze {mounted}' as root")
            }
            Self::Hook(ReadyError::Unknown(_)) => "'relevo-agent hooks list' names them".into(),
            Self::Hook(ReadyError::NoUnit | ReadyError::NotAUnit(_)) => {
                "name it: --unit NAME.service".into()
            }
            Self::Hook(ReadyError::Another(path)) => {
                format!(
                    "remove {} first if it is not wanted any more",
                    path.display()
                )
            }
            Self::Hook(ReadyError::Write { .. }) => "run this as root".into(),
            Self::HooksFailed(_) => "'relevo-agent -v hooks test' shows what they say".into(),
            Self::Guard(_) => "it is started by 'relevo-agent backup' and by nobody else".into(),
            Self::Install(error) => error.remedy(),
            Self::Interrupted => {
                "run the backup again when you want: what has arrived is not sent again".into()
            }
            Self::Internal(_) | Self::Uplink(UplinkError::Task(_)) => {
                "report this with the log of 'relevo-agent -v backup'".into()
            }
        }
    }
}
