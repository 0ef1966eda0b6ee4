//! Relevo recover: turns a recovery point into a running virtual machine, or back into a disk.
//!
//! Parts of planning, in the order in which a block becomes a decision:
//!
//! - [`block`]: a disk, wherever its bytes come from;
//! - [`disk_layout`]: partition tables; [`filesystem`]: what is on each volume, and files from it;
//! - [`boot_loader`]: what the server itself would have booted;
//! - [`plan`]: all of it put together, with the reasons in words; [`adapt`]: the files that the
//!   VMM is started with; [`shim_instructions`]: what the first program in the guest is told.
//!
//! Parts of reading and running:
//!
//! - [`site`]: enrolment, choosing server and point; [`keys`]: opening keys, locked and on paper;
//! - [`image`]: a recovery point as a disk, from a vault or from its packs;
//! - [`sizing`]: how large a machine its server's work needs;
//! - [`restore`]: back into a file or device; [`overlay`]: what a recovered server writes;
//! - [`serve_disk`]: vhost-user-blk and NBD; [`network`]: namespaces, taps, published ports;
//! - [`failover`]: all of it, one command; [`command`]: the command line.
//!
//! Invariants: an image is never modified; nothing read from a disk is trusted (no panic, no
//! allocation by a number found there, no endless loop); what cannot be recovered is refused by
//! name and with a remedy.

pub mod adapt;
pub mod block;
pub mod boot_loader;
pub mod cancel;
pub mod command;
pub mod disk_layout;
pub mod failover;
pub mod failure;
pub mod filesystem;
pub mod image;
pub mod keys;
pub mod network;
pub mod overlay;
pub mod plan;
pub mod restore;
pub mod serve_disk;
#[path = "../shim/instructions.rs"]
pub mod shim_instructions;
pub mod site;
pub mod sizing;
