//! An index of which segments are damaged or gone: noted while the vault runs, made anew when it
//! is opened next.

use super::Catalogue;
use crate::error::StoreError;

const NOTE: &str = "index_damaged";

impl Catalogue {
    /// Notes that the index cannot be relied on.
    pub fn note_index_damage(&self) -> Result<(), StoreError> {
        let note = "INSERT OR REPLACE INTO meta VALUES (?1, 1)";
        self.db.execute(note, [NOTE])?;
        Ok(())
    }

    /// True when that was noted.
    pub fn is_index_damaged(&self) -> Result<bool, StoreError> {
        let mut noted = self.db.prepare("SELECT 1 FROM meta WHERE name = ?1")?;
        Ok(noted.exists([NOTE])?)
    }

    /// Forgets all that follows from the packs, and removes the index's files: the packs are to
    /// be read anew.
    pub fn abandon_index(&self) -> Result<(), StoreError> {
        self.transaction(|this| {
            this.begin_anew()?;
            this.db
                .execute("DELETE FROM meta WHERE name = ?1", [NOTE])?;
            Ok::<_, StoreError>(())
        })?;
        self.remove_unnamed_segments()
    }
}
