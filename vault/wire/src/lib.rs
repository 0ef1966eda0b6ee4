//! What crosses the network between Relevo's parts, and the formats that travel in it.
//!
//! ```text
//! disk ─ chunker ─► Chunk ─ seal ─► SealedChunk ─ upload, client ─► vault: CheckedChunk
//!                                        ▲
//!           index: Node, TreeBuilder ────┘      manifest: SealedManifest over the roots
//! ```
//!
//! * [`id`], [`time`]: one type per kind of identifier, one clock.
//! * [`key`]: the tenant's keys and their files.
//! * [`chunker`], [`chunk`], [`index`], [`manifest`], [`inventory`], [`load`]: an image, from
//!   blocks to recovery point.
//! * [`message`], [`frame`], [`upload`]: the protocol, without input or output of its own.
//! * [`policy`], with [`calendar`] and [`zone`]: when and how gently a server is to be imaged.
//! * [`identity`], [`enrollment`], [`tls`], [`client`]: who may speak, and the connection.
//! * [`allocator`]: how all programs keep their memory small.
//!
//! Invariants:
//! * Plaintext and keys never appear in a [`chunk::SealedChunk`]'s bytes, a
//!   [`manifest::SealedManifest`] or a [`message`]: the vault cannot read an image.
//! * Bytes are only stored or opened as [`chunk::CheckedChunk`], which has been hashed.
//! * Whatever bytes arrive, decoding them ends in a value or an error, within bounded memory.

pub mod allocator;
pub mod calendar;
pub mod chunk;
pub mod chunker;
pub mod client;
pub mod enrollment;
pub mod frame;
pub mod id;
pub mod identity;
pub mod index;
pub mod inventory;
pub mod key;
pub mod load;
pub mod manifest;
pub mod message;
pub mod policy;
pub mod secret_file;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod time;
pub mod tls;
pub mod upload;
pub mod zone;

pub use id::{ChunkId, PersonId, PointId, ServerId, SessionId, SiteId, TenantId, VaultId};
pub use time::Timestamp;
