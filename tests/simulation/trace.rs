//! What happened in a world, as lines for people and as one hash to compare runs by.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// The events of one world.
pub struct Trace(Mutex<Events>);

struct Events {
    hash: blake3::Hasher,
    count: u64,
    shown: bool,
}

impl Trace {
    /// An empty one; `shown`: each event is printed as it comes.
    pub fn new(shown: bool) -> Self {
        Self(Mutex::new(Events {
            hash: blake3::Hasher::new(),
            count: 0,
            shown,
        }))
    }

    /// Adds an event.
    pub fn note(&self, event: fmt::Arguments<'_>) {
        let text = event.to_string();
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.hash.update(text.as_bytes()).update(b"\n");
        events.count += 1;
        if events.shown {
            eprintln!("{:5} {text}", events.count);
        }
    }

    /// The hash of all events, and how many they were.
    pub fn finish(&self) -> (String, u64) {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = events.hash.finalize().to_hex();
        (hash[..16].to_string(), events.count)
    }
}
