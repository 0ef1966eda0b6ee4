//! Writers whose files agree at every instant, and at no other mixture of moments.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use relevo_tests::program::wait_while;

/// Writers that log in turn.
const LOGS: u64 = 4;
/// Writers that keep two copies of what they write.
const COPIERS: u64 = 4;
/// Blocks in each copy.
const BLOCKS: u64 = 512;
const BLOCK: u64 = 4096;

/// At work until stopped.
pub struct Writers {
    ended: Arc<AtomicBool>,
    events: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

fn fail(e: std::io::Error) -> ! {
    panic!("a writer: {e}")
}

fn open(path: &Path) -> File {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.unwrap_or_else(|e| fail(e))
}

fn log(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("log-{number}"))
}

fn copy(dir: &Path, number: u64, side: &str) -> PathBuf {
    dir.join(format!("copy-{number}-{side}"))
}

impl Writers {
    /// Starts them in a directory.
    pub fn start(dir: &Path) -> Self {
        let (ended, events) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let mut threads = Vec::new();
        let turn = Arc::new(Mutex::new(0u64));
        for _ in 0..LOGS {
            let (dir, ended, turn) = (dir.to_path_buf(), ended.clone(), turn.clone());
            let events = events.clone();
            threads.push(std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    // The next event begins only when this one is on the disk.
                    let mut turn = turn.lock().unwrap_or_else(|e| panic!("{e}"));
                    let mut file = open(&log(&dir, *turn % LOGS));
                    let written = file.write_all(format!("{turn:019}\n").as_bytes());
                    written
                        .and_then(|()| file.sync_data())
                        .unwrap_or_else(|e| fail(e));
                    *turn += 1;
                    events.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        for number in 0..COPIERS {
            let (dir, ended) = (dir.to_path_buf(), ended.clone());
            threads.push(std::thread::spawn(move || copy_on(&dir, number, &ended)));
        }
        let writers = Self {
            ended,
            events,
            threads,
        };
        writers.let_write(20);
        writers
    }

    /// Waits until they have logged so many events more.
    pub fn let_write(&self, events: u64) {
        let until = self.events.load(Ordering::Relaxed) + events;
        wait_while(|| self.events.load(Ordering::Relaxed) < until);
    }

    /// Ends them.
    pub fn stop(self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap_or_else(|_| panic!("a writer failed"));
        }
    }
}

/// Writes blocks at random places, each to the one side and then to the other.
fn copy_on(dir: &Path, number: u64, ended: &AtomicBool) {
    let sides = ["left", "right"].map(|side| {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(copy(dir, number, side));
        let file = file.unwrap_or_else(|e| fail(e));
        file.set_len(BLOCKS * BLOCK).unwrap_or_else(|e| fail(e));
        file
    });
    let mut state = number + 77;
    let mut stamp = 1u64;
    while !ended.load(Ordering::Relaxed) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let at = state % BLOCKS * BLOCK;
        let block = stamp.to_le_bytes().repeat(BLOCK as usize / 8);
        for side in &sides {
            let written = side.write_all_at(&block, at);
            written
                .and_then(|()| side.sync_data())
                .unwrap_or_else(|e| fail(e));
        }
        stamp += 1;
    }
}

/// Checks files of writers as they were at some instant.
///
/// # Panics
/// When they are of no instant.
pub fn assert_of_one_instant(dir: &Path) {
    let mut events = Vec::new();
    for number in 0..LOGS {
        let text = std::fs::read_to_string(log(dir, number)).unwrap_or_else(|e| fail(e));
        for line in text.lines() {
            let event = line.parse::<u64>();
            events.push(event.unwrap_or_else(|_| panic!("log {number} has '{line}'")));
        }
    }
    events.sort_unstable();
    assert!(events.len() > 20, "next to nothing was logged");
    for (expected, event) in (0..).zip(&events) {
        assert_eq!(
            *event, expected,
            "a later event is there and this one is not"
        );
    }
    for number in 0..COPIERS {
        let sides = ["left", "right"]
            .map(|side| std::fs::read(copy(dir, number, side)).unwrap_or_else(|e| fail(e)));
        let stamps = |side: &[u8]| -> Vec<u64> {
            let blocks = side.chunks(BLOCK as usize).map(|block| {
                let words: Vec<_> = block.as_chunks::<8>().0.iter().collect();
                assert!(words.windows(2).all(|two| two[0] == two[1]), "a torn block");
                u64::from_le_bytes(*words[0])
            });
            blocks.collect()
        };
        let (left, right) = (stamps(&sides[0]), stamps(&sides[1]));
        let differ: Vec<_> = left.iter().zip(&right).filter(|(l, r)| l != r).collect();
        // The one that was being written.
        assert!(
            differ.len() <= 1,
            "copies {number} differ in {} blocks",
            differ.len()
        );
        assert!(
            differ.iter().all(|(l, r)| l > r),
            "the right was written before the left"
        );
        let newest = left.iter().max().copied().unwrap_or(0);
        let mut seen: Vec<_> = left.iter().filter(|stamp| **stamp > 0).collect();
        seen.dedup();
        assert!(
            newest > 0 && !seen.is_empty(),
            "copies {number} were never written"
        );
    }
}
