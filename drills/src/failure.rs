//! How a command of `relevo-drills` ends other than well: cause, remedy, exit code.

use std::fmt;
use std::process::ExitCode;

/// Exit codes. Scripts decide by them; `docs/drills.md` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; the drill passed.
    Passed = 0,
    /// The command could not be carried out.
    Error = 1,
    /// The drill was carried out and failed.
    Failed = 2,
    /// The drill was refused, since it would stand in the way of something more important.
    Refused = 3,
    /// No usable KVM here.
    NoKvm = 5,
    /// Wrong usage of the command line.
    Usage = 64,
    /// Ended by SIGINT.
    Interrupted = 130,
    /// Ended by SIGTERM.
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ended without doing what it was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
    /// The process's exit code.
    pub exit: Exit,
}

impl Failure {
    /// A failure of the ordinary kind.
    pub fn error(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            remedy: remedy.into(),
            exit: Exit::Error,
        }
    }

    /// A refusal.
    pub fn refused(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            exit: Exit::Refused,
            ..Self::error(cause, remedy)
        }
    }

    /// There is no KVM to boot on.
    pub fn no_kvm(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            exit: Exit::NoKvm,
            ..Self::error(cause, remedy)
        }
    }

    /// An input or output error on something named.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        let remedy = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "run as root",
            std::io::ErrorKind::StorageFull => "make room on that file system",
            std::io::ErrorKind::NotFound => "check the path",
            _ => "check that the file system is healthy and writable",
        };
        Self::error(format!("{what}: {error}"), remedy)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl std::error::Error for Failure {}

impl From<crate::plan::PlanError> for Failure {
    fn from(error: crate::plan::PlanError) -> Self {
        Self::error(error.to_string(), error.remedy)
    }
}
