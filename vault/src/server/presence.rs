//! Who is connected how often: one peer must not take the places of all others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ingest::Peer;

/// Connections of one server's agent: a line that breaks leaves dead ones behind for 30 s.
const OF_AN_AGENT: usize = 16;
/// Connections of one recovery site: one for each server that it runs.
const OF_A_SITE: usize = 256;
/// Connections of one person.
const OF_A_PERSON: usize = 16;
/// Connections of all who are enrolled.
const OF_ALL: usize = 512;

/// Who is there.
#[derive(Default)]
pub(super) struct Presence(Mutex<HashMap<Peer, usize>>);

/// A connection that counts until this is dropped.
pub(super) struct Place {
    presence: Arc<Presence>,
    peer: Peer,
}

impl Presence {
    /// A place for one more connection of this peer, unless it has its share.
    pub(super) fn enter(self: &Arc<Self>, peer: Peer) -> Option<Place> {
        let most = match peer {
            // Whom the doorway bounds, all together.
            Peer::Applicant => usize::MAX,
            Peer::Agent(..) => OF_AN_AGENT,
            Peer::Recovery(..) => OF_A_SITE,
            Peer::Person(..) => OF_A_PERSON,
        };
        let mut there = self.lock();
        let enrolled = there.iter().filter(|(peer, _)| **peer != Peer::Applicant);
        if peer != Peer::Applicant && enrolled.map(|(_, count)| count).sum::<usize>() >= OF_ALL {
            return None;
        }
        let count = there.entry(peer).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place {
            presence: self.clone(),
            peer,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Peer, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut there = self.presence.lock();
        if let Some(count) = there.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                there.remove(&self.peer);
            }
        }
    }
}
