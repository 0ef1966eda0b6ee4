//! Randomness and time of a simulated world: both follow from its seed.
//!
//! They belong to the whole process, since writers and workers have threads of their own: one
//! world at a time. Only the feature `simulation` has this, and until [`begin`] nothing changes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::time::Timestamp;

struct World {
    random: blake3::OutputReader,
    now: Timestamp,
}

static WORLD: Mutex<Option<World>> = Mutex::new(None);

fn world() -> MutexGuard<'static, Option<World>> {
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on the process's random bytes follow from `seed`, and its clock stands at `now`.
pub fn begin(seed: u64, now: Timestamp) {
    let mut hasher = blake3::Hasher::new_derive_key("relevo simulation");
    hasher.update(&seed.to_le_bytes());
    let random = hasher.finalize_xof();
    *world() = Some(World { random, now });
}

/// Back to the system's.
pub fn end() {
    *world() = None;
}

/// Sets the clock, forwards or back.
pub fn set_clock(now: Timestamp) {
    if let Some(world) = world().as_mut() {
        world.now = now;
    }
}

/// The simulated clock; none outside of a simulation.
pub fn now() -> Option<Timestamp> {
    world().as_ref().map(|world| world.now)
}

/// Fills `bytes` from the seed. False, and nothing done, outside of a simulation.
pub fn fill(bytes: &mut [u8]) -> bool {
    match world().as_mut() {
        Some(world) => {
            world.random.fill(bytes);
            true
        }
        None => false,
    }
}
