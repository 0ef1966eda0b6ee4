//! Reads many packs at once and hands over what they hold one after the other.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::looking::Unread;
use crate::error::StoreError;
use crate::scan::{Scan, scan};
use crate::volume::{Volume, read_salvaging};

/// Reads and hashes packs on all processors; results come to `take` one at a time, in order.
pub(super) fn in_order<V: Volume>(
    volume: &Arc<V>,
    unread: &[Unread],
    mut take: impl FnMut(usize, Result<Scan, StoreError>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let read = |at: usize| read(&**volume, &unread[at]);
    if threads == 1 || unread.len() < 2 {
        return (0..unread.len()).try_for_each(|at| take(at, read(at)));
    }
    by_turns(threads.min(unread.len()), unread.len(), read, take)
}

/// Bytes of which the disk gives none are a gap: all else there is to be had must not wait.
fn read<V: Volume>(volume: &V, unread: &Unread) -> Result<Scan, StoreError> {
    let (pack, from) = (unread.pack, unread.from);
    let length = unread.length - from;
    match read_salvaging(volume, pack, from, length as usize) {
        Ok((bytes, lost)) => Ok(Scan {
            salvaged: lost > 0,
            ..scan(&bytes, from, &unread.header.salt)
        }),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound
            ) =>
        {
            Err(StoreError::io(format_args!("read pack {pack}"), &e))
        }
        Err(e) => Ok(Scan::unreadable(from, length, &e)),
    }
}

/// `read` of `0..count` by so many threads, and `take` of each result here, in order.
fn by_turns<T: Send, E>(
    threads: usize,
    count: usize,
    read: impl Fn(usize) -> T + Sync,
    mut take: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    let (read, next, turn) = (&read, &AtomicUsize::new(0), &Turn::default());
    std::thread::scope(|scope| {
        // Room for none in between: a scan holds a whole pack in memory.
        let (done, results) = sync_channel(0);
        let reader = |_| {
            let done = done.clone();
            scope.spawn(move || {
                let _guard = EndsInPanic(turn);
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        break;
                    }
                    let result = read(at);
                    if !turn.wait_for(at) {
                        break;
                    }
                    let gone = done.send((at, result)).is_err();
                    // Also when nobody listens any more: others wait for their turn.
                    turn.give(at + 1);
                    if gone {
                        break;
                    }
                }
            })
        };
        let readers: Vec<_> = (0..threads).map(reader).collect();
        drop(done);
        let taken = results
            .into_iter()
            .try_for_each(|(at, result)| take(at, result));
        for reader in readers {
            if let Err(panic) = reader.join() {
                std::panic::resume_unwind(panic);
            }
        }
        taken
    })
}

/// Whose result is handed over next; nobody's once a reader ended in a panic.
struct Turn {
    next: Mutex<Option<usize>>,
    given: Condvar,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            next: Mutex::new(Some(0)),
            given: Condvar::new(),
        }
    }
}

impl Turn {
    /// False when that turn never comes.
    fn wait_for(&self, at: usize) -> bool {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        while next.is_some_and(|next| next != at) {
            next = self
                .given
                .wait(next)
                .unwrap_or_else(PoisonError::into_inner);
        }
        next.is_some()
    }

    fn give(&self, at: usize) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = next.map(|_| at);
        self.given.notify_all();
    }

    fn end(&self) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.given.notify_all();
    }
}

/// The result of a reader that panics never comes: those that wait for it end.
struct EndsInPanic<'a>(&'a Turn);

impl Drop for EndsInPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_the_first_error_ends_it() {
        let mut seen = Vec::new();
        let done = by_turns(
            3,
            100,
            |at| at,
            |at, result| {
                seen.push((at, result));
                if at == 60 { Err("enough") } else { Ok(()) }
            },
        );
        assert_eq!(done, Err("enough"));
        assert_eq!(seen, (0..=60).map(|at| (at, at)).collect::<Vec<_>>());
    }

    /// Guards the opening of a vault against waiting for ever for a reader that is gone.
    #[test]
    fn a_panic_of_a_reader_ends_the_reading_and_comes_out() {
        for threads in [1, 2, 8] {
            let ended = std::panic::catch_unwind(|| {
                let read = |at| {
                    assert!(at != 5, "this pack cannot be read");
                };
                by_turns(threads, 40, read, |_, ()| Ok::<_, ()>(()))
            });
            let panic = ended.err().and_then(|p| p.downcast::<&str>().ok());
            assert_eq!(panic.as_deref(), Some(&"this pack cannot be read"));
        }
    }
}
