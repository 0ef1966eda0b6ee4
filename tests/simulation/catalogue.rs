//! The vault's catalogue on the machine's file system: it is not synced, so that it can be older
//! than the packs, or gone, and its index can be damaged.

use std::path::{Path, PathBuf};

use relevo_vault::volume::simulated::Dice;

/// What the catalogue was when the vault was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogueFate {
    /// As it was left.
    Kept,
    /// An older state.
    Aged,
    /// A file of its index is gone or damaged. The vault makes all of it anew.
    Harmed,
    /// Gone.
    Lost,
}

/// Its files.
pub struct CatalogueFiles {
    dir: PathBuf,
    snapshots: u64,
}

impl CatalogueFiles {
    /// In this directory.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            snapshots: 0,
        }
    }

    /// The database.
    pub fn path(&self) -> PathBuf {
        self.dir.join("catalogue.sqlite")
    }

    fn index(&self) -> PathBuf {
        self.dir.join("index")
    }

    fn snapshot_of(&self, number: u64) -> (PathBuf, PathBuf) {
        let file = |end: &str| self.dir.join(format!("snapshot-{number}{end}"));
        (file(""), file(".index"))
    }

    /// Remembers how it is now, for a later start to find it so.
    pub fn snapshot(&mut self) {
        let (to, index) = self.snapshot_of(self.snapshots);
        loop {
            let _ = std::fs::remove_file(&to);
            link_all(&self.index(), &index);
            let db = rusqlite::Connection::open(self.path()).unwrap();
            db.execute("VACUUM INTO ?1", [to.to_str().unwrap()])
                .unwrap();
            link_all(&self.index(), &index);
            // Merging goes on meanwhile: again when it took away what is named.
            let linked = files_below(&index);
            let there = |number: &i64| linked.iter().any(|file| number_of(file) == Some(*number));
            if segments_of(&to).iter().all(there) {
                break;
            }
        }
        self.snapshots += 1;
    }

    /// Does to it what an end of the vault may.
    pub fn age(&self, dice: &mut Dice, fate: Option<CatalogueFate>) -> CatalogueFate {
        match dice.roll(8) {
            _ if fate == Some(CatalogueFate::Lost) => {
                self.lose();
                CatalogueFate::Lost
            }
            0 => {
                self.lose();
                CatalogueFate::Lost
            }
            1 | 2 if self.snapshots > 0 => {
                let (older, index) = self.snapshot_of(dice.roll(self.snapshots));
                self.lose();
                std::fs::copy(older, self.path()).unwrap();
                let _ = std::fs::remove_dir_all(self.index());
                link_all(&index, &self.index());
                CatalogueFate::Aged
            }
            3 if self.harm(dice) => CatalogueFate::Harmed,
            _ => CatalogueFate::Kept,
        }
    }

    /// Removes or damages a file of the index that the catalogue names. False when there is none.
    fn harm(&self, dice: &mut Dice) -> bool {
        let named = segments_of(&self.path());
        let mut files = files_below(&self.index());
        files.retain(|file| number_of(file).is_some_and(|number| named.contains(&number)));
        files.sort();
        let Some(file) = files.get(dice.roll(files.len() as u64) as usize) else {
            return false;
        };
        let mut bytes = std::fs::read(file).unwrap();
        // Not through the link that a snapshot has to it.
        std::fs::remove_file(file).unwrap();
        if dice.once_in(2) {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(file, bytes).unwrap();
        }
        true
    }

    /// Takes it away.
    pub fn lose(&self) {
        for suffix in ["", "-wal", "-shm"] {
            let path = format!("{}{suffix}", self.path().display());
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Numbers of the segments that a catalogue names.
fn segments_of(catalogue: &Path) -> Vec<i64> {
    let db = rusqlite::Connection::open(catalogue).unwrap();
    let Ok(mut query) = db.prepare("SELECT number FROM segments") else {
        return Vec::new();
    };
    let rows = query.query_map([], |row| row.get(0)).unwrap();
    rows.map(|row| row.unwrap()).collect()
}

fn number_of(file: &Path) -> Option<i64> {
    file.file_stem()?.to_str()?.parse().ok()
}

/// Files of an index: one directory for each tenant.
fn files_below(index: &Path) -> Vec<PathBuf> {
    let tenants = std::fs::read_dir(index).into_iter().flatten().flatten();
    let files = tenants.filter_map(|tenant| std::fs::read_dir(tenant.path()).ok());
    files.flatten().flatten().map(|file| file.path()).collect()
}

/// Links the files of an index into another directory; those that go meanwhile are left out.
fn link_all(from: &Path, to: &Path) {
    for file in files_below(from) {
        let to = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        let _ = std::fs::hard_link(&file, to);
    }
}
