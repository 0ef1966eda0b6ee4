//! The vault: keeps sealed images of servers, proves them whole, cannot read them.
//!
//! ```text
//! network ─ server ─► ingest ─► store ─► ledger (one writer) ─► volume: packs   (the truth)
//!                       │         │            └──────────────► catalogue       (derived)
//!                       │         └─ reads: catalogue, then volume
//!                       └─ completeness: from a manifest's roots to the last chunk
//! ```
//!
//! * [`directory`]: a vault's directory, its format, authority and lock.
//! * [`volume`], [`pack`], [`record`], [`scan`]: pack files, from bytes to records and back.
//! * [`catalogue`]: where everything is; SQLite, derived from the packs. [`index`]: the chunks of
//!   it, in sorted files, since there are many.
//! * [`ledger`], [`store`]: the only writer, and what everybody else uses.
//! * [`completeness`], [`ingest`]: what a request does, without a network.
//! * [`settings`], [`retention`], [`clock`]: what the operator decides, what goes, when locks end.
//! * [`control`]: what commands ask of a vault that serves.
//! * [`audit`], [`metrics`], [`revocation`]: who did what, how much of it, whose certificates count.
//! * [`remote`]: the other side of the network, for people.
//! * [`scrub`], [`heal`], [`parity`]: everything is read again and again, and what is damaged
//!   is made anew from parity, from another vault, or by the agents.
//! * [`collect`]: takes back the space of what no recovery point needs any more.
//! * [`server`]: the network. [`token`], [`images`], [`policies`], [`verify`], [`rebuild`]: the
//!   commands.
//!
//! Invariants:
//! * **Packs are the truth.** All that the catalogue holds follows from them, but for tokens,
//!   the times of verification and the marks that save work.
//! * **Order of writing:** entries → `fdatasync` of the pack (and of its directory when new) →
//!   catalogue → answer. A crash between any two loses nothing that was answered, see [`ledger`].
//! * **Points come last.** A recovery point's entry is written when everything it refers to is
//!   synced, so that a point that can be seen is a point that can be recovered.
//! * **Nothing unhashed is stored or catalogued**: a record's id is the BLAKE3 of its bytes.
//! * **Tenants never meet**: every look-up and every pack belongs to one tenant.

pub mod audit;
pub mod background;
pub mod catalogue;
pub mod clock;
pub mod collect;
pub mod completeness;
pub mod control;
pub mod directory;
pub mod error;
pub mod heal;
pub mod images;
pub mod index;
pub mod ingest;
pub mod ledger;
pub mod metrics;
pub mod pack;
pub mod parity;
pub mod policies;
pub mod rebuild;
pub mod record;
pub mod remote;
pub mod retention;
pub mod revocation;
pub mod scan;
pub mod scrub;
pub mod server;
pub mod settings;
pub mod store;
pub mod token;
pub mod verify;
pub mod volume;

#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod fixture;
