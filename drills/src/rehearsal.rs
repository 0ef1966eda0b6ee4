//! What the runner asks of a recovery: start a server in isolation, look after it, stop it.
//!
//! The runner knows nothing else of recovery, so that tests can let every step fail.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use relevo_wire::Timestamp;
use serde::Serialize;

use crate::failure::Failure;
use crate::plan::ServerPlan;

/// Starts servers from their recovery points, each in a network of the drill's own.
pub trait Rehearsal {
    /// A server that runs.
    type Server: RunningServer;

    /// Starts one. When this fails, nothing of it is left behind.
    ///
    /// `report` hears of each step as it begins. The call ends early when the drill is
    /// interrupted or `limit` is over.
    fn start(
        &self,
        order: &StartOrder<'_>,
        limit: Duration,
        report: &mut dyn FnMut(&str),
    ) -> Result<Self::Server, StartError>;
}

/// What is to be started.
#[derive(Debug, Clone, Copy)]
pub struct StartOrder<'a> {
    /// The server and its machine.
    pub server: &'a ServerPlan,
    /// A name that no other namespace on this host has.
    pub namespace: &'a str,
    /// Where the server's overlay, console and sockets go; made for it alone.
    pub run_dir: &'a std::path::Path,
    /// The moment at which the server is taken to be lost: what came later does not exist.
    pub lost: Timestamp,
}

/// Why a server did not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartError {
    /// The server cannot be recovered like this: the drill has found something, and fails.
    Failed {
        /// What went wrong.
        cause: String,
        /// What to do about it.
        remedy: String,
        /// The console's last lines, if it came so far.
        console: Vec<String>,
    },
    /// The drill cannot or must not be held at all; says nothing about the server.
    Refused(Failure),
    /// The drill was interrupted meanwhile.
    Interrupted,
}

/// A server that runs. Dropping it must not stop it: the runner calls [`RunningServer::stop`].
pub trait RunningServer {
    /// What is known of it.
    fn facts(&self) -> &ServerFacts;

    /// Why its virtual machine runs no more, if that is so.
    fn ended(&mut self) -> Option<String>;

    /// Stops it and removes everything of it, overlay included. May be called again after a
    /// failure. Returns what could not be removed.
    fn stop(&mut self) -> Result<(), Vec<String>>;
}

/// What is known of a server that runs.
#[derive(Debug, Clone, Default)]
pub struct ServerFacts {
    /// The server's id in the vault.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The recovery point's id.
    pub point: String,
    /// The moment whose state it holds.
    pub taken: Option<Timestamp>,
    /// Operating system, for people.
    pub os: Option<String>,
    /// What was found, changed and why, in words: the server's recovery procedure.
    pub findings: Vec<Finding>,
    /// The kernel that was booted, for people.
    pub kernel: Option<String>,
    /// The kernel's command line.
    pub command_line: Option<String>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Number of virtual CPUs.
    pub cpus: Option<u64>,
    /// The steps before its virtual machine was started and how long each took, in order.
    pub steps: Vec<(String, Duration)>,
    /// The file its serial console is written to.
    pub console: PathBuf,
    /// The file of its network namespace; none for the drill's own.
    pub namespace: Option<PathBuf>,
    /// Where it is reached in that namespace, the first choice first.
    pub addresses: Vec<IpAddr>,
}

/// One line of the server's recovery procedure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The part of the server that it is about, such as `kernel` or `network`.
    pub step: String,
    /// What is on the disk.
    pub found: String,
    /// What is done differently in the virtual machine, if anything.
    pub change: Option<String>,
    /// Why it matters or why it is changed.
    pub why: String,
}
