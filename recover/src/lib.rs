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
//! Invariants: an image is never modified; nothing read from a disk is trusted (no panic, no
//! allocation by a number found there, no endless loop); what cannot be recovered is refused by
//! name and with a remedy.

pub mod adapt;
pub mod block;
pub mod boot_loader;
pub mod disk_layout;
pub mod filesystem;
pub mod plan;
#[path = "../shim/instructions.rs"]
pub mod shim_instructions;
