//! Guards what a flush promises: the machine may stop at any write, and what was written since
//! the last completed sync may be there in any part; still every flushed byte is there, and the
//! image needs no repair (leaked clusters aside).
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use proptest::prelude::*;

use super::model_test::{Step, pattern, step};
use super::testing::{Allowed, Event, Make, Recorded, apply, blank, check, content};

/// The sectors of a write to the file are what a disk of the host keeps or loses as one.
fn pieces(event: &Event) -> Vec<Event> {
    match event {
        Event::Write(at, data) => {
            let first = (512 - at % 512) as usize;
            let (head, tail) = data.split_at(first.min(data.len()));
            let mut pieces = vec![Event::Write(*at, head.to_vec())];
            let starts = (0..tail.len()).step_by(512);
            pieces.extend(
                starts.zip(tail.chunks(512)).map(|(start, piece)| {
                    Event::Write(at + (first + start) as u64, piece.to_vec())
                }),
            );
            pieces
        }
        Event::Punch(..) => vec![event.clone()],
        Event::Sync => Vec::new(),
    }
}

/// What each sector of the disk may be: as flushed last, or as any write since.
struct Expected {
    now: Vec<u8>,
    allowed: Allowed,
}

impl Expected {
    fn new(size: u64) -> Self {
        Self {
            now: vec![0; size as usize],
            allowed: HashMap::new(),
        }
    }

    fn sector(&self, sector: u64) -> [u8; 512] {
        self.now[sector as usize * 512..][..512].try_into().unwrap()
    }

    fn change(&mut self, at: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let sectors = at / 512..(at + data.len() as u64).div_ceil(512);
        for sector in sectors.clone() {
            let before = self.sector(sector);
            self.allowed.entry(sector).or_insert(vec![before]);
        }
        self.now[at as usize..at as usize + data.len()].copy_from_slice(data);
        for sector in sectors {
            let after = self.sector(sector);
            self.allowed.entry(sector).or_default().push(after);
        }
    }

    /// Once flushed, only the present will do.
    fn flush(&mut self) {
        self.allowed.clear();
    }

    fn verify(&self, content: &[u8]) {
        for (sector, found) in content.chunks(512).enumerate() {
            let sector = sector as u64;
            let fits = match self.allowed.get(&sector) {
                Some(allowed) => allowed.iter().any(|sector| sector == found),
                None => self.sector(sector) == found,
            };
            assert!(fits, "sector {sector} has a content it never had");
        }
    }
}

fn verify_crash(durable: &[u8], pending: &[Event], seed: u64, expected: &Expected) {
    let mut states = vec![durable.to_vec()];
    // Every prefix, and unordered parts of everything.
    let mut bytes = durable.to_vec();
    for event in pending {
        apply(&mut bytes, event);
        states.push(bytes.clone());
    }
    let pieces: Vec<Event> = pending.iter().flat_map(pieces).collect();
    let mut numbers = seed | 1;
    for _ in 0..6 {
        let mut bytes = durable.to_vec();
        for piece in &pieces {
            numbers ^= numbers << 13;
            numbers ^= numbers >> 7;
            numbers ^= numbers << 17;
            if numbers >> 40 & 1 == 0 {
                apply(&mut bytes, piece);
            }
        }
        states.push(bytes);
    }
    for bytes in states {
        // A file that lost its end is as long as its tables need: the length is metadata
        // of the host's file system and synced with the data.
        check(&bytes);
        let file = Recorded::new(bytes);
        expected.verify(&content(&file.open()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn no_crash_takes_what_was_flushed(
        version in 2..4_u32,
        refcount_order in 0..7_u32,
        steps in proptest::collection::vec(step(48 << 10), 4..24),
        seed in any::<u64>(),
    ) {
        let make = Make { version, cluster_bits: 9, refcount_order, size: 48 << 10 };
        let file = Recorded::new(blank(make));
        let mut image = file.open();
        let mut expected = Expected::new(make.size);
        let mut durable = file.bytes();
        let (mut seen, mut pending) = (0, Vec::new());
        for step in steps {
            // The disk knows whole sectors.
            let align = |at: u64, length: u64| (at & !511, length.next_multiple_of(512).min(make.size - (at & !511)));
            let is_flush = matches!(step, Step::Flush | Step::Reopen);
            match step {
                Step::Write(at, length, fill) => {
                    let (at, length) = align(at, length);
                    let data = pattern(at, length, fill);
                    image.write_at(&data, at).unwrap();
                    expected.change(at, &data);
                }
                Step::Discard(at, length) => {
                    let (at, length) = align(at, length);
                    image.discard(at, length).unwrap();
                    expected.change(at, &vec![0; length as usize]);
                }
                Step::Zero(at, length, unmap) => {
                    let (at, length) = align(at, length);
                    image.write_zeroes(at, length, unmap).unwrap();
                    expected.change(at, &vec![0; length as usize]);
                }
                Step::Read(..) => {}
                Step::Flush => image.flush().unwrap(),
                Step::Reopen => {
                    drop(image);
                    image = file.open();
                }
            }
            let events = file.events();
            for event in &events[seen..] {
                if matches!(event, Event::Sync) {
                    verify_crash(&durable, &pending, seed, &expected);
                    for event in pending.drain(..) {
                        apply(&mut durable, &event);
                    }
                } else {
                    pending.push(event.clone());
                }
            }
            seen = events.len();
            if is_flush {
                expected.flush();
            }
            verify_crash(&durable, &pending, seed, &expected);
        }
    }
}
