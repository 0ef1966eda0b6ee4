//! Which drills are held on this host, and which died and left something behind.
//!
//! ```text
//! STATE/drills/lock            held while a drill is entered or leftovers are removed
//! STATE/drills/ID/lock         held by the drill's process for as long as it lives
//! STATE/drills/ID/drill.toml   what it was about to make
//! STATE/drills/ID/N/           the run directory of its N-th server
//! ```
//!
//! Invariants: what a drill makes is written down before it is made, and bears the drill's random
//! id in its name. A drill whose lock can be taken is dead, however it died: the kernel gives
//! locks (`flock`) back when a process ends. So leftovers are found without asking whether a
//! process number has been used again.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use relevo_wire::{PointId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::leftovers::{self, Removed};

/// The drills of one recovery site.
#[derive(Debug, Clone)]
pub struct Ledger {
    dir: PathBuf,
}

/// What a drill is about to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The drill's id: eight hexadecimal digits.
    pub id: String,
    /// The plan's name.
    pub name: String,
    /// When it began.
    pub started: Timestamp,
    /// The network namespaces it makes, by name.
    pub namespaces: Vec<String>,
}

/// A drill that is being held. Whoever has this has its lock.
#[derive(Debug)]
pub struct HeldDrill {
    /// What stands in the ledger.
    pub entry: Entry,
    ledger: Ledger,
    dir: PathBuf,
    _lock: File,
}

/// A dead drill that was cleaned up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cleaned {
    /// The drill's id.
    pub id: String,
    /// The plan's name, where it could still be read.
    pub name: Option<String>,
    /// What was removed, in words.
    pub removed: Vec<String>,
    /// What could not be removed, in words.
    pub left_behind: Vec<String>,
}

impl Ledger {
    /// The ledger of the site whose state directory is `state`; made when it is missing.
    pub fn open(state: &Path) -> Result<Self, Failure> {
        // Processes of a drill are found by their run directory in their arguments, which must
        // therefore be the same text whatever the caller's working directory is.
        let state = state
            .canonicalize()
            .map_err(|e| Failure::io(format_args!("state directory {}", state.display()), &e))?;
        let dir = state.join("drills");
        fs::create_dir_all(&dir).map_err(|e| Failure::io(dir.display(), &e))?;
        Ok(Self { dir })
    }

    fn lock(&self) -> Result<File, Failure> {
        take_lock(&self.dir.join("lock"))
    }

    /// Enters a drill of `servers` servers.
    pub fn enter(&self, name: &str, servers: usize) -> Result<HeldDrill, Failure> {
        let guard = self.lock()?;
        let id = PointId::random().short();
        let dir = self.dir.join(&id);
        let failed = |e| Failure::io(dir.display(), &e);
        fs::create_dir(&dir).map_err(failed)?;
        let entry = Entry {
            namespaces: (0..servers)
                .map(|n| format!("relevo-drill-{id}-{n}"))
                .collect(),
            id,
            name: name.to_owned(),
            started: Timestamp::now(),
        };
        let lock = take_lock(&dir.join("lock"))?;
        let text = toml::to_string(&entry).map_err(|e| {
            Failure::error(
                format!("the ledger cannot be written: {e}"),
                "report this as a bug",
            )
        })?;
        fs::write(dir.join("drill.toml"), text).map_err(failed)?;
        drop(guard);
        Ok(HeldDrill {
            entry,
            ledger: self.clone(),
            dir,
            _lock: lock,
        })
    }

    /// Removes what dead drills have left. Living ones are not touched.
    pub fn clean(&self) -> Result<Vec<Cleaned>, Failure> {
        let _guard = self.lock()?;
        let mut cleaned = Vec::new();
        let entries = fs::read_dir(&self.dir).map_err(|e| Failure::io(self.dir.display(), &e))?;
        for entry in entries.flatten() {
            let dir = entry.path();
            let id = entry.file_name().to_string_lossy().into_owned();
            if !dir.is_dir() || !is_id(&id) {
                continue;
            }
            // A directory without a lock is of a drill that died while it was being entered.
            let lock = open_lock(&dir.join("lock")).map_err(|e| Failure::io(dir.display(), &e))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(e)) => return Err(Failure::io(dir.display(), &e)),
            }
            let name = fs::read_to_string(dir.join("drill.toml"))
                .ok()
                .and_then(|text| toml::from_str::<Entry>(&text).ok())
                .map(|entry| entry.name);
            let Removed { removed, left } = leftovers::remove(&dir, &format!("relevo-drill-{id}"));
            cleaned.push(Cleaned {
                id,
                name,
                removed,
                left_behind: left,
            });
        }
        cleaned.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(cleaned)
    }
}

impl HeldDrill {
    /// Makes the run directory of the drill's `n`-th server, only for this user.
    pub fn run_dir(&self, n: usize) -> Result<PathBuf, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let dir = self.dir.join(n.to_string());
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(|e| Failure::io(dir.display(), &e))?;
        Ok(dir)
    }

    /// Removes whatever is still there of the drill, its directory included.
    pub fn remove(self) -> Removed {
        let mut removed = leftovers::stop(&self.dir, &format!("relevo-drill-{}", self.entry.id));
        // Whoever cleans meanwhile must not meet half a directory, whose lock is gone already.
        let guard = self.ledger.lock();
        if let Err(error) = &guard {
            tracing::warn!(%error, "the drill's directory is removed without the ledger's lock");
        }
        leftovers::remove_dir(&self.dir, &mut removed);
        removed
    }
}

fn take_lock(path: &Path) -> Result<File, Failure> {
    let failed = |e| Failure::io(path.display(), &e);
    let file = open_lock(path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

fn open_lock(path: &Path) -> std::io::Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
}

fn is_id(name: &str) -> bool {
    name.len() == 8 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_living_drill_is_left_alone_and_a_dead_one_is_removed() {
        let state = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(state.path()).unwrap();
        let living = ledger.enter("living", 1).unwrap();
        let dead = ledger.enter("dead", 2).unwrap();
        let run = dead.run_dir(1).unwrap();
        fs::write(run.join("overlay"), b"data").unwrap();
        let id = dead.entry.id.clone();
        // The lock goes, the files stay: as when the process is killed.
        drop(dead);
        let cleaned = ledger.clean().unwrap();
        assert_eq!(cleaned.len(), 1);
        assert_eq!(
            (cleaned[0].id.clone(), cleaned[0].name.as_deref()),
            (id, Some("dead"))
        );
        assert!(cleaned[0].left_behind.is_empty(), "{cleaned:?}");
        assert!(!run.exists());
        assert!(living.run_dir(0).unwrap().exists());
        assert!(ledger.clean().unwrap().is_empty());
        assert!(living.remove().left.is_empty());
        assert_eq!(
            fs::read_dir(state.path().join("drills")).unwrap().count(),
            1
        );
    }

    /// Guards: a drill that ends while another begins, and cleans first, is in nobody's way.
    #[test]
    fn a_drill_may_end_while_others_are_cleaned_up() {
        let state = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(state.path()).unwrap();
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let cleaner = scope.spawn(|| {
                let mut cleaned = Vec::new();
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    cleaned.extend(ledger.clean().unwrap());
                }
                cleaned
            });
            let mut left = Vec::new();
            for _ in 0..200 {
                let held = ledger.enter("short", 1).unwrap();
                let run = held.run_dir(0).unwrap();
                for n in 0..50 {
                    fs::write(run.join(n.to_string()), b"").unwrap();
                }
                left.extend(held.remove().left);
            }
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(left, Vec::<String>::new());
            assert_eq!(cleaner.join().unwrap(), Vec::new(), "none of them was dead");
        });
    }

    /// Guards: a drill that died between two writes is removed as well.
    #[test]
    fn half_an_entry_is_removed() {
        let state = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(state.path()).unwrap();
        let half = state.path().join("drills/0123abcd");
        fs::create_dir(&half).unwrap();
        fs::write(half.join("drill.toml"), "id = ").unwrap();
        let other = state.path().join("drills/reports");
        fs::create_dir(&other).unwrap();
        assert_eq!(ledger.clean().unwrap().len(), 1);
        assert!(!half.exists() && other.exists());
    }
}
