//! A recovery point in the vault, read like a disk.
//!
//! ```text
//! RecoveryPoint ── open manifest, inventory
//!   └ PointDisk: BlockRead ── index walk ─► Flights<Node> ┐
//!                          └─ chunks ────► Flights<data> ─┴► VaultLink ─► vault
//! ```
//!
//! * [`link`]: one connection that comes back by itself, with its own runtime.
//! * [`flights`]: a bounded cache in which each key is fetched once, however many wait for it.
//! * [`store`]: opened nodes and chunks by reference.
//! * [`disk`]: offsets to chunks, read-ahead.
//! * [`point`]: manifest and inventory.

pub mod disk;
pub mod flights;
pub mod link;
pub mod point;
pub mod store;

pub use disk::PointDisk;
pub use link::{Patience, VaultLink};
pub use point::RecoveryPoint;
pub use store::ChunkStore;
