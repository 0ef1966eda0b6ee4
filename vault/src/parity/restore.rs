//! Makes damaged blocks and lost packs anew.
//!
//! A block whose checksum does not fit, or that cannot be read, is an erasure. A column with at
//! most as many erasures as it has parity is restored, checked against the checksums, and only
//! then written: a pack's block in its place, a lost pack as a new file that takes the name when
//! it is synced. Of a column with more nothing is written. Interrupted, it is simply done again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;

use serde::Serialize;

use super::code::Code;
use super::layout::{BLOCK, Group, Row, checksum};
use super::{groups, read_block, read_copy, read_parity, read_row, writing};
use crate::error::StoreError;
use crate::volume::{FileId, FileKind, PackId, Volume};

/// What parity did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// Blocks found damaged or missing, of packs and parity.
    pub damaged: u64,
    /// Blocks written anew.
    pub restored: u64,
    /// Pack files that were gone and are back.
    pub files: Vec<String>,
    /// Damage that is more than the parity can heal, by pack: offset and length.
    pub beyond: Vec<(String, u64, u64)>,
    /// Checksums of some column are lost: the parity is to be made anew.
    pub stale: bool,
}

/// One healing of a group.
struct Healing<'a, V> {
    volume: &'a V,
    group: &'a Group,
    code: Code,
    /// Packs whose files are gone.
    gone: BTreeSet<usize>,
    /// Blocks of lost packs that could not be restored.
    refused: BTreeMap<usize, Vec<u32>>,
    written: BTreeSet<FileId>,
    report: Restored,
}

/// Heals the columns of a group that are damaged, all of them when a pack's file is gone. Does
/// nothing when there is no such group any more.
pub fn heal<V: Volume>(
    volume: &V,
    group: &Group,
    columns: Range<u32>,
) -> Result<Restored, StoreError> {
    let _alone = writing();
    // As it is now: a pack may have left it.
    let now = groups(volume, group.vault, Some(group.tenant))?.usable;
    let Some(group) = now.iter().find(|g| g.number == group.number) else {
        return Ok(Restored::default());
    };
    // What a failed sync left in memory is not on the disk, and would pass for healed.
    for (_, pack, _) in group.members() {
        volume.drop_cached(pack);
    }
    volume.drop_cached(group.file());
    let mut healing = Healing {
        volume,
        group,
        code: Code::of(group)?,
        gone: BTreeSet::new(),
        refused: BTreeMap::new(),
        written: BTreeSet::new(),
        report: Restored::default(),
    };
    for (slot, pack, _) in group.members() {
        if matches!(volume.length(pack), Err(e) if e.kind() == io::ErrorKind::NotFound) {
            healing.gone.insert(slot);
        }
    }
    let columns = match healing.gone.is_empty() {
        true => columns.start.min(group.columns)..columns.end.min(group.columns),
        false => 0..group.columns,
    };
    if healing.gone.len() > group.parity {
        healing.refuse_gone();
        return Ok(healing.report);
    }
    healing.header()?;
    for slot in healing.gone.clone() {
        let file = healing.new_pack(slot);
        let made = volume.create(file).and_then(|()| volume.truncate(file, 0));
        made.map_err(|e| failed("make", file, &e))?;
    }
    for column in columns {
        healing.column(column)?;
    }
    healing.finish()
}

fn failed(doing: &str, file: FileId, error: &io::Error) -> StoreError {
    StoreError::io(format_args!("{doing} {file}"), error)
}

impl<V: Volume> Healing<'_, V> {
    fn pack(&self, slot: usize) -> PackId {
        PackId {
            tenant: self.group.tenant,
            number: self.group.slots[slot].map_or(0, |member| member.pack),
        }
    }

    fn new_pack(&self, slot: usize) -> FileId {
        FileId {
            kind: FileKind::NewPack,
            ..self.pack(slot).into()
        }
    }

    fn refuse_gone(&mut self) {
        for (slot, pack, length) in self.group.members() {
            if self.gone.contains(&slot) {
                self.report.damaged += length.div_ceil(BLOCK as u64);
                self.report.beyond.push((pack.to_string(), 0, length));
            }
        }
    }

    /// Both copies of the parity file's header.
    fn header(&mut self) -> Result<(), StoreError> {
        let (file, header) = (self.group.file(), self.group.encode());
        let mut found = vec![0; header.len()];
        let read = self.volume.read_at(file, 0, &mut found);
        if read.is_err() || found != header {
            self.report.damaged += 1;
            self.write(file, 0, &header)?;
        }
        Ok(())
    }

    fn write(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let written = self.volume.write_at(file, offset, bytes);
        written.map_err(|e| failed("write to", file, &e))?;
        self.report.restored += 1;
        self.written.insert(file);
        Ok(())
    }

    fn column(&mut self, column: u32) -> Result<(), StoreError> {
        let group = self.group;
        let Some(row) = read_row(self.volume, group, column) else {
            self.report.stale = true;
            for slot in self.gone.clone() {
                self.beyond(slot, column);
            }
            return Ok(());
        };
        self.rows(column, &row)?;
        let mut data: Vec<Option<Vec<u8>>> = Vec::with_capacity(group.slots.len());
        for slot in 0..group.slots.len() {
            let block = match self.gone.contains(&slot) {
                true => None,
                false => read_block(self.volume, group, slot, column).ok(),
            };
            let intact =
                |block: &Vec<u8>| group.slots[slot].is_none() || checksum(block) == row.data[slot];
            data.push(block.filter(intact));
        }
        let parity: Vec<Option<Vec<u8>>> = (0..group.parity)
            .map(|at| {
                let block = read_parity(self.volume, group, at, column).ok();
                block.filter(|block| checksum(block) == row.parity[at])
            })
            .collect();
        // A lost pack's blocks behind its end are known: zeros.
        for (slot, block) in data.iter_mut().enumerate() {
            if block.is_none() && group.block_length(slot, column) == 0 {
                *block = Some(vec![0; BLOCK]);
            }
        }
        let lost: Vec<usize> = (0..data.len()).filter(|&at| data[at].is_none()).collect();
        let bad: Vec<usize> = (0..parity.len())
            .filter(|&at| parity[at].is_none())
            .collect();
        if lost.is_empty() && bad.is_empty() {
            return Ok(());
        }
        self.report.damaged += (lost.len() + bad.len()) as u64;
        if !lost.is_empty() {
            let enough = lost.len() + bad.len() <= group.parity;
            if enough {
                self.code.restore(&mut data, &parity)?;
            }
            let fits = |&slot: &usize| {
                let block = data[slot].as_ref();
                block.is_some_and(|block| checksum(block) == row.data[slot])
            };
            if !enough || !lost.iter().all(fits) {
                for &slot in &lost {
                    self.beyond(slot, column);
                }
                return Ok(());
            }
        }
        let data: Vec<Vec<u8>> = data.into_iter().flatten().collect();
        for &slot in &lost {
            let file = match self.gone.contains(&slot) {
                true => self.new_pack(slot),
                false => self.pack(slot).into(),
            };
            let length = group.block_length(slot, column);
            let offset = u64::from(column) * BLOCK as u64;
            self.write(file, offset, &data[slot][..length])?;
        }
        if !bad.is_empty() {
            let anew = self.code.encode(&data)?;
            for &at in &bad {
                if checksum(&anew[at]) != row.parity[at] {
                    self.report.stale = true;
                    continue;
                }
                let offset = group.parity_at(column) + (at * BLOCK) as u64;
                self.write(group.file(), offset, &anew[at])?;
            }
        }
        Ok(())
    }

    /// Both copies of the column's checksums.
    fn rows(&mut self, column: u32, row: &Row) -> Result<(), StoreError> {
        let bytes = row.encode(column);
        for at in [self.group.row_at(column), self.group.second_row_at(column)] {
            if read_copy(self.volume, self.group, column, at).is_none() {
                self.report.damaged += 1;
                self.write(self.group.file(), at, &bytes)?;
            }
        }
        Ok(())
    }

    fn beyond(&mut self, slot: usize, column: u32) {
        if self.gone.contains(&slot) {
            self.refused.entry(slot).or_default().push(column);
        }
        let (pack, length) = (self.pack(slot), self.group.block_length(slot, column));
        let offset = u64::from(column) * BLOCK as u64;
        let beyond = &mut self.report.beyond;
        match beyond.last_mut() {
            Some((last, from, of)) if *last == pack.to_string() && *from + *of == offset => {
                *of += length as u64;
            }
            _ => beyond.push((pack.to_string(), offset, length as u64)),
        }
    }

    /// The one order: content, `fdatasync`, names of packs that were lost, `fsync` of the
    /// directory. A lost pack whose header cannot be had stays lost.
    fn finish(mut self) -> Result<Restored, StoreError> {
        for slot in self.gone.clone() {
            // Blocks that stay lost at the end leave their room.
            let (file, length) = (
                self.new_pack(slot),
                self.group.slots[slot].map_or(0, |m| m.length),
            );
            let refused = self
                .refused
                .get(&slot)
                .is_some_and(|columns| columns.contains(&0));
            if refused {
                let removed = self.volume.remove(file);
                removed.map_err(|e| failed("drop", file, &e))?;
                self.written.remove(&file);
                self.gone.remove(&slot);
            } else if self.volume.length(file).unwrap_or(0) < length {
                let filled = self.volume.write_at(file, length - 1, &[0]);
                filled.map_err(|e| failed("write to", file, &e))?;
            }
        }
        for file in &self.written {
            let synced = self.volume.sync(*file);
            synced.map_err(|e| failed("sync", *file, &e))?;
        }
        for slot in self.gone.clone() {
            let (file, pack) = (self.new_pack(slot), self.pack(slot));
            let named = self.volume.rename(file, pack);
            named.map_err(|e| failed("name", file, &e))?;
            self.report.files.push(pack.to_string());
        }
        if !self.gone.is_empty() {
            let synced = self.volume.sync_directory(self.group.tenant);
            synced.map_err(|e| failed("sync the directory of", self.group.file(), &e))?;
        }
        Ok(self.report)
    }
}
