//! The virtual machine monitor that boots recovered servers on KVM.
//!
//! One process runs one virtual machine. It has no keys and no connection to a vault: a
//! disk is a file or the socket of a vhost-user server, a network is a tap device that
//! somebody else made.

pub mod bus;
pub mod memory;
