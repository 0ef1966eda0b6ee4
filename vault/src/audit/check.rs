//! Whether the log is as it was written.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use relevo_wire::VaultId;
use serde::Serialize;

use super::{Line, each_line, files, first_head, name};
use crate::error::VaultError;

/// Faults that are named; there may be more.
const NAMED: usize = 1000;

/// What packs know of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Entries that it had.
    pub entries: u64,
    /// Hash of the last of them.
    pub hash: [u8; 32],
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file; none when the whole log is meant.
    pub file: Option<String>,
    /// The line in it, from 1.
    pub line: Option<usize>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "audit/{file}")?;
            if let Some(line) = self.line {
                write!(f, ", line {line}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.reason)
    }
}

/// What a check of the log found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Entries that are there.
    pub entries: u64,
    /// Files.
    pub files: usize,
    /// Hash of the last entry.
    pub head: String,
    /// Entries up to here are known to the packs: rewriting them is found. Behind it only an
    /// entry that is damaged or changed alone is.
    pub anchored: u64,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

/// What the chain must go on with.
struct Walk {
    entries: u64,
    /// Hash of the entry before, when that could be read.
    previous: Option<[u8; 32]>,
    faults: Vec<Fault>,
}

impl Walk {
    fn fault(&mut self, file: &str, line: usize, reason: String) {
        if self.faults.len() < NAMED {
            self.faults.push(Fault {
                file: Some(file.into()),
                line: Some(line),
                reason,
            });
        }
    }

    fn line(
        &mut self,
        file: &str,
        at: usize,
        bytes: &[u8],
        whole: bool,
    ) -> Option<(u64, [u8; 32])> {
        if !whole {
            let reason = format!("{} unfinished bytes, as a crash leaves them", bytes.len());
            self.fault(file, at, reason);
            return None;
        }
        let expected = self.entries.saturating_add(1);
        self.entries = expected;
        let (line, hash) = match Line::decode(bytes) {
            Ok(read) => read,
            Err(reason) => {
                self.fault(file, at, format!("entry {expected} was changed: {reason}"));
                self.previous = None;
                return None;
            }
        };
        let found = line.sequence;
        if found > expected {
            let last = found - 1;
            self.fault(
                file,
                at,
                format!("entries {expected} to {last} before it are missing"),
            );
        } else if found < expected {
            let reason = format!("entry {found} stands where {expected} should: inserted or moved");
            self.fault(file, at, reason);
        } else if let Some(previous) = self.previous
            && line.previous.as_bytes() != blake3::Hash::from_bytes(previous).to_hex().as_bytes()
        {
            let before = expected - 1;
            let reason = format!("entry {expected} follows another entry {before} than is there");
            self.fault(file, at, reason);
        }
        self.entries = found;
        self.previous = Some(hash);
        Some((found, hash))
    }
}

/// Checks the log of the vault in this directory against itself and against what packs know.
pub fn check(
    vault_directory: &Path,
    vault: VaultId,
    anchors: &[Anchor],
) -> Result<Checked, VaultError> {
    let path = vault_directory.join("audit");
    let first = first_head(vault);
    let mut walk = Walk {
        entries: 0,
        previous: Some(first.hash),
        faults: Vec::new(),
    };
    let mut wanted: HashMap<u64, Option<[u8; 32]>> = anchors
        .iter()
        .map(|anchor| (anchor.entries, None))
        .collect();
    wanted.insert(0, Some(first.hash));
    let files = files(&path)?;
    for (at, number) in files.iter().enumerate() {
        let file = name(*number);
        if *number != at as u64 + 1 && (at == 0 || files[at - 1] + 1 != *number) {
            walk.faults.push(Fault {
                file: Some(file.clone()),
                line: None,
                reason: "files before it are missing".into(),
            });
        }
        each_line(&path.join(&file), |line, bytes, whole| {
            if let Some((sequence, hash)) = walk.line(&file, line, bytes, whole)
                && let Some(seen) = wanted.get_mut(&sequence)
            {
                *seen = Some(hash);
            }
        })?;
    }
    let anchored = anchors.iter().map(|a| a.entries).max().unwrap_or(0);
    let mut whole = |reason: String| {
        walk.faults.push(Fault {
            file: None,
            line: None,
            reason,
        });
    };
    if anchored > walk.entries {
        let there = walk.entries;
        whole(format!(
            "the log ends with entry {there}, the packs know {anchored}: the end was cut off"
        ));
    }
    for anchor in anchors.iter().filter(|a| a.entries <= walk.entries) {
        let there = wanted.get(&anchor.entries).copied().flatten();
        if there != Some(anchor.hash) {
            whole(format!(
                "entry {} is not the one that the packs know: the log was written anew",
                anchor.entries
            ));
        }
    }
    Ok(Checked {
        entries: walk.entries,
        files: files.len(),
        head: blake3::Hash::from_bytes(walk.previous.unwrap_or_default())
            .to_hex()
            .to_string(),
        anchored,
        faults: walk.faults,
    })
}
