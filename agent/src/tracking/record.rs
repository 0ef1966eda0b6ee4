//! What is kept of a disk's tracking between runs, in a file of the agent's directory.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `RELEVOTR` |
//! | 4 | version, 1, little endian as all that follows |
//! | 4 | *n* |
//! | *n* | [`Facts`] as JSON |
//! | 8 | *m* |
//! | 12 *m* | words that are not 0: their number (4), 64 grains (8) |
//! | 32 | BLAKE3 of all before |

use std::io;
use std::path::Path;

use relevo_wire::{PointId, Timestamp, secret_file};
use serde::{Deserialize, Serialize};

use super::grains::Grains;

const MAGIC: &[u8; 8] = b"RELEVOTR";
const VERSION: u32 = 1;

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
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the file is damaged");
        Self::decode(&bytes).ok_or_else(damaged).map(Some)
    }

    /// Puts it in the place of the one before, durably.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        secret_file::replace(path, self.encode()?)
    }

    fn encode(&self) -> io::Result<Vec<u8>> {
        let facts = serde_json::to_vec(&self.facts)?;
        let set: Vec<(u32, u64)> = (0..)
            .zip(self.changed.words())
            .filter_map(|(at, &word)| (word != 0).then_some((at, word)))
            .collect();
        let mut bytes = Vec::with_capacity(64 + facts.len() + 12 * set.len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((facts.len() as u32).to_le_bytes());
        bytes.extend(facts);
        bytes.extend((set.len() as u64).to_le_bytes());
        for (at, word) in set {
            bytes.extend(at.to_le_bytes());
            bytes.extend(word.to_le_bytes());
        }
        let hash = blake3::hash(&bytes);
        bytes.extend(hash.as_bytes());
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, hash) = bytes.split_last_chunk::<32>()?;
        if blake3::hash(content).as_bytes() != hash {
            return None;
        }
        let rest = content.strip_prefix(MAGIC)?;
        let (version, rest) = rest.split_first_chunk()?;
        if u32::from_le_bytes(*version) != VERSION {
            return None;
        }
        let (length, rest) = rest.split_first_chunk()?;
        let (facts, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let facts: Facts = serde_json::from_slice(facts).ok()?;
        let (count, rest) = rest.split_first_chunk()?;
        if rest.len() as u64 != u64::from_le_bytes(*count).checked_mul(12)? {
            return None;
        }
        let mut words = Grains::none(facts.size).words().to_vec();
        for pair in rest.chunks_exact(12) {
            let (at, word) = pair.split_first_chunk()?;
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
