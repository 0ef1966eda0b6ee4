//! A lost server runs again: from a recovery point to a service that answers.
//!
//! ```text
//! start ── select ─ plan ─ disks ─ network ─ boot ──► RunningServer ── wait_for ─► RTO
//!            │       │       │        │        │            │
//!          vault  preparation process cables  relevo-vmm   stop, or detach and later `stop`
//! ```
//!
//! * [`preparation`]: what the host can do, plan and boot files.
//! * [`cables`]: the server's network. [`check`]: evidence that it works.
//! * [`mod@start`]: makes it all, with its `daemons`. [`running`]: what was made.
//! * [`record`], [`process`]: how it is found again. [`teardown`]: how it ends.
//! * [`runs`]: what `status` and `stop` do.
//!
//! Invariants: whatever is made is written down before; a [`RunningServer`] that is dropped
//! takes everything along unless it was detached; a server never runs twice at one site.

pub mod cables;
pub mod check;
pub mod control;
mod daemons;
pub mod preparation;
pub mod process;
pub mod record;
pub mod running;
pub mod runs;
pub mod start;
pub mod teardown;

pub use cables::{NetworkPlace, NetworkRequest};
pub use check::{Check, Witness};
pub use preparation::MachineRequest;
pub use running::{RunningServer, Step};
pub use start::{FailoverRequest, StartTime, start};
