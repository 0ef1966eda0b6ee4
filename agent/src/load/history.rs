//! A day of minutes and 90 days of hours, in one file of fixed size.
//!
//! Each minute and each hour has a slot, by its number modulo how many there are, so that nothing
//! is ever moved and a clock that is set puts what it measures elsewhere. A slot has its own
//! number and hash: an older one, a torn write or a damaged block is no slot.
//!
//! Layout, in little endian: 16 bytes that name the format; from 4,096 on 1,440 minutes of 80
//! bytes (number, 4 zeros, figures, hash); from 122,880 on 2,160 hours of 208 bytes (number,
//! minutes, mean, p95 and max of each figure, hash). Numbers count from 1970 (UTC). Hashes are the
//! first 8 bytes of BLAKE3.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use relevo_wire::Timestamp;
use relevo_wire::load::Spread;

use super::counters::{FIGURES, Figures};

/// Minutes kept.
pub const MINUTES: u32 = 24 * 60;
/// Hours kept.
pub const HOURS: u32 = 90 * 24;

const MAGIC: &[u8; 16] = b"RELEVO-LOAD-0001";
const HASH: usize = 8;
const MINUTE: usize = 8 + 8 * FIGURES + HASH;
const HOUR: usize = 8 + 24 * FIGURES + HASH;
const MINUTES_AT: u64 = 4096;
const HOURS_AT: u64 = 122_880;

/// A minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minute {
    /// Since 1970.
    pub number: u32,
    /// What it came to.
    pub figures: Figures,
}

/// An hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hour {
    /// Since 1970.
    pub number: u32,
    /// Minutes measured.
    pub minutes: u32,
    /// What they came to.
    pub spreads: [Spread; FIGURES],
}

/// The file.
pub struct History {
    file: File,
}

/// The minute that a moment is in.
pub fn minute_of(moment: Timestamp) -> u32 {
    u32::try_from(moment.as_millis().max(0) / 60_000).unwrap_or(u32::MAX)
}

impl History {
    /// Goes on with the file, or begins it. Another format's is begun anew.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let mut magic = [0; 16];
        if file.read_exact_at(&mut magic, 0).is_err() || magic != *MAGIC {
            file.set_len(0)?;
            file.write_all_at(MAGIC, 0)?;
        }
        // Holes until they are written.
        file.set_len(HOURS_AT + u64::from(HOURS) * HOUR as u64)?;
        Ok(Self { file })
    }

    /// To look at; while somebody else writes, too.
    pub fn read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut magic = [0; 16];
        file.read_exact_at(&mut magic, 0)?;
        match magic == *MAGIC {
            true => Ok(Self { file }),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Keeps a minute, in the place of the one a day before. Not yet durable.
    pub fn keep(&self, minute: &Minute) -> io::Result<()> {
        let mut slot = Vec::with_capacity(MINUTE);
        slot.extend(minute.number.to_le_bytes());
        slot.extend([0; 4]);
        slot.extend(minute.figures.iter().flat_map(|f| f.to_le_bytes()));
        seal(&mut slot);
        self.file.write_all_at(&slot, minute_at(minute.number))
    }

    /// Sums up, durably, the hours of the last day that are over and have more minutes than their
    /// slot says. `now` is a minute.
    pub fn close_hours(&self, now: u32) -> io::Result<()> {
        let current = now / 60;
        let mut closed = false;
        for number in current.saturating_sub(MINUTES / 60 - 1)..current {
            let Some(hour) = self.summed(number) else {
                continue;
            };
            if self
                .hour(number)
                .is_some_and(|kept| kept.minutes >= hour.minutes)
            {
                continue;
            }
            let mut slot = Vec::with_capacity(HOUR);
            slot.extend(hour.number.to_le_bytes());
            slot.extend(hour.minutes.to_le_bytes());
            for spread in hour.spreads {
                slot.extend(
                    <[u64; 3]>::from(spread)
                        .iter()
                        .flat_map(|f| f.to_le_bytes()),
                );
            }
            seal(&mut slot);
            self.file.write_all_at(&slot, hour_at(number))?;
            closed = true;
        }
        match closed {
            true => self.file.sync_data(),
            false => Ok(()),
        }
    }

    /// The hours of 90 days up to this minute, oldest first; those of the last day from their
    /// minutes, the one that `now` is in too.
    pub fn hours(&self, now: u32) -> Vec<Hour> {
        let current = now / 60;
        (current.saturating_sub(HOURS - 1)..=current)
            .filter_map(|number| {
                let fresh = (number + MINUTES / 60 > current)
                    .then(|| self.summed(number))
                    .flatten();
                match (self.hour(number), fresh) {
                    (Some(kept), Some(fresh)) if fresh.minutes > kept.minutes => Some(fresh),
                    (kept, fresh) => kept.or(fresh),
                }
            })
            .collect()
    }

    /// An hour from its minutes.
    fn summed(&self, number: u32) -> Option<Hour> {
        let first = number.checked_mul(60)?;
        let mut block = [0; MINUTE * 60];
        // The minutes of an hour lie together.
        self.file.read_exact_at(&mut block, minute_at(first)).ok()?;
        let minutes: Vec<Minute> = block
            .chunks_exact(MINUTE)
            .zip(first..)
            .filter_map(|(slot, number)| minute(slot).filter(|m| m.number == number))
            .collect();
        let mut spreads = [Spread::default(); FIGURES];
        for (at, spread) in spreads.iter_mut().enumerate() {
            let mut values: Vec<u64> = minutes.iter().map(|m| m.figures[at]).collect();
            values.sort_unstable();
            let sum: u128 = values.iter().map(|v| u128::from(*v)).sum();
            *spread = Spread {
                mean: u64::try_from(sum / values.len().max(1) as u128).unwrap_or(u64::MAX),
                p95: percentile(&values, 95)?,
                max: *values.last()?,
            };
        }
        let minutes = minutes.len() as u32;
        Some(Hour {
            number,
            minutes,
            spreads,
        })
    }

    fn hour(&self, number: u32) -> Option<Hour> {
        let mut slot = [0; HOUR];
        self.file.read_exact_at(&mut slot, hour_at(number)).ok()?;
        let content = opened(&slot)?;
        let (head, rest) = content.split_first_chunk::<8>()?;
        let [a, b, c, d, e, f, g, h] = *head;
        let minutes = u32::from_le_bytes([e, f, g, h]);
        let mut spreads = [Spread::default(); FIGURES];
        for (spread, bytes) in spreads.iter_mut().zip(rest.chunks_exact(24)) {
            let mut words = words(bytes);
            *spread = Spread::from([words.next()?, words.next()?, words.next()?]);
        }
        let hour = Hour {
            number: u32::from_le_bytes([a, b, c, d]),
            minutes,
            spreads,
        };
        (hour.number == number && hour.minutes > 0).then_some(hour)
    }
}

/// The smallest value that at least `percent` of 100 do not exceed; of sorted ones.
pub fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

fn minute(slot: &[u8]) -> Option<Minute> {
    let (head, rest) = opened(slot)?.split_first_chunk::<8>()?;
    let [a, b, c, d, ..] = *head;
    let mut figures = Figures::default();
    for (figure, word) in figures.iter_mut().zip(words(rest)) {
        *figure = word;
    }
    let number = u32::from_le_bytes([a, b, c, d]);
    Some(Minute { number, figures })
}

fn minute_at(number: u32) -> u64 {
    MINUTES_AT + u64::from(number % MINUTES) * MINUTE as u64
}

fn hour_at(number: u32) -> u64 {
    HOURS_AT + u64::from(number % HOURS) * HOUR as u64
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().map(|word| u64::from_le_bytes(*word))
}

fn seal(slot: &mut Vec<u8>) {
    let hash = blake3::hash(slot);
    slot.extend(&hash.as_bytes()[..HASH]);
}

fn opened(slot: &[u8]) -> Option<&[u8]> {
    let (content, hash) = slot.split_at_checked(slot.len().checked_sub(HASH)?)?;
    (blake3::hash(content).as_bytes()[..HASH] == *hash).then_some(content)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const START: u32 = 30_000_000;

    fn minute_with(number: u32, figure: u64) -> Minute {
        let figures = [figure; FIGURES];
        Minute { number, figures }
    }

    /// Guards what the hours say of their minutes, and the file's size.
    #[test]
    fn minutes_become_hours_and_the_file_stays_as_large_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("load");
        let history = History::open(&path).unwrap();
        let size = std::fs::metadata(&path).unwrap().len();
        for at in 0..60 {
            history
                .keep(&minute_with(START + at, u64::from(at) + 1))
                .unwrap();
        }
        history.close_hours(START + 60).unwrap();
        let [hour] = history.hours(START + 60)[..] else {
            panic!("one hour");
        };
        let (mean, p95, max) = (30, 57, 60);
        assert_eq!((hour.number, hour.minutes), (START / 60, 60));
        assert_eq!(hour.spreads, [Spread { mean, p95, max }; FIGURES]);
        // A year on, with an hour a day: what is kept is 90 days.
        for day in 1..=365 {
            let at = START + day * MINUTES;
            history.keep(&minute_with(at, 1)).unwrap();
            history.close_hours(at + 60).unwrap();
        }
        assert_eq!(history.hours(START + 365 * MINUTES + 60).len(), 90);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
        drop(history);
        let again = History::open(&path).unwrap();
        assert_eq!(again.hours(START + 365 * MINUTES + 60).len(), 90);
    }

    /// Guards an hour that the agent was not there to end, or that was cut in two by a restart.
    #[test]
    fn an_hour_is_summed_up_by_whoever_comes_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("load");
        let history = History::open(&path).unwrap();
        history.keep(&minute_with(START, 5)).unwrap();
        drop(history);
        let history = History::open(&path).unwrap();
        assert_eq!(history.hours(START).len(), 1, "the hour that runs");
        history.keep(&minute_with(START + 59, 7)).unwrap();
        history.close_hours(START + 23 * 60).unwrap();
        // Its minutes are overwritten.
        history.keep(&minute_with(START + MINUTES, 1)).unwrap();
        history.keep(&minute_with(START + MINUTES + 59, 1)).unwrap();
        let hours = history.hours(START + MINUTES + 59);
        assert_eq!(hours[0].minutes, 2);
        assert_eq!(hours[0].spreads[0].mean, 6);
    }

    /// Guards against figures of a time that has not come, and of blocks that rotted.
    #[test]
    fn a_clock_that_was_wrong_and_damage_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("load");
        let history = History::open(&path).unwrap();
        let ahead = START + 10 * MINUTES;
        history.keep(&minute_with(ahead, 9)).unwrap();
        history.close_hours(ahead + 60).unwrap();
        history.keep(&minute_with(START, 1)).unwrap();
        history.close_hours(START + 60).unwrap();
        let hours = history.hours(START + 60);
        assert_eq!(hours.len(), 1);
        assert_eq!(hours[0].spreads[0].max, 1);
        let raw = OpenOptions::new().write(true).open(&path).unwrap();
        raw.write_all_at(&[0xff], minute_at(START) + 9).unwrap();
        raw.write_all_at(&[0xff], hour_at(START / 60) + 9).unwrap();
        assert_eq!(history.hours(START + 60), []);
        raw.write_all_at(b"another", 0).unwrap();
        assert!(History::read(&path).is_err());
        assert_eq!(History::open(&path).unwrap().hours(ahead + 60), []);
    }
}
