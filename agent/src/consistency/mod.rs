//! An image of one instant of a server that goes on.
//!
//! ```text
//!  read, round by round, what was written meanwhile, until that is little      (pipeline)
//!  hooks: applications are made ready                                          hooks
//!  what waits in memory is written out                                         still
//!  ┌ file systems are frozen, those in files of others first                   guard ─► watch
//!  │ what was marked is read into memory; what was marked meanwhile again      (pipeline)
//!  └ they are thawed
//!  hooks: applications go on                                                   hooks
//!  what was read is sealed and sent; how good it is                            (pipeline), level
//! ```
//!
//! * [`mounts`], [`stack`]: which file systems are on the disks. [`freeze`]: the kernel's calls.
//! * [`watch`]: the process that holds them; [`guard`]: the run's side of it.
//! * [`left`]: what to thaw when both are gone. [`still`]: one instant from hooks to hooks.
//! * [`level`]: what may be claimed of it.
//!
//! Invariants:
//! * Whatever ends the run, the guard or both but the kernel, what was frozen is thawed at the
//!   limit at the latest, or by the next command of the agent when both were killed.
//! * While anything is frozen the agent writes to no file: not to its state, not to its log.
//! * That the image is of one instant is proved by the marks, not by the freeze: nothing that was
//!   read was written between the first and the last look at them.

pub mod freeze;
pub mod guard;
pub mod left;
pub mod level;
pub mod mounts;
pub mod stack;
pub mod still;
pub mod watch;

use std::path::PathBuf;
use std::time::Duration;

use crate::hooks::Hooks;

/// How long file systems are frozen at most, unless told otherwise.
pub const MAX_FREEZE: Duration = Duration::from_secs(10);

/// How a run holds the server still.
#[derive(Clone, Debug)]
pub struct Holding {
    /// Freezes file systems; without it only the marks tell of an instant.
    pub freeze: Option<Freezing>,
    /// How long the last reading may take, frozen or not.
    pub limit: Duration,
    /// Makes applications ready.
    pub hooks: Option<Hooks>,
}

/// What freezing needs.
#[derive(Clone, Debug)]
pub struct Freezing {
    /// The agent's program, which is the guard's too.
    pub program: PathBuf,
    /// Where it is noted what is frozen.
    pub note: PathBuf,
}

impl Default for Holding {
    /// Nothing is frozen, and nothing is run.
    fn default() -> Self {
        Self {
            freeze: None,
            limit: MAX_FREEZE,
            hooks: None,
        }
    }
}
