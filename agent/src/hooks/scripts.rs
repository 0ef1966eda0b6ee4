//! Which hooks are run, and why others are not.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A file in a directory of hooks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Script {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Whether it is run.
    pub standing: Standing,
}

/// Whether a hook is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is.
    Runs,
    /// It is not, and was not meant to be.
    Skipped(String),
    /// It is not, since others than root could have written it: that counts as its failure.
    Refused(String),
}

/// The hooks of a directory in the order of their names; none when there is no directory.
pub fn in_order(dir: &Path) -> Vec<Script> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let refused_all = writable_by_others(dir);
    let mut scripts: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let standing = match (left_behind(&name), &refused_all) {
                (true, _) => return None,
                (_, Some(why)) => Standing::Refused(why.clone()),
                (_, None) => standing(&entry.path()),
            };
            Some(Script {
                name,
                path: entry.path(),
                standing,
            })
        })
        .collect();
    scripts.sort_by(|a, b| a.name.cmp(&b.name));
    scripts
}

fn standing(path: &Path) -> Standing {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return Standing::Refused(error.to_string()),
    };
    if !metadata.is_file() {
        return Standing::Skipped("it is no file".into());
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Standing::Skipped("it is not executable".into());
    }
    match writable_by_others(path) {
        Some(why) => Standing::Refused(why),
        None => Standing::Runs,
    }
}

/// Who else than root could have written what root is about to run: the file, or what leads to it.
fn writable_by_others(path: &Path) -> Option<String> {
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) => return Some(error.to_string()),
    };
    path.ancestors().find_map(|one| {
        let shown = one.display();
        let metadata = match std::fs::metadata(one) {
            Ok(metadata) => metadata,
            Err(error) => return Some(format!("{shown}: {error}")),
        };
        // In a directory with the sticky bit only its owner can replace a file.
        let sticky = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
        if metadata.uid() != 0 {
            return Some(format!(
                "{shown} belongs to user {}, not to root",
                metadata.uid()
            ));
        }
        (metadata.mode() & 0o022 != 0 && !sticky)
            .then(|| format!("{shown} can be written by others than root"))
    })
}

/// What editors and package managers leave beside what they change.
fn left_behind(name: &str) -> bool {
    let endings = [
        "~", ".bak", ".swp", ".rpmsave", ".rpmnew", ".rpmorig", ".orig",
    ];
    name.starts_with('.') || name.contains(".dpkg-") || endings.iter().any(|e| name.ends_with(e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn script(dir: &Path, name: &str, mode: u32) {
        let path = dir.join(name);
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Guards root against running what another user wrote.
    #[test]
    fn only_what_root_alone_can_write_is_run() {
        if !rustix::process::getuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [
            ("20-open", 0o777),
            ("10-sound", 0o755),
            ("30-off", 0o644),
            ("10-sound~", 0o755),
            (".hidden", 0o755),
            ("40-old.dpkg-old", 0o755),
        ] {
            script(dir.path(), name, mode);
        }
        script(dir.path(), "50-theirs", 0o755);
        std::os::unix::fs::chown(dir.path().join("50-theirs"), Some(1234), None).unwrap();
        let found = in_order(dir.path());
        let told: Vec<_> = found
            .iter()
            .map(|s| (s.name.as_str(), std::mem::discriminant(&s.standing)))
            .collect();
        let (runs, skipped, refused) = (
            std::mem::discriminant(&Standing::Runs),
            std::mem::discriminant(&Standing::Skipped(String::new())),
            std::mem::discriminant(&Standing::Refused(String::new())),
        );
        let expected = [
            ("10-sound", runs),
            ("20-open", refused),
            ("30-off", skipped),
            ("50-theirs", refused),
        ];
        assert_eq!(told, expected);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let found = in_order(dir.path());
        assert!(
            found
                .iter()
                .all(|s| matches!(s.standing, Standing::Refused(_)))
        );
        assert!(in_order(&dir.path().join("nothing")).is_empty());
    }
}
