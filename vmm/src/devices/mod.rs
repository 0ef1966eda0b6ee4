//! The devices of a PC's board that a kernel expects outside of PCI.

pub mod clock;
pub mod console;
pub mod console_log;
pub mod keyboard;
pub mod power;
pub mod serial;
