//! Making keys, beginning a new generation, wrapping anew.

use std::path::{Path, PathBuf};

use relevo_wire::key::{KeyFile, OpeningKeys, SealingKeys};

use super::lock::Locks;
use super::unlock::Unlocked;
use crate::failure::Failure;
use crate::site::make_private;

/// The two files of a tenant's keys.
#[derive(Debug, Clone)]
pub struct KeyFiles {
    /// For the recovery site: opens images. To be kept safe, and a copy elsewhere.
    pub opening: PathBuf,
    /// For agents: seals images, opens none.
    pub sealing: PathBuf,
}

/// Makes the keys of a new tenant in `dir`. Existing key files are never replaced.
pub fn generate(dir: &Path, locks: &Locks, keys: &OpeningKeys) -> Result<KeyFiles, Failure> {
    let files = free_files(dir)?;
    locks.close(keys.clone())?.write(&files.opening)?;
    keys.sealing.write(&files.sealing)?;
    Ok(files)
}

/// The key files of `dir`, none of which exists yet.
pub fn free_files(dir: &Path) -> Result<KeyFiles, Failure> {
    make_private(dir).map_err(|e| Failure::io(dir, &e))?;
    let files = KeyFiles {
        opening: dir.join("opening-keys.toml"),
        sealing: dir.join("sealing-keys.toml"),
    };
    for path in [&files.opening, &files.sealing] {
        if path.exists() {
            return Err(Failure::new(
                format!("{} exists already", path.display()),
                "images made with those keys open with them only: choose another --out, or keep these",
            ));
        }
    }
    Ok(files)
}

/// Begins a new generation of the keys in `path`, which were opened, and writes what agents need
/// to `sealing`. The file with the new generation is there, and opens, before the old one goes.
pub fn rotate(
    path: &Path,
    unlocked: Unlocked,
    locks: &Locks,
    new_secret: bool,
    sealing: &Path,
) -> Result<OpeningKeys, Failure> {
    let Unlocked { mut keys, .. } = unlocked;
    if sealing.exists() {
        let tenant = SealingKeys::read(sealing)?.tenant;
        if tenant != keys.sealing.tenant {
            return Err(Failure::new(
                format!(
                    "{} holds keys of another tenant, {tenant}",
                    sealing.display()
                ),
                "name another file with --sealing",
            ));
        }
    }
    keys.rotate(new_secret)?;
    locks.close(keys.clone())?.replace(path)?;
    keys.sealing.replace(sealing)?;
    Ok(keys)
}

/// Wraps the keys in `path`, which were opened, in other ways; the keys stay the same.
pub fn rewrap(path: &Path, unlocked: Unlocked, locks: &Locks) -> Result<KeyFile, Failure> {
    let file = locks.close(unlocked.keys)?;
    file.replace(path)?;
    Ok(file)
}
