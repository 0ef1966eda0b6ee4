//! What strangers and damaged disks may feed to Relevo, as functions of any bytes.
//!
//! * [`TARGETS`]: the functions, and what each guards. A breach is a panic.
//! * [`Input`]: bytes as a source of choices. Formats guarded by checksums are reached behind
//!   them: most targets build what the bytes say and seal it as an attacker with the keys could.
//! * [`mutate`]: inputs from inputs, the same for the same seed.
//! * [`disks`]: disks as inputs, made by the system's own tools.
//! * [`corpus`]: the kept inputs, in `corpus/TARGET/`, made from real data by
//!   `cargo run -p relevo-fuzz --bin make-corpus`, and what once broke something.
//!
//! Run briefly by every `make test` on stable Rust (tests/replay.rs), for as long as one likes by
//! `make fuzz TARGET=pack` (libFuzzer, through cargo-fuzz and a nightly compiler, else the same
//! mutations without coverage).

pub mod corpus;
pub mod disks;
mod input;
pub mod mutate;
mod targets;

pub use input::Input;
pub use targets::{TARGETS, Target, commands, target};
