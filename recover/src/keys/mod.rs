//! Opening keys in the hands of people: made, locked, unlocked, changed, printed.
//!
//! * [`unlock`]: what opens a wrapped file, and `terminal`, where it is asked for.
//! * [`lock`]: how a file is to be wrapped; recovery keys and their shares as pages.
//! * [`change`]: making, rotating and wrapping anew.
//! * [`paper`]: everything needed to open images on one page.

pub mod change;
pub mod lock;
pub mod paper;
mod terminal;
pub mod unlock;

pub use unlock::Unlocker;
