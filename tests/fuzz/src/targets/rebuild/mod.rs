//! A directory of hostile packs, and the catalogue made from them.

mod material;
mod packs;
mod truth;

use std::collections::HashSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use relevo_vault::directory::Directory;
use relevo_vault::images;
use relevo_vault::rebuild::rebuild;
use relevo_vault::verify::verify;

use material::{Material, material};
pub use packs::commands;
use packs::{Packs, packs};
use truth::Truth;

struct Place {
    directory: Directory,
    _keep: tempfile::TempDir,
}

/// Commands, see [`commands`].
pub fn run(bytes: &[u8]) {
    called_whole(bytes);
}

/// The number of recovery points that the vault calls whole.
fn called_whole(bytes: &[u8]) -> usize {
    static PLACE: OnceLock<Mutex<Place>> = OnceLock::new();
    static MATERIAL: OnceLock<Material> = OnceLock::new();
    let material = MATERIAL.get_or_init(material);
    let place = PLACE.get_or_init(|| Mutex::new(place()));
    let place = place.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = &place.directory;
    let packs = packs(material, directory.file().vault, bytes);
    write(directory, &packs);
    let truth = Truth::of(&packs, directory.file().vault);
    let Ok(made) = rebuild(directory) else {
        return 0;
    };
    assert!(made.packs <= packs.len());
    let Ok(listed) = images::list(directory) else {
        return 0;
    };
    for image in &listed {
        let known = truth.points.contains_key(&(image.tenant, image.point));
        assert!(known, "point {} is in no pack of its tenant", image.point);
    }
    let Ok(report) = verify(directory, false, false) else {
        return 0;
    };
    let hit: HashSet<_> = report
        .hit
        .iter()
        .map(|hit| (hit.tenant, hit.point))
        .collect();
    let after = images::list(directory).unwrap_or_default();
    for image in after.iter().filter(|image| image.verified.is_some()) {
        let name = (image.tenant, image.point);
        assert!(!hit.contains(&name));
        assert!(truth.is_whole(name), "{} is called whole", image.point);
    }
    after
        .iter()
        .filter(|image| image.verified.is_some())
        .count()
}

fn place() -> Place {
    // In memory where that is possible: each input makes a catalogue.
    let parent = ["/dev/shm", "/tmp"].into_iter().find_map(|parent| {
        let keep = tempfile::tempdir_in(parent).ok()?;
        let directory = Directory::create(&keep.path().join("vault"), "fuzz").ok()?;
        Some(Place {
            directory,
            _keep: keep,
        })
    });
    parent.unwrap_or_else(|| panic!("no directory for a vault"))
}

fn write(directory: &Directory, packs: &Packs) {
    let done = || -> std::io::Result<()> {
        let root = directory.path().join("packs");
        for old in std::fs::read_dir(&root)? {
            std::fs::remove_dir_all(old?.path())?;
        }
        for entry in std::fs::read_dir(directory.path())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("catalogue") {
                std::fs::remove_file(entry.path())?;
            }
        }
        for (pack, bytes) in packs {
            let path = root.join(pack.to_string());
            std::fs::create_dir_all(path.parent().unwrap_or(&root))?;
            std::fs::write(path, bytes)?;
        }
        Ok(())
    };
    done().unwrap_or_else(|e| panic!("{}: {e}", directory.path().display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a target that passes since nothing is ever whole.
    #[test]
    fn what_is_whole_is_called_whole() {
        use commands::*;
        assert_eq!(called_whole(&[IMAGE, 0, IMAGE, 1, IMAGE, 2]), 3);
        assert_eq!(called_whole(&[IMAGE, 0, PACK, 0, 2, POINT, 1]), 1);
        assert_eq!(called_whole(&[IMAGE, 0, PACK, 1, 1, POINT, 0]), 1);
    }
}
