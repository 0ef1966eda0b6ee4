//! How tracking stands, for whoever asks between runs.

use std::path::Path;

use relevo_wire::{PointId, Timestamp};
use serde::Serialize;

use super::device::{Device, boot_id};
use super::record::Record;
use super::trust::trusted;
use super::{clues, clues_name, file_name};
use crate::disk::Disk;

/// How a disk's tracking stands.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    /// Why the next run reads all of it; none when it need not.
    pub doubt: Option<String>,
    /// Bytes in the grains that are marked.
    pub marked_bytes: u64,
    /// The point from which on changes are known.
    pub base: Option<PointId>,
    /// When the whole disk was last compared.
    pub compared: Option<Timestamp>,
}

/// Looks, and changes nothing.
pub fn standing(dir: &Path, disk: &Disk) -> Standing {
    let clues = clues::stands(&dir.join(clues_name(disk.name())));
    let none = |doubt: String| Standing {
        doubt: Some(match clues {
            true => format!("{doubt}; but of btrfs only what it says has changed"),
            false => doubt,
        }),
        marked_bytes: 0,
        base: None,
        compared: None,
    };
    let device = match Device::of(disk.path()) {
        Ok(device) => device,
        Err(reason) => return none(reason),
    };
    let kept = Record::read(&dir.join(file_name(disk.name())));
    let kept = match kept {
        Ok(Some(kept)) => kept,
        Ok(None) => return none("no run has begun to track it".into()),
        Err(error) => return none(error.to_string()),
    };
    let facts = kept.facts.clone();
    let boot = boot_id().unwrap_or_default();
    let (doubt, marked_bytes) = match trusted(Some(kept), &device, &boot, facts.base, dir) {
        Ok((probe, mut record)) => {
            if let Some(marks) = probe.peek() {
                record.changed.merge(&marks);
            }
            (None, record.changed.bytes())
        }
        Err(doubt) => (Some(doubt), 0),
    };
    Standing {
        doubt,
        marked_bytes,
        base: facts.base,
        compared: facts.compared,
    }
}
