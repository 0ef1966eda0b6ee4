//! Rows of `spans` read ahead: spans are asked for in the disk's order, or nearly so.

use std::ops::Range;

use relevo_wire::ChunkId;
use relevo_wire::index::ChunkRef;
use relevo_wire::key::ChunkKey;
use rusqlite::{Connection, Row, params};

use super::{KnownSpan, bytes};

/// Rows that are read at once: a GiB of the disk, 40 KiB of memory.
const ROWS: u64 = 256;

/// The rows of one part of one disk, and their proofs, unchecked.
#[derive(Default)]
pub struct Window {
    disk: String,
    spans: Range<u64>,
    /// In order of the span's number.
    rows: Vec<(u64, KnownSpan, [u8; 8])>,
}

impl Window {
    /// Whether what is known of this span is in it.
    pub fn covers(&self, disk: &str, span: u64) -> bool {
        self.disk == disk && self.spans.contains(&span)
    }

    /// What the row of a span says, if there is one.
    pub fn get(&self, span: u64) -> Option<(KnownSpan, [u8; 8])> {
        let at = self.rows.binary_search_by_key(&span, |row| row.0).ok()?;
        self.rows.get(at).map(|(_, known, proof)| (*known, *proof))
    }

    /// Reads the rows from this span on. When they cannot be read, all are unknown.
    pub fn read(
        &mut self,
        connection: &Connection,
        disk: &str,
        span: u64,
    ) -> Result<(), rusqlite::Error> {
        self.disk = disk.into();
        self.spans = span..span.saturating_add(ROWS);
        self.rows.clear();
        let mut statement = connection.prepare_cached(
            "SELECT span, shape, hash, id, key, proof FROM spans
             WHERE disk = ? AND span >= ? AND span < ? ORDER BY span",
        )?;
        let (from, to) = (self.spans.start as i64, self.spans.end as i64);
        let mut rows = Vec::new();
        for row in statement.query_map(params![disk, from, to], known)? {
            rows.push(row?);
        }
        self.rows = rows;
        Ok(())
    }
}

fn known(row: &Row<'_>) -> Result<(u64, KnownSpan, [u8; 8]), rusqlite::Error> {
    let span = row.get::<_, i64>(0)? as u64;
    let shape = row.get::<_, i64>(1)? as u64;
    let data = match row.get::<_, Option<[u8; 32]>>(2)? {
        Some(hash) => {
            let id = ChunkId::from_bytes(bytes(row, 3)?);
            let key = ChunkKey::from_bytes(bytes(row, 4)?);
            Some((hash, ChunkRef { id, key }))
        }
        None => None,
    };
    Ok((span, KnownSpan { shape, data }, bytes(row, 5)?))
}
