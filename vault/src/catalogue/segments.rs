//! The segments of the chunk index that a catalogue names: opened once in a process, made from
//! recent rows, merged in the background, removed when nothing names them.
//!
//! Order of writing, so that the catalogue never names a file that is not whole:
//! * **settle**: segment durable → one transaction names it and deletes the rows. Lost with a
//!   crash, the rows are back and the file is one that nothing names.
//! * **merge**: segment durable → one transaction names it instead of those that it is made of,
//!   made durable → these are removed. So no state to which a crash leads back names what is
//!   gone.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::params;

use relevo_wire::TenantId;

use super::Catalogue;
use super::merging::Merger;
use crate::error::StoreError;
use crate::index::segment::segment_path;
use crate::index::{Change, IndexError, Segment, SegmentWriter, State};

/// Recent rows of a tenant that are settled. Few in unit tests, so that they meet it.
const SETTLE_AT: u64 = match cfg!(test) {
    true => 40,
    false => 256 * 1024,
};
/// As few in a simulated world.
fn settle_at() -> u64 {
    #[cfg(feature = "simulation")]
    if relevo_wire::simulation::now().is_some() {
        return 40;
    }
    SETTLE_AT
}

/// When all tenants together have so many times that, the one with the most is settled, so that
/// many tenants with few rows each do not fill the table.
const SETTLE_ALL: u64 = 8;

/// A catalogue's segments, for all connections to it in this process.
pub struct OpenSegments {
    pub(super) index: PathBuf,
    state: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    segments: HashMap<(TenantId, u64), Arc<Segment>>,
    /// Highest number that was given.
    highest: u64,
}

impl OpenSegments {
    /// Of the catalogue in this file.
    pub(super) fn beside(catalogue: &Path) -> Self {
        Self {
            index: catalogue.with_file_name("index"),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, Open> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A segment, opened when it is not yet.
    pub(super) fn get(&self, tenant: TenantId, number: u64) -> Result<Arc<Segment>, IndexError> {
        // Held while opening: two must not both read a filter of hundreds of megabytes.
        let mut state = self.state();
        if let Some(segment) = state.segments.get(&(tenant, number)) {
            return Ok(segment.clone());
        }
        let segment = Arc::new(Segment::open(&self.index, tenant, number)?);
        let opened = segment.clone();
        state.segments.insert((tenant, number), opened);
        Ok(segment)
    }

    pub(super) fn add(&self, segment: Arc<Segment>) {
        let key = (segment.tenant(), segment.number());
        self.state().segments.insert(key, segment);
    }

    /// Closes those of a tenant that are older than all named, and not named.
    pub(super) fn keep(&self, named: &[(TenantId, u64)]) {
        let newest = named.iter().map(|&(_, number)| number).max();
        let (Some(&(tenant, _)), Some(newest)) = (named.first(), newest) else {
            return;
        };
        self.state().segments.retain(|key, segment| {
            // One just made is in use by who made it.
            let in_use = Arc::strong_count(segment) > 1;
            key.0 != tenant || in_use || key.1 > newest || named.contains(key)
        });
    }

    pub(super) fn remove(&self, segment: &Segment) {
        let key = (segment.tenant(), segment.number());
        self.state().segments.remove(&key);
        if let Err(error) = fs::remove_file(segment.path()) {
            let path = segment.path().display();
            tracing::warn!(%path, %error, "a segment that is no longer needed could not be removed");
        }
    }

    /// A number that no file has.
    pub(super) fn next_number(&self) -> Result<u64, StoreError> {
        let mut state = self.state();
        if state.highest == 0 {
            state.highest = highest(&self.files()?);
        }
        state.highest += 1;
        Ok(state.highest)
    }

    /// All files of the index. Others' there are left alone.
    fn files(&self) -> Result<Vec<SegmentFile>, StoreError> {
        let tenants = match fs::read_dir(&self.index) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            tenants => tenants.map_err(|e| StoreError::io(self.index.display(), &e))?,
        };
        let mut files = Vec::new();
        for tenant in tenants {
            let tenant = tenant.map_err(|e| StoreError::io(self.index.display(), &e))?;
            let id = tenant.file_name().to_str().and_then(|id| id.parse().ok());
            match (id, fs::read_dir(tenant.path())) {
                (Some::<TenantId>(_), Ok(found)) => files_of(found, &mut files),
                _ => stray(&tenant.path()),
            }
        }
        Ok(files)
    }
}

/// A file of the index: a segment, or one that was not finished.
struct SegmentFile {
    number: u64,
    path: PathBuf,
}

fn files_of(found: fs::ReadDir, files: &mut Vec<SegmentFile>) {
    // A name that cannot be read now is in nobody's way.
    for path in found.flatten().map(|file| file.path()) {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.map(|name| name.strip_suffix(".new").unwrap_or(name));
        let number = name.and_then(|name| name.strip_suffix(".segment")?.parse().ok());
        match number {
            Some(number) => files.push(SegmentFile { number, path }),
            None => stray(&path),
        }
    }
}

fn stray(path: &Path) {
    tracing::warn!(path = %path.display(), "is nothing of the index, and left alone");
}

fn highest(files: &[SegmentFile]) -> u64 {
    files.iter().map(|file| file.number).max().unwrap_or(0)
}

/// What only the connection has that writes chunks.
pub(super) struct Writing {
    /// Per tenant at least as many rows as were added since its rows were last counted.
    rows: HashMap<i64, u64>,
    settle_at: u64,
    merger: Merger,
}

impl Catalogue {
    /// From now on this connection settles and merges. Only the process that holds the vault's
    /// lock may ask for it, once. Opens all segments, so that damage is found now.
    pub fn start_writing(&self) -> Result<(), StoreError> {
        self.prepare_ends()?;
        let mut query = self.db.prepare("SELECT number FROM tenants")?;
        let tenants: Vec<i64> = query
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let mut rows = HashMap::new();
        for tenant in tenants {
            self.consistently(|this| this.layers(tenant))?;
            rows.insert(tenant, self.count_recent(tenant)?);
        }
        let merger = Merger::start(&self.path, &self.segments)?;
        merger.wake();
        self.writing.replace(Some(Writing {
            rows,
            settle_at: settle_at(),
            merger,
        }));
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn set_settle_at(&self, rows: u64) {
        if let Some(writing) = self.writing.borrow_mut().as_mut() {
            writing.settle_at = rows;
        }
    }

    /// Removes files of the index that this catalogue does not name: what a crash or an earlier
    /// catalogue left.
    pub fn remove_unnamed_segments(&self) -> Result<(), StoreError> {
        let mut query = self.db.prepare(
            "SELECT t.id, s.number FROM segments s JOIN tenants t ON t.number = s.tenant",
        )?;
        let named: HashSet<PathBuf> = query
            .query_map([], |row| {
                let tenant = TenantId::from_bytes(row.get(0)?);
                let number = row.get::<_, i64>(1)? as u64;
                Ok(segment_path(&self.segments.index, tenant, number))
            })?
            .collect::<Result<_, _>>()?;
        let files = self.segments.files()?;
        // Their numbers are not given again: who reads beside may have them open.
        let mut state = self.segments.state();
        state.highest = state.highest.max(highest(&files));
        drop(state);
        for SegmentFile { path, .. } in files {
            if named.contains(&path) {
                continue;
            }
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "an unused segment stays");
            }
        }
        Ok(())
    }

    /// How many changes each of a tenant's segments holds, newest first.
    pub fn segment_records(&self, tenant: TenantId) -> Result<Vec<u64>, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(Vec::new());
        };
        let layers = self.consistently(|this| this.layers(tenant))?;
        Ok(layers.0.iter().map(|segment| segment.records()).collect())
    }

    /// Notes that a tenant may have so many recent rows more.
    pub(super) fn note_rows(&self, tenant: i64, more: u64) {
        if let Some(writing) = self.writing.borrow_mut().as_mut() {
            *writing.rows.entry(tenant).or_default() += more;
        }
    }

    /// Called after each transaction that wrote. The rows stay where they are when it fails.
    pub(super) fn settle_if_due(&self) {
        let Some(tenant) = self.due() else { return };
        let settled = self.count_recent(tenant).and_then(|rows| {
            // Rows that were changed twice were counted twice.
            self.set_rows(tenant, rows);
            match self.due() {
                Some(tenant) => self.settle(tenant),
                None => Ok(()),
            }
        });
        if let Err(error) = settled {
            tracing::warn!(%error, "chunks could not be moved from the catalogue into its index");
            // Not again at once: a full disk is none the emptier for it.
            self.set_rows(tenant, 0);
        }
    }

    /// The tenant whose rows are to be settled.
    fn due(&self) -> Option<i64> {
        let writing = self.writing.borrow();
        let rows = &writing.as_ref()?.rows;
        let (&tenant, &most) = rows.iter().max_by_key(|(_, rows)| **rows)?;
        let all: u64 = rows.values().sum();
        let enough = writing.as_ref()?.settle_at;
        (most >= enough || all / SETTLE_ALL >= enough).then_some(tenant)
    }

    fn set_rows(&self, tenant: i64, rows: u64) {
        if let Some(writing) = self.writing.borrow_mut().as_mut() {
            writing.rows.insert(tenant, rows);
        }
    }

    fn count_recent(&self, tenant: i64) -> Result<u64, StoreError> {
        let rows: i64 = self
            .db
            .prepare_cached("SELECT count(*) FROM recent WHERE tenant = ?1")?
            .query_row([tenant], |row| row.get(0))?;
        Ok(rows as u64)
    }

    /// Moves a tenant's recent rows into a new segment.
    fn settle(&self, number: i64) -> Result<(), StoreError> {
        self.in_one_transaction(|this| {
            let tenant: [u8; 16] = this.db.query_row(
                "SELECT id FROM tenants WHERE number = ?1",
                [number],
                |row| row.get(0),
            )?;
            let tenant = TenantId::from_bytes(tenant);
            let oldest = !this.has_segments(number)?;
            let file = this.segments.next_number()?;
            let mut writer = SegmentWriter::create(&this.segments.index, tenant, file)?;
            for Change { id, place, refs } in this.recent(number)? {
                if let Some(State { place, refs }) = (State { place, refs }).to_write(oldest) {
                    writer.push(&Change { id, place, refs })?;
                }
            }
            if writer.records() > 0 {
                let segment = Arc::new(writer.finish()?);
                this.name_segment(number, &segment, file as i64)?;
                this.segments.add(segment);
            }
            this.db
                .execute("DELETE FROM recent WHERE tenant = ?1", [number])?;
            Ok::<_, StoreError>(())
        })?;
        self.set_rows(number, 0);
        if let Some(writing) = self.writing.borrow().as_ref() {
            writing.merger.wake();
        }
        Ok(())
    }

    pub(super) fn name_segment(
        &self,
        tenant: i64,
        segment: &Segment,
        layer: i64,
    ) -> Result<(), StoreError> {
        self.db
            .prepare_cached("INSERT INTO segments VALUES (?1, ?2, ?3)")?
            .execute(params![tenant, segment.number() as i64, layer])?;
        Ok(())
    }
}

/// Of a connection that may write.
pub(super) type WritingCell = RefCell<Option<Writing>>;
