//! What a drill does and what it must prove, read from a TOML file and fully checked.
//!
//! A [`Plan`] exists only in a form that can be run: every default is filled in, every number is
//! in range, every server has a check. `docs/drills.md` describes the file.

mod duration;
mod file;
mod file_check;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regex::Regex;

pub use duration::{in_words, parse_duration};

/// The whole of a drill may take this long, unless the plan says otherwise.
pub const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(60 * 60);
/// One check may take this long, unless it says otherwise.
pub const DEFAULT_CHECK_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Why a plan cannot be used: the key, what is wrong with it, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{plan}: {problem}")]
pub struct PlanError {
    /// The plan's file.
    pub plan: String,
    /// What is wrong, with the key named.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

/// A drill that can be run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The drill's name: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// What the drill is for, in the author's words.
    pub description: Option<String>,
    /// The servers, in the order in which they are started.
    pub servers: Vec<ServerPlan>,
    /// The drill is given up after this long.
    pub time_limit: Duration,
    /// What the recovery must achieve.
    pub objectives: Objectives,
}

/// An IPv4 address with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: Ipv4Addr,
    /// The prefix's length in bits, 1 to 30.
    pub prefix: u8,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// One server of a drill.
#[derive(Debug, Clone)]
pub struct ServerPlan {
    /// Its name or id.
    pub server: String,
    /// `latest`, a recovery point's id or its beginning, or a moment in RFC 3339.
    pub point: String,
    /// Memory in MiB; decided from the inventory when absent.
    pub memory_mib: Option<u32>,
    /// Number of virtual CPUs; decided from the inventory when absent.
    pub cpus: Option<u32>,
    /// A kernel of the recovery site, for where the image's own cannot run.
    pub site_kernel: Option<PathBuf>,
    /// The drill's own end of its network; derived from the server's configuration when absent.
    pub gateway: Option<Address>,
    /// The server's address, where its image does not say it.
    pub address: Option<Address>,
    /// What shows that it has recovered, in the order of checking; never empty.
    pub checks: Vec<Check>,
}

/// What the recovery must achieve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Objectives {
    /// Data older than this at the start of the drill misses the objective.
    pub rpo: Option<Duration>,
    /// A recovery that takes longer than this misses the objective.
    pub rto: Option<Duration>,
    /// Missing one fails the drill.
    pub required: bool,
}

/// Evidence that the drill waits for.
#[derive(Debug, Clone)]
pub struct Check {
    /// How the report calls it.
    pub name: String,
    /// The drill fails without it.
    pub required: bool,
    /// How long it is tried, from the moment that its turn comes.
    pub timeout: Duration,
    /// What is looked at.
    pub kind: CheckKind,
}

/// What a check looks at.
#[derive(Debug, Clone)]
pub enum CheckKind {
    /// A line of the serial console matches.
    Console {
        /// Matched against each line without its colours and control characters.
        pattern: Regex,
    },
    /// A TCP connection is accepted.
    Tcp {
        /// The server's port.
        port: u16,
        /// What the server must say first.
        expect: Option<String>,
    },
    /// An HTTP request is answered.
    Http {
        /// The server's port.
        port: u16,
        /// Path and query, beginning with `/`.
        path: String,
        /// The status that the answer must have.
        status: u16,
        /// What the answer's body must contain.
        body_contains: Option<String>,
        /// The `Host` header, where it is not the server's address.
        host: Option<String>,
    },
}

impl CheckKind {
    /// The word that the plan uses for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Console { .. } => "console",
            Self::Tcp { .. } => "tcp",
            Self::Http { .. } => "http",
        }
    }

    /// What it waits for, in words.
    pub fn expectation(&self) -> String {
        match self {
            Self::Console { pattern } => format!("a console line that matches /{pattern}/"),
            Self::Tcp { port, expect: None } => format!("TCP port {port} accepts a connection"),
            Self::Tcp {
                port,
                expect: Some(text),
            } => format!("TCP port {port} says \"{text}\""),
            Self::Http {
                port,
                path,
                status,
                body_contains,
                ..
            } => {
                let body = match body_contains {
                    Some(text) => format!(" and a body that contains \"{text}\""),
                    None => String::new(),
                };
                format!("GET {path} on port {port} answers with status {status}{body}")
            }
        }
    }
}

impl Plan {
    /// Reads and checks a plan file. Paths in it are relative to its own directory.
    pub fn load(path: &Path) -> Result<Self, PlanError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| PlanError {
            plan: shown.clone(),
            problem: format!("cannot be read: {e}"),
            remedy: "give the path of a drill plan; `relevo-drills run --help` shows one".into(),
        })?;
        let base = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, &shown, base)
    }

    /// Checks a plan's text. `shown` names it in errors, `base` is where relative paths start.
    pub fn parse(text: &str, shown: &str, base: &Path) -> Result<Self, PlanError> {
        file::parse(text, base).map_err(|(problem, remedy)| PlanError {
            plan: shown.to_owned(),
            problem,
            remedy,
        })
    }
}

#[cfg(test)]
mod tests;
