//! A bounded cache whose misses are fetched once: whoever comes while a value is on its way
//! waits for that flight instead of starting another.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

type Landed<V, E> = Option<Result<V, E>>;

/// What a caller has to do about one key.
pub enum Claim<K: Eq + Hash + Clone, V: Clone, E: Clone> {
    /// It is here.
    Ready(V),
    /// Somebody fetches it: [`wait`].
    Wait(watch::Receiver<Landed<V, E>>),
    /// The caller fetches it, and lets it land.
    Fetch(Flight<K, V, E>),
}

/// Waits for a flight; `None` when it was given up without a result.
pub async fn wait<V: Clone, E: Clone>(
    mut receiver: watch::Receiver<Landed<V, E>>,
) -> Option<Result<V, E>> {
    match receiver.wait_for(Option::is_some).await {
        Ok(landed) => landed.clone(),
        Err(_) => None,
    }
}

/// The right and duty to bring one value. Dropped without landing, those who wait are told.
pub struct Flight<K: Eq + Hash + Clone, V: Clone, E: Clone> {
    key: K,
    sender: watch::Sender<Landed<V, E>>,
    flights: Arc<Flights<K, V, E>>,
    landed: bool,
}

impl<K: Eq + Hash + Clone, V: Clone, E: Clone> Flight<K, V, E> {
    /// What is to be fetched.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// A place to wait for this very flight.
    pub fn subscribe(&self) -> watch::Receiver<Landed<V, E>> {
        self.sender.subscribe()
    }

    /// Brings the value. A value is kept, weighing `weight`; an error is not, so that the next
    /// caller tries again.
    pub fn land(mut self, result: Result<V, E>, weight: usize) {
        self.landed = true;
        let mut state = self.flights.lock();
        state.flying.remove(&self.key);
        if let Ok(value) = &result {
            state.keep(
                self.key.clone(),
                value.clone(),
                weight,
                self.flights.capacity,
            );
        }
        drop(state);
        self.sender.send_replace(Some(result));
    }
}

impl<K: Eq + Hash + Clone, V: Clone, E: Clone> Drop for Flight<K, V, E> {
    fn drop(&mut self) {
        if !self.landed {
            self.flights.lock().flying.remove(&self.key);
        }
    }
}

/// The cache. Least recently used values go first.
pub struct Flights<K, V, E> {
    capacity: usize,
    state: Mutex<State<K, V, E>>,
}

struct State<K, V, E> {
    kept: HashMap<K, Kept<V>>,
    /// Order of use, oldest first; entries whose `used` differs are stale.
    order: std::collections::VecDeque<(K, u64)>,
    clock: u64,
    weight: usize,
    flying: HashMap<K, watch::Receiver<Landed<V, E>>>,
}

struct Kept<V> {
    value: V,
    weight: usize,
    used: u64,
}

impl<K: Eq + Hash + Clone, V: Clone, E: Clone> Flights<K, V, E> {
    /// Keeps values up to a total weight of `capacity`.
    pub fn new(capacity: usize) -> Arc<Self> {
        let state = State {
            kept: HashMap::new(),
            order: std::collections::VecDeque::new(),
            clock: 0,
            weight: 0,
            flying: HashMap::new(),
        };
        Arc::new(Self {
            capacity,
            state: Mutex::new(state),
        })
    }

    /// Claims one key.
    pub fn claim(self: &Arc<Self>, key: &K) -> Claim<K, V, E> {
        let mut state = self.lock();
        if let Some(value) = state.touch(key) {
            return Claim::Ready(value);
        }
        if let Some(receiver) = state.flying.get(key) {
            return Claim::Wait(receiver.clone());
        }
        let (sender, receiver) = watch::channel(None);
        state.flying.insert(key.clone(), receiver);
        Claim::Fetch(Flight {
            key: key.clone(),
            sender,
            flights: self.clone(),
            landed: false,
        })
    }

    /// The total weight held now.
    pub fn weight(&self) -> usize {
        self.lock().weight
    }

    fn lock(&self) -> MutexGuard<'_, State<K, V, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone, V: Clone, E> State<K, V, E> {
    fn touch(&mut self, key: &K) -> Option<V> {
        let clock = self.clock + 1;
        let kept = self.kept.get_mut(key)?;
        kept.used = clock;
        let value = kept.value.clone();
        self.clock = clock;
        self.order.push_back((key.clone(), clock));
        self.forget_stale();
        Some(value)
    }

    fn keep(&mut self, key: K, value: V, weight: usize, capacity: usize) {
        self.clock += 1;
        let used = self.clock;
        if let Some(old) = self.kept.insert(
            key.clone(),
            Kept {
                value,
                weight,
                used,
            },
        ) {
            self.weight -= old.weight;
        }
        self.weight += weight;
        self.order.push_back((key, used));
        while self.weight > capacity
            && let Some((oldest, used)) = self.order.pop_front()
        {
            if self.kept.get(&oldest).is_some_and(|kept| kept.used == used)
                && let Some(gone) = self.kept.remove(&oldest)
            {
                self.weight -= gone.weight;
            }
        }
    }

    /// Keeps the list of uses from growing with hits alone.
    fn forget_stale(&mut self) {
        if self.order.len() > 64 + 4 * self.kept.len() {
            let kept = &self.kept;
            self.order
                .retain(|(key, used)| kept.get(key).is_some_and(|k| k.used == *used));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    type Cache = Arc<Flights<u8, u32, String>>;

    fn bring(cache: &Cache, key: u8, weight: usize) -> bool {
        match cache.claim(&key) {
            Claim::Ready(value) => {
                assert_eq!(value, u32::from(key));
                false
            }
            Claim::Fetch(flight) => {
                flight.land(Ok(key.into()), weight);
                true
            }
            Claim::Wait(_) => panic!("nothing is under way"),
        }
    }

    proptest! {
        /// Guards the memory bound, and that the recently used stays: against a plain model.
        #[test]
        fn holds_what_was_used_last(uses in proptest::collection::vec((0u8..30, 1usize..4), 1..500)) {
            let cache: Cache = Flights::new(20);
            let mut model: Vec<(u8, usize)> = Vec::new();
            for (key, weight) in uses {
                let fetched = bring(&cache, key, weight);
                match model.iter().position(|(k, _)| *k == key) {
                    Some(at) => {
                        prop_assert!(!fetched);
                        let entry = model.remove(at);
                        model.push(entry);
                    }
                    None => {
                        prop_assert!(fetched);
                        model.push((key, weight));
                        while model.iter().map(|(_, w)| w).sum::<usize>() > 20 { model.remove(0); }
                    }
                }
                prop_assert!(cache.weight() <= 20);
                prop_assert!(cache.lock().order.len() <= 64 + 4 * 30 + 1);
            }
        }
    }

    #[test]
    fn a_key_is_fetched_once_and_all_who_wait_get_it() {
        let cache: Cache = Flights::new(100);
        let Claim::Fetch(flight) = cache.claim(&7) else {
            panic!("not the first")
        };
        let Claim::Wait(waiting) = cache.claim(&7) else {
            panic!("fetched twice")
        };
        flight.land(Ok(42), 1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        assert_eq!(runtime.block_on(wait(waiting)), Some(Ok(42)));
        assert!(matches!(cache.claim(&7), Claim::Ready(42)));
    }

    #[test]
    fn errors_and_lost_flights_are_told_and_not_kept() {
        let cache: Cache = Flights::new(100);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let Claim::Fetch(flight) = cache.claim(&1) else {
            panic!()
        };
        let waiting = flight.subscribe();
        flight.land(Err("gone".into()), 0);
        assert_eq!(runtime.block_on(wait(waiting)), Some(Err("gone".into())));
        let Claim::Fetch(flight) = cache.claim(&1) else {
            panic!("an error was kept")
        };
        let waiting = flight.subscribe();
        drop(flight);
        assert_eq!(runtime.block_on(wait(waiting)), None);
        assert!(matches!(cache.claim(&1), Claim::Fetch(_)));
    }
}
