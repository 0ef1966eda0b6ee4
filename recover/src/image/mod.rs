//! A recovery point, read like a disk: from a vault, or from the packs of one that is gone.
//!
//! ```text
//! RecoveryPoint ── open manifest, inventory
//!   └ PointDisk: BlockRead ── index walk ─► Flights<Node> ┐
//!                          └─ chunks ────► Flights<data> ─┴► Source ─┬ VaultLink ─► vault
//!                                                         └ Packs ─► files
//! ```
//!
//! * [`source`]: the two; [`link`]: one connection that comes back by itself; [`packs`]: files.
//! * [`flights`]: a bounded cache in which each key is fetched once, however many wait for it.
//! * [`store`]: opened nodes and chunks by reference.
//! * [`disk`]: offsets to chunks, read-ahead.
//! * [`point`]: manifest and inventory; [`soundness`]: what it lacks, in words.

pub mod disk;
pub mod flights;
pub mod link;
pub mod packs;
pub mod point;
pub mod soundness;
pub mod source;
pub mod store;
pub mod threads;

pub use disk::PointDisk;
pub use link::{Patience, VaultLink};
pub use packs::Packs;
pub use point::RecoveryPoint;
pub use source::Source;
pub use store::ChunkStore;
