//! Where chunks are, for more of them than fit into memory: immutable sorted files.
//!
//! ```text
//! recent rows (SQLite) ─ settle ─► segment ┐
//!                                  segment ├─ merge ─► segment      newest first
//!                                  segment ┘
//! ```
//!
//! Each of these layers says of an id what changed since the older ones: a [`Change`]. What
//! holds is the [`State`] that all of them give together.
//!
//! * [`change`]: what a layer says of an id, and how two layers become one.
//! * [`segment`], [`writer`]: a file of changes, read and written; its layout is in [`layout`]
//!   and, for people, in `docs/index.md`.
//! * [`filter`]: tells without reading that an id is not in a file.
//! * [`mod@merge`]: which files to make one of, and how.
//!
//! Invariants:
//! * A segment is written once: under a temporary name, synced, renamed, the directory synced.
//!   Who finds the name finds the whole file.
//! * In memory stand, per file, its filter and the first eight bytes of each block's first id:
//!   about 1.33 bytes for each change.
//! * Nothing read is believed before its checksum: damage is an error, never an answer. The
//!   index follows from the packs, so the remedy is to make the catalogue anew.

pub mod change;
mod error;
pub mod filter;
pub mod layout;
pub mod merge;
pub mod segment;
pub mod writer;

#[cfg(test)]
mod damage_test;
#[cfg(test)]
mod model_test;

pub use change::{Change, Place, Spot, State};
pub use error::IndexError;
pub use merge::{Merge, merge, run_to_merge};
pub use segment::{Layers, Segment};
pub use writer::SegmentWriter;
