//! A file of the agent's directory that is read whole or not at all.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | which kind of file |
//! | 4 | version, 1, little endian as all that follows |
//! | 4 | *n* |
//! | *n* | facts as JSON |
//! | 8 | *m* |
//! | *m* × size | entries of one size |
//! | 32 | BLAKE3 of all before |

use std::io;
use std::path::Path;

use relevo_wire::secret_file;
use serde::Serialize;
use serde::de::DeserializeOwned;

const VERSION: u32 = 1;

/// A kind of file: what it begins with, and the size of an entry.
#[derive(Clone, Copy)]
pub struct Kind<const ENTRY: usize>(pub &'static [u8; 8]);

impl<const ENTRY: usize> Kind<ENTRY> {
    /// Reads one; nothing when there is none. A damaged one is an error, whose text says so.
    pub fn read<F: DeserializeOwned>(
        self,
        path: &Path,
    ) -> io::Result<Option<(F, Vec<[u8; ENTRY]>)>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the file is damaged");
        self.decode(&bytes).ok_or_else(damaged).map(Some)
    }

    /// Puts one in the place of the one before, durably.
    pub fn write(
        self,
        path: &Path,
        facts: &impl Serialize,
        entries: impl ExactSizeIterator<Item = [u8; ENTRY]>,
    ) -> io::Result<()> {
        let facts = serde_json::to_vec(facts)?;
        let mut bytes = Vec::with_capacity(64 + facts.len() + ENTRY * entries.len());
        bytes.extend(self.0);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((facts.len() as u32).to_le_bytes());
        bytes.extend(facts);
        bytes.extend((entries.len() as u64).to_le_bytes());
        entries.for_each(|entry| bytes.extend(entry));
        let hash = blake3::hash(&bytes);
        bytes.extend(hash.as_bytes());
        secret_file::replace(path, bytes)
    }

    fn decode<F: DeserializeOwned>(self, bytes: &[u8]) -> Option<(F, Vec<[u8; ENTRY]>)> {
        let (content, hash) = bytes.split_last_chunk::<32>()?;
        if blake3::hash(content).as_bytes() != hash {
            return None;
        }
        let rest = content.strip_prefix(self.0)?;
        let (version, rest) = rest.split_first_chunk()?;
        if u32::from_le_bytes(*version) != VERSION {
            return None;
        }
        let (length, rest) = rest.split_first_chunk()?;
        let (facts, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let facts = serde_json::from_slice(facts).ok()?;
        let (count, rest) = rest.split_first_chunk()?;
        let (entries, behind) = rest.as_chunks::<ENTRY>();
        let whole = behind.is_empty() && entries.len() as u64 == u64::from_le_bytes(*count);
        whole.then(|| (facts, entries.to_vec()))
    }
}
