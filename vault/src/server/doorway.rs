//! Those whom nobody knows yet, in a handshake or as applicants: thousands that never finish must
//! not keep out those who would.
//!
//! Beyond [`CROWDED`] handshakes newcomers show first that packets reach the address that they
//! name, which costs the vault nothing. Beyond [`HALF_OPEN`] handshakes or [`APPLICANTS`] the
//! oldest one of the address that has most of them makes room: who means it is through long
//! before.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// With this many handshakes, newcomers first prove their address.
pub(super) const CROWDED: usize = 64;
/// Handshakes at once.
pub(super) const HALF_OPEN: usize = 256;
/// Applicants at once.
pub(super) const APPLICANTS: usize = 64;

/// Those who are in the door.
pub(super) struct Doorway {
    places: usize,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    next: u64,
    /// Oldest first.
    waiting: Vec<Waiting>,
}

struct Waiting {
    number: u64,
    from: IpAddr,
    /// Told, or dropped, when it is to give up its place.
    evict: oneshot::Sender<()>,
}

/// A place in the door; left when this is dropped.
pub(super) struct Place {
    doorway: Arc<Doorway>,
    number: u64,
}

impl Doorway {
    /// With room for so many.
    pub(super) fn new(places: usize) -> Arc<Self> {
        let inside = Mutex::default();
        Arc::new(Self { places, inside })
    }

    /// A place for one more, and what tells it to give up; true when another had to.
    pub(super) fn enter(self: &Arc<Self>, from: IpAddr) -> (Place, oneshot::Receiver<()>, bool) {
        let (evict, evicted) = oneshot::channel();
        let mut inside = self.lock();
        let full = inside.waiting.len() >= self.places;
        if full {
            let mut counts: HashMap<IpAddr, usize> = HashMap::new();
            for waiting in &inside.waiting {
                *counts.entry(waiting.from).or_default() += 1;
            }
            let most = counts.values().copied().max().unwrap_or(0);
            let oldest = inside
                .waiting
                .iter()
                .position(|waiting| counts.get(&waiting.from) == Some(&most));
            if let Some(at) = oldest {
                // Whose handshake has just ended hears nothing, and has left anyway.
                let _ = inside.waiting.remove(at).evict.send(());
            }
        }
        let number = inside.next;
        inside.next += 1;
        inside.waiting.push(Waiting {
            number,
            from,
            evict,
        });
        let doorway = self.clone();
        (Place { doorway, number }, evicted, full)
    }

    /// True when newcomers are to prove their address first.
    pub(super) fn is_crowded(&self) -> bool {
        self.lock().waiting.len() >= CROWDED
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.doorway.lock();
        inside
            .waiting
            .retain(|waiting| waiting.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards who comes from elsewhere, and who has just come, against a flood.
    #[test]
    fn the_oldest_of_the_address_with_most_makes_room() {
        let doorway = Doorway::new(HALF_OPEN);
        let (honest, flood): (IpAddr, IpAddr) =
            ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let (_mine, mut told, _) = doorway.enter(honest);
        let mut places = Vec::new();
        for number in 0..10 * HALF_OPEN {
            assert_eq!(doorway.is_crowded(), number + 1 >= CROWDED);
            let (place, evicted, full) = doorway.enter(flood);
            assert_eq!(full, number >= HALF_OPEN - 1);
            places.push((place, evicted));
        }
        assert!(told.try_recv().is_err());
        assert_eq!(doorway.lock().waiting.len(), HALF_OPEN);
        assert!(places[0].1.try_recv().is_ok());
        assert!(places.last_mut().unwrap().1.try_recv().is_err());
        drop(places);
        assert_eq!(doorway.lock().waiting.len(), 1);
    }
}
