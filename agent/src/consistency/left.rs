//! What a run is about to freeze, in a file of the state directory, for when run and guard are both
//! gone and left it frozen.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::freeze::thaw;
use super::mounts::{self, FileSystem};
use crate::tracking::device::boot_id;

#[derive(Serialize, Deserialize)]
struct Left {
    /// The run of the kernel: the next one knows nothing of the freeze.
    boot: Option<String>,
    /// In the order of freezing.
    file_systems: Vec<FileSystem>,
}

/// A file system that was left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Thawing {
    /// Where it is mounted.
    pub mounted: String,
    /// Whether it was frozen, and is not any more.
    pub thawed: bool,
    /// Why that is not known.
    pub failure: Option<String>,
}

/// Writes down what will be frozen, durably.
pub fn note(path: &Path, file_systems: &[FileSystem]) -> io::Result<()> {
    let left = Left {
        boot: boot_id(),
        file_systems: file_systems.to_vec(),
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&serde_json::to_vec(&left)?)?;
    file.sync_all()?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

/// Nothing is frozen any more.
pub fn forget(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Thaws what a run left, and forgets it when all of it is thawed. Nothing is written before that:
/// it might be to what is frozen.
pub fn thaw_left(path: &Path) -> io::Result<Vec<Thawing>> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    // A torn file was not whole before anything was frozen.
    let left = serde_json::from_slice::<Left>(&text).ok();
    let left = left.filter(|left| left.boot == boot_id());
    let file_systems = left.map(|left| left.file_systems).unwrap_or_default();
    // Those that hold files of others first.
    let thawings: Vec<_> = file_systems.iter().rev().map(thawing).collect();
    if thawings.iter().all(|one| one.failure.is_none()) {
        forget(path)?;
    }
    Ok(thawings)
}

fn thawing(one: &FileSystem) -> Thawing {
    let (thawed, failure) =
        match reopened(one).and_then(|file| file.map_or(Ok(false), |f| thaw(&f))) {
            Ok(thawed) => (thawed, None),
            Err(error) => (false, Some(error.to_string())),
        };
    Thawing {
        mounted: one.point(),
        thawed,
        failure,
    }
}

/// The processes that saw it may be gone, others see it. None when it is not mounted any more.
fn reopened(one: &FileSystem) -> io::Result<Option<File>> {
    if let Ok(file) = one.open() {
        return Ok(Some(file));
    }
    let same = |now: &&FileSystem| now.device == one.device && now.kind == one.kind;
    let all = mounts::all();
    all.iter().find(same).map(FileSystem::open).transpose()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards whatever has the same number after a restart.
    #[test]
    fn what_an_earlier_kernel_held_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frozen.json");
        assert!(thaw_left(&path).unwrap().is_empty());
        let gone = FileSystem {
            device: "999:999".into(),
            kind: "ext4".into(),
            writable: true,
            on: Vec::new(),
            places: Vec::new(),
        };
        note(&path, std::slice::from_ref(&gone)).unwrap();
        let told = thaw_left(&path).unwrap();
        assert_eq!((told.len(), told[0].thawed), (1, false));
        assert!(!path.exists());
        note(&path, &[gone]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(&boot_id().unwrap(), "another")).unwrap();
        assert!(thaw_left(&path).unwrap().is_empty());
        assert!(!path.exists());
    }
}
