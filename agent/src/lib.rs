//! The agent of a protected server: images its disks and streams them, sealed, to a vault.
//!
//! ```text
//!  disk ── span ──► seal ────────────► uplink ──────────► vault
//!  read, holes      known span? done   which are unknown?
//!                   cut, known chunk?  send those         acknowledged
//!                   else seal                                 │
//!                      ▲                                      ▼
//!                      └──────────────── cache ◄──────────────┘
//!         pipeline: workers over spans, results back in disk order, index tree above them
//! ```
//!
//! * [`disk`], [`span`]: what is read, in spans of 4 MiB, without holes; [`stillness`]: whether
//!   it stood still.
//! * [`tracking`]: what was written since the last image, as the kernel saw it.
//! * [`consistency`]: how the server is held still for an instant; [`hooks`]: how applications are
//!   made ready for it.
//! * [`used`]: which blocks are in use, by the disk's own structures.
//! * [`seal`]: one span to one leaf of the index, more densely when the line is slow;
//!   [`pipeline`]: one disk to one root, with its [`leaves`] in a file meanwhile.
//! * [`uplink`]: drives [`relevo_wire::upload`] over a vault that may go away and come back.
//! * [`cache`]: what the vault is known to have. [`backup`]: a whole run.
//! * [`policy`]: when and how gently, as the vault says. [`daemon`]: takes images by it.
//!   [`pace`]: keeps a run within its ceilings.
//! * [`install`]: the agent as a service, and its end. [`stop`]: ending early. [`state`]: the
//!   agent's directory. [`enroll`]: how it comes to be. [`inventory`]: what a recovery needs to
//!   know besides the disks, and [`load`], what the server's work asks of its hardware.
//!   [`command`], `page`, [`report`], [`progress`]: the
//!   command line.
//!
//! Invariants:
//! * Nothing leaves unsealed; only a vault's acknowledgement enters the cache.
//! * A cache that is lost, damaged or another vault's costs time, never correctness: its rows
//!   are authenticated under a key that names vault, epoch, tenant and server.
//! * What of a disk could not be read is zeros, and the recovery point names it.
//! * Memory does not depend on the size of the disks. At most 64 MiB for one that nobody writes
//!   to: the program's own pages (12 MiB), with *n* ≤ 3 workers *n* × 6 MiB of spans and
//!   compressors, 4 MiB of sealed chunks between workers and uplink, in the uplink what the line
//!   needs of them ([`relevo_wire::upload::UploadLimits::on`]) and at most what is left
//!   ([`uplink::within_memory`]; and at most 65,536 chunks), 2 MiB of pages for each of *n* + 1
//!   cache connections and 2 MiB to tell what is in none, one open index node per level. For one
//!   that is written meanwhile, at most 24 MiB more of what was read in the instant. Maps of what
//!   is in use: 8 MiB for each disk, twice that and at most 32 MiB more while it is looked at.

pub mod backup;
pub mod backup_command;
pub mod cache;
pub mod command;
pub mod consistency;
pub mod daemon;
mod daemon_command;
pub mod disk;
pub mod enroll;
pub mod error;
pub mod hooks;
mod hooks_command;
pub mod install;
mod install_command;
pub mod inventory;
pub mod leaves;
pub mod load;
pub mod pace;
mod page;
pub mod pipeline;
pub mod policy;
pub mod progress;
pub mod report;
pub mod seal;
pub mod span;
pub mod state;
pub mod stillness;
pub mod stop;
mod thaw_command;
pub mod tracking;
mod tracking_command;
pub mod uplink;
pub mod used;

pub use error::AgentError;
