//! The agent as a service of the server: put there in one command, taken away in another.
//!
//! ```text
//!  install:   files ─► enrolment ─► systemctl enable, start
//!  service:   network: what it may speak with, by what the vault's name means now
//!  uninstall: systemctl stop, disable ─► marks in the kernel ─► state ─► files
//! ```
//!
//! * [`files`]: which files there are, for a program that came alone and for one from a package.
//! * [`systemd`]: what is asked of the service manager. [`network`]: addresses it lets through.
//! * [`setup`], [`removal`]: the two commands.
//!
//! Invariants:
//! * Nothing is started before the server is enrolled, and a token is spent only when all that
//!   can fail without it has succeeded.
//! * An installation that fails takes away what it put there.
//! * After `uninstall` no file, unit, program in the kernel or setting of the agent's is left,
//!   but for what a package brought.

pub mod files;
pub mod network;
pub mod removal;
pub mod setup;
pub mod systemd;

/// Why a server cannot be set up, or cleared.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Not the superuser.
    #[error("only root may install or uninstall the agent")]
    NotRoot,
    /// Another service manager, or none.
    #[error("systemd does not run here")]
    NoSystemd,
    /// The service manager said no.
    #[error("systemctl {command}: {reason}")]
    Systemctl {
        /// What was asked.
        command: String,
        /// Its words.
        reason: String,
    },
    /// A file of the installation.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The vault's address means nothing.
    #[error("the vault's address {vault}: {reason}")]
    Address {
        /// As enrolled with.
        vault: String,
        /// Why.
        reason: String,
    },
    /// A file that another installation put there.
    #[error("a package has installed the agent already: {0}")]
    Packaged(std::path::PathBuf),
}

impl InstallError {
    /// What the administrator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::NotRoot => "run it as root, with sudo for instance".into(),
            Self::NoSystemd => "use 'relevo-agent enroll', and have your service manager run \
                                'relevo-agent run'"
                .into(),
            Self::Systemctl { .. } => "see 'systemctl status relevo-agent' and 'journalctl -u \
                                       relevo-agent'; then run the command again"
                .into(),
            Self::File { .. } => {
                "check that the file system is writable and has room; then run it again".into()
            }
            Self::Address { .. } => {
                "check the vault's address (HOST:PORT), /etc/hosts and /etc/resolv.conf".into()
            }
            Self::Packaged(program) => format!("use that one: {} install", program.display()),
        }
    }
}
