//! A vault's directory: `vault.toml`, `authority/`, `packs/`, `catalogue.sqlite`, `index/`, `lock`.
//!
//! Only the authority's key rests on disk. The vault's own key and certificate are made at each
//! start and monthly while it runs: one secret less to lose, and no certificate that expires.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use relevo_wire::VaultId;
use relevo_wire::identity::Authority;

use crate::error::VaultError;
use crate::volume::DiskVolume;

/// Version of a vault's directory that this release makes, and the highest that it opens.
///
/// 1: packs hold chunks, recovery points and enrolments, and are never removed.
/// 2: also deletions, retired packs, holds, locks, clocks, people and revocations; a pack whose
/// number is missing may have been retired. A reader of format 1 would bring deleted points back.
pub const FORMAT: u32 = 2;
/// Features that a directory may name and this release understands.
const FEATURES: &[&str] = &[];

/// `vault.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VaultFile {
    /// [`FORMAT`].
    pub format: u32,
    /// The vault.
    pub vault: VaultId,
    /// Its name, for people.
    pub name: String,
    /// Parts of the format that not every release knows. One that is unknown keeps it closed.
    #[serde(default)]
    pub features: Vec<String>,
}

/// An existing vault's directory.
pub struct Directory {
    path: PathBuf,
    file: VaultFile,
}

/// While it lives, nobody else opens the packs to write.
pub struct Lock {
    _file: File,
}

impl Directory {
    /// Makes a new vault. The directory may exist when it is empty.
    pub fn create(path: &Path, name: &str) -> Result<Self, VaultError> {
        let refused = |reason: &str, remedy| VaultError::Directory {
            path: path.into(),
            reason: reason.into(),
            remedy,
        };
        match fs::read_dir(path) {
            Ok(mut entries) => {
                if path.join("vault.toml").exists() {
                    return Err(refused(
                        "there is a vault already",
                        "'relevo-vault serve' starts it; choose another directory for a new one",
                    ));
                }
                if entries.next().is_some() {
                    return Err(refused(
                        "the directory is not empty",
                        "choose a new directory",
                    ));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
                made.map_err(|e| VaultError::io(path, e))?;
            }
            Err(e) => return Err(VaultError::io(path, e)),
        }
        let vault = VaultId::random();
        for part in ["authority", "packs"] {
            let part = path.join(part);
            let made = DirBuilder::new().mode(0o700).create(&part);
            made.map_err(|e| VaultError::io(part, e))?;
        }
        let authority = Authority::generate(vault)?;
        write_new(
            &path.join("authority/certificate.der"),
            authority.certificate(),
        )?;
        write_new(&path.join("authority/key.der"), authority.key_der())?;
        sync_directory(&path.join("authority"))?;
        let file = VaultFile {
            format: FORMAT,
            vault,
            name: name.into(),
            features: Vec::new(),
        };
        let text = toml::to_string(&file)
            .map_err(|e| VaultError::io(path, io::Error::other(e.to_string())))?;
        // Last, so that half a vault does not pass for one.
        write_new(&path.join("vault.toml"), text.as_bytes())?;
        sync_directory(path)?;
        Ok(Self {
            path: path.into(),
            file,
        })
    }

    /// Opens a vault's directory, unless a newer release made it.
    pub fn open(path: &Path) -> Result<Self, VaultError> {
        let toml_path = path.join("vault.toml");
        let text = fs::read_to_string(&toml_path).map_err(|e| VaultError::io(&toml_path, e))?;
        let refused = |reason: String, remedy| VaultError::Directory {
            path: toml_path.clone(),
            reason,
            remedy,
        };
        let update = "update relevo-vault to the release that wrote it, or later";
        // The version first: a newer file may have other fields.
        let table: toml::Table = toml::from_str(&text)
            .map_err(|e| refused(e.message().into(), "bring vault.toml back from a copy"))?;
        match table.get("format").and_then(toml::Value::as_integer) {
            Some(found) if found > i64::from(FORMAT) => {
                let reason = format!(
                    "the vault has format {found}, newer than {FORMAT}, which this release knows"
                );
                return Err(refused(reason, update));
            }
            Some(1..) => {}
            _ => {
                return Err(refused(
                    "it names no format".into(),
                    "bring vault.toml back from a copy",
                ));
            }
        }
        let file: VaultFile = table.try_into().map_err(|e: toml::de::Error| {
            refused(e.message().into(), "bring vault.toml back from a copy")
        })?;
        let known = |feature: &&String| !FEATURES.contains(&feature.as_str());
        if let Some(feature) = file.features.iter().find(known) {
            let reason = format!("the vault uses '{feature}', which this release does not know");
            return Err(refused(reason, update));
        }
        Ok(Self {
            path: path.into(),
            file,
        })
    }

    /// What `vault.toml` says.
    pub fn file(&self) -> &VaultFile {
        &self.file
    }

    /// Where the vault is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The catalogue's file.
    pub fn catalogue(&self) -> PathBuf {
        self.path.join("catalogue.sqlite")
    }

    /// The packs.
    pub fn volume(&self) -> DiskVolume {
        DiskVolume::new(self.path.join("packs"))
    }

    /// The certificate authority.
    pub fn authority(&self) -> Result<Authority, VaultError> {
        let read = |name: &str| {
            let path = self.path.join("authority").join(name);
            fs::read(&path).map_err(|e| VaultError::io(path, e))
        };
        Ok(Authority::from_der(
            read("certificate.der")?,
            read("key.der")?,
        ))
    }

    /// Makes the directory one of [`FORMAT`] when an earlier release made it; true when it was
    /// not. Before anything is written that the earlier release would not understand; the lock
    /// must be held.
    ///
    /// New file → `fsync` → rename → `fsync` of the directory: a crash leaves the old or the new.
    pub fn upgrade(&self) -> Result<bool, VaultError> {
        let toml_path = self.path.join("vault.toml");
        // Read anew: who had the lock before may have done it.
        let current = Self::open(&self.path)?.file;
        if current.format == FORMAT {
            return Ok(false);
        }
        let upgraded = VaultFile {
            format: FORMAT,
            ..current
        };
        let text = toml::to_string(&upgraded)
            .map_err(|e| VaultError::io(&toml_path, io::Error::other(e.to_string())))?;
        let new = self.path.join("vault.toml.new");
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(VaultError::io(new, e)),
            _ => {}
        }
        write_new(&new, text.as_bytes())?;
        fs::rename(&new, &toml_path).map_err(|e| VaultError::io(&toml_path, e))?;
        sync_directory(&self.path)?;
        tracing::info!(
            "the vault's format is {FORMAT} now, it was {}; earlier releases open it no more",
            current.format
        );
        Ok(true)
    }

    /// Takes the lock, or nothing when another process has it.
    pub fn try_lock(&self) -> Result<Option<Lock>, VaultError> {
        let path = self.path.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| VaultError::io(&path, e))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(VaultError::io(path, e.into())),
        }
    }

    /// Keeps the catalogue's file where it is while this lives: taken together by all commands
    /// that open it beside a vault that may serve, alone by the one that replaces it.
    pub fn hold_catalogue(&self, alone: bool) -> Result<Lock, VaultError> {
        let file = File::open(&self.path).map_err(|e| VaultError::io(&self.path, e))?;
        let operation = match alone {
            true => FlockOperation::NonBlockingLockExclusive,
            false => FlockOperation::NonBlockingLockShared,
        };
        for attempt in 0.. {
            match flock(&file, operation) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if attempt < 20 => {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(VaultError::Directory {
                        path: self.path.clone(),
                        reason: "another relevo-vault command uses the catalogue".into(),
                        remedy: "wait until it is done ('verify' takes a while), then try again",
                    });
                }
                Err(e) => return Err(VaultError::io(&self.path, e.into())),
            }
        }
        Ok(Lock { _file: file })
    }

    /// Takes the lock, or says who has it. Waits two seconds, since commands such as `token`
    /// hold it for a moment when no vault serves.
    pub fn lock(&self) -> Result<Lock, VaultError> {
        for _ in 0..20 {
            if let Some(lock) = self.try_lock()? {
                return Ok(lock);
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        self.try_lock()?.ok_or_else(|| VaultError::Directory {
            path: self.path.clone(),
            reason: "another relevo-vault uses this directory".into(),
            remedy: "stop it first ('relevo-vault serve' holds the lock while it runs)",
        })
    }
}

fn write_new(path: &Path, content: &[u8]) -> Result<(), VaultError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| VaultError::io(path, e))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(|e| VaultError::io(path, e))
}

/// Makes the names in a directory durable.
pub fn sync_directory(path: &Path) -> Result<(), VaultError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|e| VaultError::io(path, e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rewrite(path: &Path, from: &str, to: &str) {
        let file = path.join("vault.toml");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(file, text.replace(from, to)).unwrap();
    }

    #[test]
    fn a_newer_format_and_an_unknown_feature_are_refused_with_the_remedy() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("v");
        let made = Directory::create(&path, "a").unwrap();
        assert_eq!(
            Directory::open(&path).unwrap().file().vault,
            made.file().vault
        );
        rewrite(&path, "features = []", "features = [\"parity\"]\nnew = 1");
        let error = Directory::open(&path).err().unwrap();
        assert!(error.to_string().contains("'parity'"), "{error}");
        rewrite(&path, "format = 2", "format = 3");
        let error = Directory::open(&path).err().unwrap();
        assert!(error.to_string().contains("format 3"), "{error}");
        assert!(error.remedy().contains("update relevo-vault"));
    }

    /// Guards a vault of the first release, and a crash while it is rewritten.
    #[test]
    fn an_earlier_format_is_opened_and_rewritten_once() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("v");
        let made = Directory::create(&path, "a").unwrap();
        rewrite(&path, "format = 2", "format = 1");
        fs::write(path.join("vault.toml.new"), "format = ").unwrap();
        let directory = Directory::open(&path).unwrap();
        assert_eq!(directory.file().format, 1);
        let _lock = directory.lock().unwrap();
        assert!(directory.upgrade().unwrap());
        assert!(!directory.upgrade().unwrap());
        let after = Directory::open(&path).unwrap();
        assert_eq!(after.file().format, FORMAT);
        assert_eq!(after.file().vault, made.file().vault);
        assert!(!path.join("vault.toml.new").exists());
    }

    #[test]
    fn a_directory_in_use_is_not_made_a_vault_and_not_opened_twice() {
        let path = tempfile::tempdir().unwrap();
        fs::write(path.path().join("x"), "").unwrap();
        assert!(Directory::create(path.path(), "a").is_err());
        fs::remove_file(path.path().join("x")).unwrap();
        let directory = Directory::create(path.path(), "a").unwrap();
        assert!(Directory::create(path.path(), "a").is_err());
        let lock = directory.lock().unwrap();
        assert!(directory.try_lock().unwrap().is_none());
        drop(lock);
        assert!(directory.try_lock().unwrap().is_some());
    }

    /// Guards the catalogue's log against being left beside another catalogue.
    #[test]
    fn a_catalogue_in_use_is_not_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Directory::create(&parent.path().join("v"), "a").unwrap();
        let reading = crate::rebuild::open_beside(&directory).unwrap();
        crate::images::list(&directory).unwrap();
        let error = crate::rebuild::rebuild(&directory).err().unwrap();
        assert!(error.to_string().contains("uses the catalogue"), "{error}");
        drop(reading);
        crate::rebuild::rebuild(&directory).unwrap();
    }
}
