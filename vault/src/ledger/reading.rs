//! Reads many packs at once and hands over what they hold one after the other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::catch_up::Unread;
use crate::error::StoreError;
use crate::scan::{Scan, scan};
use crate::volume::{Volume, read_salvaging};

/// Reads and hashes packs on all processors; results come to `take` one at a time, in order.
pub(super) fn in_order<V: Volume>(
    volume: &Arc<V>,
    unread: &[Unread],
    mut take: impl FnMut(usize, Result<Scan, StoreError>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let read = |unread: &Unread| {
        let length = (unread.length - unread.from) as usize;
        let pack = unread.pack;
        read_salvaging(&**volume, pack, unread.from, length)
            .map(|(bytes, lost)| Scan {
                salvaged: lost > 0,
                ..scan(&bytes, unread.from, &unread.header.salt)
            })
            .map_err(|e| StoreError::io(format_args!("read pack {pack}"), &e))
    };
    let read = &read;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    if threads == 1 || unread.len() < 2 {
        return unread
            .iter()
            .enumerate()
            .try_for_each(|(at, pack)| take(at, read(pack)));
    }
    let next = AtomicUsize::new(0);
    let turn = Turn::default();
    std::thread::scope(|scope| {
        // Room for none in between: a scan holds a whole pack in memory.
        let (done, results) = sync_channel(0);
        for _ in 0..threads.min(unread.len()) {
            let (done, next, turn) = (done.clone(), &next, &turn);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(pack) = unread.get(at) else { break };
                    let scanned = read(pack);
                    turn.wait_for(at);
                    let gone = done.send((at, scanned)).is_err();
                    // Also when nobody listens any more: others wait for their turn.
                    turn.give(at + 1);
                    if gone {
                        break;
                    }
                }
            });
        }
        drop(done);
        results
            .into_iter()
            .try_for_each(|(at, scanned)| take(at, scanned))
    })
}

/// Whose result is handed over next.
#[derive(Default)]
struct Turn {
    next: Mutex<usize>,
    given: Condvar,
}

impl Turn {
    fn wait_for(&self, at: usize) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        while *next != at {
            next = self
                .given
                .wait(next)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give(&self, at: usize) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = at;
        self.given.notify_all();
    }
}
