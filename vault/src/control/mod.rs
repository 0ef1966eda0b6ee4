//! What commands ask of the vault that serves their directory, and how they do it themselves
//! when none does.
//!
//! Deleting, holding and locking go through the one writer. While `serve` runs it has the
//! directory's lock, and listens at `control.sock` there: only for the user it runs as, and
//! root. A command connects, sends one [`Request`] as a line of JSON and reads lines of
//! [`Reply`]: notes on the way, then what was done or why not. Without a `serve` the command
//! takes the lock, opens the store and calls the same function, [`perform`].
//!
//! To add a request: a variant of [`Request`], an arm in [`perform`].

mod client;
mod request;
mod server;

pub use client::ask;
pub use request::{Answer, Reply, Request, perform};
pub use server::ControlServer;

/// The socket's name in the vault's directory.
pub const SOCKET: &str = "control.sock";
/// Longest line of a request, in bytes.
const MAX_REQUEST: usize = 64 * 1024;

/// The socket's path by way of an open directory: a path of any length fits into an address.
fn short_path(directory: &std::fs::File) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd())
}
