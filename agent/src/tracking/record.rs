//! What is kept of a disk's tracking between runs, in a file of the agent's directory, as `file`
//! describes: facts, and words that are not 0, each as its number (4 bytes) and 64 grains (8).

use std::io;
use std::path::Path;

use relevo_wire::{PointId, Timestamp};
use serde::{Deserialize, Serialize};

use super::file::Kind;
use super::grains::Grains;

const FILE: Kind<12> = Kind(b"RELEVOTR");

/// What is known of a disk and of who marks its writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// What tells the disk from others, where its hardware says it.
    pub identity: String,
    /// Its bytes.
    pub size: u64,
    /// The kernel's run in which the probe was started.
    pub boot: String,
    /// The kernel's number of the disk in that run.
    pub sequence: u64,
    /// Tells the probe from all others.
    pub generation: u64,
    /// Sectors that were written before the probe saw any.
    pub unseen: u64,
    /// The recovery point from which on changes are known.
    pub base: Option<PointId>,
    /// The point that is being made: its changes were taken.
    pub making: Option<PointId>,
    /// When the whole disk was last compared.
    pub compared: Option<Timestamp>,
    /// A comparison found a change that was not marked: what was seen.
    pub alarm: Option<String>,
}

/// The facts, and the grains that were changed since the base and taken from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The facts.
    pub facts: Facts,
    /// Changed since the base.
    pub changed: Grains,
}

impl Record {
    /// Reads one; nothing when there is none. A damaged one is an error, whose text says so.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let Some((facts, words)) = FILE.read(path)? else {
            return Ok(None);
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the file is damaged");
        Self::of(facts, &words).ok_or_else(damaged).map(Some)
    }

    /// Puts it in the place of the one before, durably.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let numbered = (0u32..).zip(self.changed.words());
        let set: Vec<_> = numbered
            .filter(|(_, word)| **word != 0)
            .map(|(at, word)| {
                let mut entry = [0; 12];
                entry[..4].copy_from_slice(&at.to_le_bytes());
                entry[4..].copy_from_slice(&word.to_le_bytes());
                entry
            })
            .collect();
        FILE.write(path, &self.facts, set.into_iter())
    }

    fn of(facts: Facts, set: &[[u8; 12]]) -> Option<Self> {
        let mut words = Grains::none(facts.size).words().to_vec();
        for entry in set {
            let (at, word) = entry.split_first_chunk()?;
            let word = u64::from_le_bytes(word.try_into().ok()?);
            *words.get_mut(u32::from_le_bytes(*at) as usize)? = word;
        }
        Some(Self {
            changed: Grains::from_words(facts.size, words)?,
            facts,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(in crate::tracking) fn record(size: u64) -> Record {
        Record {
            facts: Facts {
                identity: "wwn-1".into(),
                size,
                boot: "a".into(),
                sequence: 7,
                generation: 9,
                unseen: 11,
                base: Some(PointId::random()),
                making: None,
                compared: Some(Timestamp::from_millis(5)),
                alarm: None,
            },
            changed: Grains::none(size),
        }
    }

    /// Guards against trusting what a crash or a failing disk left of a record.
    #[test]
    fn a_record_comes_back_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sda");
        assert_eq!(Record::read(&path).unwrap(), None);
        let mut record = record(100 << 20);
        record.changed.add(5 << 20..9 << 20);
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap().unwrap(), record);
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 7, 20, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(Record::read(&path).is_err(), "cut at {cut}");
        }
        for at in (0..whole.len()).step_by(11) {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            std::fs::write(&path, &flipped).unwrap();
            assert!(Record::read(&path).is_err(), "flipped at {at}");
        }
    }
}
