//! What the kernel marks of one disk: a map that its programs and this process share.
//!
//! | word | what |
//! | --- | --- |
//! | 0 | sectors of requests that were seen completed |
//! | 1 | discards of too many pieces to mark |
//! | 2 | requests whose completion was not seen, but the next one in their slot |
//! | 3 | not 0 while somebody has marks in his hands that are nowhere else |
//! | 4 | tells this map from all others |
//! | 5 | the disk's number in this run of the kernel (`diskseq`) |
//! | 6 | the disk's bytes |
//! | 7 | *w*, a 64th of the grains' words |
//! | 8, 9 | hardware queues, and slots for each |
//! | 10 | sectors that were written before the programs looked at the disk |
//! | from 16, *w* | wide marks: one bit for each word of grains, 4 MiB |
//! | a slot each | requests under way: bit 63: completed, 24 to 61: first sector, 0 to 23: sectors |
//! | the rest | marks: one bit for each grain, 64 KiB |
//!
//! A request that covers whole words of grains sets wide marks for them, so that a discard of
//! gigabytes is marked in a few steps.
//!
//! What is under way while marks are taken may reach the disk after it is read, so it is marked
//! anew. A completion that the programs did not see loses nothing therefore: its request is under
//! way as far as they know, until the kernel has counted all that they know of as written, or the
//! slot has a new request.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use aya::maps::IterableMap;

use super::device::Device;
use super::grains::{GRAIN, Grains, words_of};
use super::programs::{Alone, Programs, disk_map, number_of, remove_all};
use super::shared::SharedWords;

const SECTORS: usize = 0;
const REFUSED: usize = 1;
const LATE: usize = 2;
const TAKING: usize = 3;
const GENERATION: usize = 4;
const SEQUENCE: usize = 5;
const SIZE: usize = 6;
const WIDE_WORDS: usize = 7;
const QUEUES: usize = 8;
const DEPTH: usize = 9;
const UNSEEN: usize = 10;
/// Where the wide marks begin.
const HEADER: usize = 16;
/// Where slots and marks begin depends on these. The kernel's limits are 10,240 requests a queue
/// and a queue a processor.
const SLOTS: u64 = 1 << 24;
/// In a slot.
const DONE: u64 = 1 << 63;
const SECTOR_BITS: u64 = (1 << 38) - 1;

/// A disk's map, with the programs at work.
pub struct Probe {
    words: SharedWords,
    device: Device,
    _programs: Programs,
}

impl Probe {
    /// Starts marking, in place of what marks this disk now. `generation` tells this probe from
    /// all others.
    pub fn start(device: &Device, generation: u64) -> Result<Self, String> {
        if device.size / 512 > SECTOR_BITS {
            return Err("it is too large".into());
        }
        let alone = Alone::new()?;
        let mut programs = Programs::start(&alone)?;
        forget_gone(&mut programs);
        let (queues, depth) = device.queues();
        let length = length_of(device.size, queues.saturating_mul(depth))?;
        let map = disk_map(length)?;
        let words = SharedWords::map(map.map().fd(), length as usize).map_err(|e| e.to_string())?;
        for (at, value) in [
            (GENERATION, generation),
            (SEQUENCE, device.sequence),
            (SIZE, device.size),
            (WIDE_WORDS, wide_words_of(device.size) as u64),
            (QUEUES, queues),
            (DEPTH, depth),
        ] {
            words.words()[at].store(value, SeqCst);
        }
        programs.add(number_of(device), &map)?;
        let probe = Self {
            words,
            device: device.clone(),
            _programs: programs,
        };
        probe.note_unseen()?;
        Ok(probe)
    }

    /// Notes what was written before.
    fn note_unseen(&self) -> Result<(), String> {
        // In this order: what is completed between the two is counted twice, which errs to the
        // side of not suspecting; samples that agree say that nothing was.
        let sample = || Some((self.told(SECTORS), self.device.sectors_written()?));
        for _ in 0..100 {
            let (seen, written) = sample().ok_or("the kernel does not say how much was written")?;
            let unseen = written.saturating_sub(seen);
            self.words.words()[UNSEEN].store(unseen, SeqCst);
            if sample() == Some((seen, written)) {
                break;
            }
        }
        Ok(())
    }

    /// The one at work, when all of it is there.
    pub fn open(device: &Device) -> Option<Self> {
        let programs = Programs::open()?;
        let map = programs.disk(number_of(device))?;
        // A map of another disk that had this number may be shorter.
        let told = |at: usize| map.get(&(at as u32), 0).ok();
        if (told(SEQUENCE), told(SIZE)) != (Some(device.sequence), Some(device.size)) {
            return None;
        }
        let slots = told(QUEUES)?.checked_mul(told(DEPTH)?)?;
        let length = length_of(device.size, slots).ok()?;
        Some(Self {
            words: SharedWords::map(map.map().fd(), length as usize).ok()?,
            device: device.clone(),
            _programs: programs,
        })
    }

    /// Ends it.
    pub fn stop(device: &Device) -> io::Result<()> {
        let alone = Alone::new().map_err(io::Error::other)?;
        match Programs::open() {
            Some(programs) => programs.remove(number_of(device), &alone),
            None => Ok(()),
        }
    }

    /// Ends all that there are, of disks that are gone too.
    pub fn stop_all() -> io::Result<()> {
        remove_all()
    }

    /// What it was started with.
    pub fn generation(&self) -> u64 {
        self.told(GENERATION)
    }

    /// Sectors of requests that it saw issued and completed, or under way: at least those that
    /// were written, when it missed none.
    pub fn sectors(&self) -> u64 {
        // In this order: what is completed between the two is counted twice.
        let under_way = self.slots().iter().filter_map(under_way);
        let under_way: u64 = under_way.map(|(_, slot)| slot & 0xff_ffff).sum();
        self.told(SECTORS) + under_way
    }

    /// Sectors that were written before it saw any.
    pub fn unseen(&self) -> u64 {
        self.told(UNSEEN)
    }

    /// Requests whose completion it did not see, but what came after it.
    pub fn late(&self) -> u64 {
        self.told(LATE)
    }

    /// Why its marks are not all.
    pub fn fault(&self) -> Option<&'static str> {
        match self.told(REFUSED) {
            0 => None,
            _ => Some("a discard was in more pieces than can be marked"),
        }
    }

    /// Whether somebody has taken marks that are not safe on a disk yet, or was cut off before
    /// they were.
    pub fn is_taking(&self) -> bool {
        self.told(TAKING) != 0
    }

    /// Marks are in somebody's hands.
    pub fn taking(&self) {
        self.words.words()[TAKING].store(1, SeqCst);
    }

    /// Takes the marks: what is written from now on is marked anew. They are in nobody's hands
    /// but the caller's until [`kept`](Self::kept).
    pub fn take(&self) -> Option<Grains> {
        self.taking();
        let taken = self.marks(|word| match word.load(Relaxed) {
            // Most are, and looking does not take the line away from other processors.
            0 => 0,
            _ => word.swap(0, SeqCst),
        });
        self.mark_under_way();
        taken
    }

    /// Marks what is under way, which may reach the disk after it is read.
    fn mark_under_way(&self) {
        let slots: Vec<_> = self.slots().iter().filter_map(under_way).collect();
        if slots.is_empty() {
            return;
        }
        // The kernel counts what is completed, whether or not that was seen.
        let under_way: u64 = slots.iter().map(|(_, slot)| slot & 0xff_ffff).sum();
        let known = self.told(UNSEEN) + self.told(SECTORS) + under_way;
        let done = self.device.sectors_written() == Some(known);
        for (at, slot) in slots {
            let (first, count) = ((slot >> 24) & SECTOR_BITS, slot & 0xff_ffff);
            if !done {
                self.mark(first * 512..(first + count) * 512);
            } else if at
                .compare_exchange(slot, slot | DONE, SeqCst, SeqCst)
                .is_ok()
            {
                self.words.words()[SECTORS].fetch_add(count, SeqCst);
            }
        }
    }

    /// Marks bytes as written, whoever wrote them.
    pub fn mark(&self, bytes: Range<u64>) {
        for grain in bytes.start / GRAIN..bytes.end.min(self.device.size).div_ceil(GRAIN) {
            if let Some(word) = self.grain_words().get((grain / 64) as usize) {
                word.fetch_or(1 << (grain % 64), SeqCst);
            }
        }
    }

    /// What was taken is safe on the disk.
    pub fn kept(&self) {
        self.words.words()[TAKING].store(0, SeqCst);
    }

    /// The marks as they are.
    pub fn peek(&self) -> Option<Grains> {
        self.marks(|word| word.load(Relaxed))
    }

    fn marks(&self, read: impl Fn(&AtomicU64) -> u64) -> Option<Grains> {
        let wide = self.part(HEADER, self.told(WIDE_WORDS) as usize);
        let mut words: Vec<u64> = self.grain_words().iter().map(&read).collect();
        for (at, mut bits) in wide.iter().map(&read).enumerate() {
            while bits != 0 {
                let word = at * 64 + bits.trailing_zeros() as usize;
                *words.get_mut(word)? = u64::MAX;
                bits &= bits - 1;
            }
        }
        Grains::from_words(self.device.size, words)
    }

    fn slots(&self) -> &[AtomicU64] {
        let count = self.told(QUEUES) * self.told(DEPTH);
        self.part(HEADER + self.told(WIDE_WORDS) as usize, count as usize)
    }

    fn grain_words(&self) -> &[AtomicU64] {
        let words = words_of(self.device.size);
        self.part(self.words.words().len() - words, words)
    }

    /// Empty where the map is not so long.
    fn part(&self, from: usize, length: usize) -> &[AtomicU64] {
        let words = self.words.words();
        words
            .get(from..from.saturating_add(length))
            .unwrap_or_default()
    }

    fn told(&self, at: usize) -> u64 {
        self.words.words()[at].load(SeqCst)
    }
}

fn wide_words_of(size: u64) -> usize {
    words_of(size).div_ceil(64)
}

/// Words of a disk's map.
fn length_of(size: u64, slots: u64) -> Result<u32, String> {
    let words = (HEADER + wide_words_of(size) + words_of(size)) as u64 + slots.min(SLOTS);
    u32::try_from(words).map_err(|_| "it is too large".into())
}

/// The request in a slot, if it is under way.
fn under_way(slot: &AtomicU64) -> Option<(&AtomicU64, u64)> {
    let request = slot.load(SeqCst);
    (request != 0 && request & DONE == 0).then_some((slot, request))
}

/// Looks no more at disks that are there no more.
fn forget_gone(programs: &mut Programs) {
    for number in programs.numbers() {
        let (major, minor) = (number >> 20, number & 0xfffff);
        let now = format!("/sys/dev/block/{major}:{minor}/diskseq");
        let now = crate::inventory::sysfs_text(Path::new(&now));
        let map = programs.disk(number);
        let known = map.and_then(|map| map.get(&(SEQUENCE as u32), 0).ok());
        if now != known.map(|sequence| sequence.to_string()) {
            programs.forget(number);
        }
    }
}
