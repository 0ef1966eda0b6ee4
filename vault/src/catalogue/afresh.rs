//! When a catalogue is begun anew, and when it is made durable.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};

use super::{Catalogue, SCHEMA};
use crate::error::StoreError;

impl Catalogue {
    /// True when an earlier release made the catalogue: it is to be made anew from the packs.
    pub fn is_of_earlier_release(path: &Path) -> Result<bool, StoreError> {
        if !path.exists() {
            return Ok(false);
        }
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        Ok((1..SCHEMA).contains(&version))
    }

    /// Makes everything durable that was written so far: transactions otherwise are not, and a
    /// crash may take the last of them back.
    pub fn make_durable(&self) -> Result<(), StoreError> {
        self.db.pragma_update(None, "synchronous", "FULL")?;
        // In WAL mode a commit syncs the log, with all that was committed before it.
        let written = self.db.execute(
            "INSERT INTO meta VALUES ('durable', 1) ON CONFLICT DO UPDATE SET value = value + 1",
            [],
        );
        self.db.pragma_update(None, "synchronous", "NORMAL")?;
        written?;
        Ok(())
    }

    /// Forgets everything that follows from the packs, which are then read anew. Stays: tenants'
    /// numbers, tokens, and losses, which were found elsewhere than in the catalogue; and which
    /// entry of each pack was the last that was known, so that damage there is not taken for what
    /// a crash left.
    pub fn begin_anew(&self) -> Result<(), StoreError> {
        self.db.execute_batch(
            "DELETE FROM packs; DELETE FROM retired; DELETE FROM recent; DELETE FROM segments;
             DELETE FROM complete; DELETE FROM unreferenced; DELETE FROM points;
             DELETE FROM servers; DELETE FROM sites; DELETE FROM people;
             DELETE FROM revocations; DELETE FROM deletions; DELETE FROM holds;
             DELETE FROM locks; DELETE FROM clocks; DELETE FROM meta WHERE name = 'whole'",
        )?;
        self.set_epoch()
    }

    /// Forgets packs that are retired. True when one of them was still needed, which says that
    /// the catalogue is older than what the packs were told since it was last durable.
    pub fn settle_retired(&self) -> Result<bool, StoreError> {
        let mut query = self.db.prepare_cached(
            "SELECT p.tenant, p.number, p.chunks != 0 OR EXISTS (
                 SELECT 1 FROM points o WHERE o.tenant = p.tenant AND o.pack = p.number)
             FROM retired r JOIN packs p ON p.tenant = r.tenant AND p.number = r.number",
        )?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let rows: Vec<(i64, u32, bool)> = rows.collect::<Result<_, _>>()?;
        for &(tenant, number, needed) in &rows {
            if !needed {
                self.db
                    .prepare_cached("DELETE FROM packs WHERE tenant = ?1 AND number = ?2")?
                    .execute(params![tenant, number])?;
            }
        }
        Ok(rows.iter().any(|&(_, _, needed)| needed))
    }
}
