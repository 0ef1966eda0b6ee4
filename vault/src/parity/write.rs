//! Writes parity files: of packs that have none, and of a group that a pack leaves.

use std::io;

use super::code::{Code, add};
use super::layout::{BLOCK, Group, Row, TABLE, checksum};
use super::{groups, keep_names, read_block, read_parity, read_row, writing};
use crate::error::StoreError;
use crate::volume::{PackId, Volume};

/// Parity blocks are handed to the file system in pieces of about this many bytes.
const PIECE: usize = 4 * 1024 * 1024;

/// A parity file that is being written, under its temporary name.
struct Writer<'a, V> {
    volume: &'a V,
    group: &'a Group,
    table: Vec<u8>,
    piece: Vec<u8>,
    at: u64,
}

impl<'a, V: Volume> Writer<'a, V> {
    fn begin(volume: &'a V, group: &'a Group) -> Result<Self, StoreError> {
        let writer = Self {
            volume,
            group,
            table: Vec::new(),
            piece: Vec::new(),
            at: group.parity_at(0),
        };
        let file = group.new_file();
        let begun = volume
            .create(file)
            .and_then(|()| volume.truncate(file, 0))
            .and_then(|()| volume.write_at(file, 0, &group.encode()));
        begun.map_err(|e| writer.failed("begin", &e))?;
        Ok(writer)
    }

    fn failed(&self, doing: &str, error: &io::Error) -> StoreError {
        StoreError::io(format_args!("{doing} parity {}", self.group.file()), error)
    }

    /// Columns come in order.
    fn column(&mut self, column: u32, row: &Row, parity: &[Vec<u8>]) -> Result<(), StoreError> {
        self.table.extend_from_slice(&row.encode(column));
        for block in parity {
            self.piece.extend_from_slice(block);
        }
        match self.piece.len() >= PIECE {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let written = self
            .volume
            .write_at(self.group.new_file(), self.at, &self.piece);
        written.map_err(|e| self.failed("write", &e))?;
        self.at += self.piece.len() as u64;
        self.piece.clear();
        Ok(())
    }

    /// The one order: content, `fdatasync`, name, `fsync` of the directory. `wanted` is asked
    /// last before the name: false takes everything back.
    fn finish(
        mut self,
        wanted: impl FnOnce() -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        self.flush()?;
        let (volume, file) = (self.volume, self.group.new_file());
        let written = volume
            .write_at(file, TABLE, &self.table)
            .and_then(|()| volume.write_at(file, self.group.second_row_at(0), &self.table))
            .and_then(|()| volume.sync(file));
        written.map_err(|e| self.failed("write", &e))?;
        if !wanted()? {
            volume.remove(file).map_err(|e| self.failed("drop", &e))?;
            return Ok(false);
        }
        let named = volume
            .rename(file, self.group.file())
            .and_then(|()| volume.sync_directory(self.group.tenant));
        named.map_err(|e| self.failed("name", &e))?;
        Ok(true)
    }
}

/// Writes the parity of a group that has none. Its packs must just have been found intact: what
/// is damaged now would be healed to that. `wanted` is asked when all but the name is written;
/// false when it said so.
pub fn form<V: Volume>(
    volume: &V,
    group: &Group,
    wanted: impl FnOnce() -> Result<bool, StoreError>,
) -> Result<bool, StoreError> {
    let _alone = writing();
    let mut code = Code::of(group)?;
    let mut writer = Writer::begin(volume, group)?;
    for column in 0..group.columns {
        let mut row = Row {
            data: Vec::with_capacity(group.slots.len()),
            parity: Vec::new(),
        };
        let mut blocks = Vec::with_capacity(group.slots.len());
        for slot in 0..group.slots.len() {
            let block = read_block(volume, group, slot, column)
                .map_err(|e| writer.failed("read packs for", &e))?;
            row.data.push(match group.slots[slot] {
                Some(_) => checksum(&block),
                None => Default::default(),
            });
            blocks.push(block);
        }
        let parity = code.encode(&blocks)?;
        row.parity = parity.iter().map(|block| checksum(block)).collect();
        writer.column(column, &row, &parity)?;
    }
    writer.finish(wanted)
}

/// Brings parity to a form without a pack. To be called when the pack's entries are durable
/// elsewhere and the catalogue calls it retired, before its file is taken away.
///
/// Cost: reading the pack and its group's parity, writing that parity anew. An error leaves the
/// old parity, and the pack must stay: without it the group's others could not be healed.
pub fn before_retire<V: Volume>(
    volume: &V,
    vault: relevo_wire::VaultId,
    pack: PackId,
) -> Result<(), StoreError> {
    let _alone = writing();
    keep_names(volume, pack.tenant)?;
    for group in groups(volume, vault, Some(pack.tenant))?.usable {
        if let Some(slot) = group.slot(pack) {
            leave(volume, &group, slot)?;
        }
    }
    Ok(())
}

fn leave<V: Volume>(volume: &V, group: &Group, slot: usize) -> Result<(), StoreError> {
    if group.occupied() == 1 {
        return super::drop_group(volume, group);
    }
    let mut slots = group.slots.clone();
    slots[slot] = None;
    let after = Group::new(group.vault, group.tenant, group.number, slots, group.parity);
    let mut code = Code::of(group)?;
    let mut writer = Writer::begin(volume, &after)?;
    for column in 0..after.columns {
        let old = read_row(volume, group, column);
        let (mut row, parity) = match old.clone().and_then(|row| {
            without(volume, group, slot, column, &row, &mut code).map(|parity| (row, parity))
        }) {
            Some(found) => found,
            // Something is damaged: what stays gives the parity as well.
            None => anew(volume, &after, column, old.as_ref(), &mut code)?,
        };
        row.data[slot] = Default::default();
        row.parity = parity.iter().map(|block| checksum(block)).collect();
        writer.column(column, &row, &parity)?;
    }
    writer.finish(|| Ok(true)).map(drop)
}

/// The column's parity less that of the pack; nothing unless both are as they were written.
fn without<V: Volume>(
    volume: &V,
    group: &Group,
    slot: usize,
    column: u32,
    row: &Row,
    code: &mut Code,
) -> Option<Vec<Vec<u8>>> {
    let block = read_block(volume, group, slot, column).ok()?;
    if checksum(&block) != row.data[slot] {
        return None;
    }
    let mut parity = code.encode_alone(slot, &block).ok()?;
    for (at, block) in parity.iter_mut().enumerate() {
        let old = read_parity(volume, group, at, column).ok()?;
        if checksum(&old) != row.parity[at] {
            return None;
        }
        add(block, &old);
    }
    Some(parity)
}

/// The column's row and parity from the packs that stay, all of which must be intact.
fn anew<V: Volume>(
    volume: &V,
    after: &Group,
    column: u32,
    old: Option<&Row>,
    code: &mut Code,
) -> Result<(Row, Vec<Vec<u8>>), StoreError> {
    let refused = |reason: &str| {
        let file = after.file();
        StoreError::Storage(format!(
            "parity {file}: {reason} in column {column}; heal the vault first"
        ))
    };
    let old = old.ok_or_else(|| refused("checksums are damaged"))?;
    let mut blocks = vec![vec![0; BLOCK]; after.slots.len()];
    for (slot, ..) in after.members() {
        let block = read_block(volume, after, slot, column)
            .map_err(|_| refused("a pack cannot be read"))?;
        if checksum(&block) != old.data[slot] {
            return Err(refused("a pack is damaged"));
        }
        blocks[slot] = block;
    }
    Ok((old.clone(), code.encode(&blocks)?))
}
