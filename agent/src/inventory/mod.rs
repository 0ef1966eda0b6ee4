//! What a recovery needs to know of the server besides its disks: from the live server, or from
//! an image when that is all there is.

mod file_system;
mod host;
mod host_network;
mod image;
mod network_files;
mod partitions;

use std::path::{Path, PathBuf};

use relevo_wire::Timestamp;
use relevo_wire::inventory::{Inventory, InventoryDisk};

use crate::AgentError;
use crate::disk::{Disk, DiskArgument};
use crate::load;

pub use host::local_disks;

/// The inventory that goes with these disks: the live server's when they are all its own
/// hardware, with the history of its load in that file, else what the disks themselves tell. An
/// image imaged elsewhere must not come back with its host's network.
pub fn of_disks(disks: &[Disk], load: &Path) -> Inventory {
    let described = disks.iter().map(describe).collect();
    if disks.iter().all(Disk::is_own_hardware) {
        Inventory {
            load: load::of(load, Timestamp::now()),
            ..host::inventory(Path::new("/"), described)
        }
    } else {
        image::inventory(disks, described)
    }
}

/// Lays what a file says over an inventory: its fields replace those found.
pub fn merge(found: Inventory, path: &Path) -> Result<Inventory, AgentError> {
    let failed = |reason: String| AgentError::Inventory {
        path: PathBuf::from(path),
        reason,
    };
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    let over: serde_json::Value = serde_json::from_str(&text).map_err(|e| failed(e.to_string()))?;
    let serde_json::Value::Object(over) = over else {
        return Err(failed("it is not a JSON object".into()));
    };
    let mut merged = serde_json::to_value(found).map_err(|e| failed(e.to_string()))?;
    if let serde_json::Value::Object(fields) = &mut merged {
        for (name, value) in over {
            if !fields.contains_key(&name) {
                return Err(failed(format!("there is no field '{name}'")));
            }
            fields.insert(name, value);
        }
    }
    serde_json::from_value(merged).map_err(|e| failed(e.to_string()))
}

/// Opens disks and sees that their names differ; all local ones when none are named.
pub fn open_disks(arguments: &[DiskArgument]) -> Result<Vec<Disk>, AgentError> {
    let mut arguments = arguments.to_vec();
    if arguments.is_empty() {
        arguments = local_disks(Path::new("/"));
    }
    if arguments.is_empty() {
        return Err(AgentError::NoDisk);
    }
    for (at, argument) in arguments.iter().enumerate() {
        if arguments[..at].iter().any(|a| a.name == argument.name) {
            return Err(AgentError::DuplicateName(argument.name.clone()));
        }
    }
    Ok(arguments.iter().map(Disk::open).collect::<Result<_, _>>()?)
}

/// As [`open_disks`], but of the local disks those that cannot be read are left out: the rest of
/// the inventory is worth having. Named ones must be there.
pub fn readable_disks(arguments: &[DiskArgument]) -> Result<Vec<Disk>, AgentError> {
    if !arguments.is_empty() {
        return open_disks(arguments);
    }
    let opened = local_disks(Path::new("/")).into_iter().filter_map(|disk| {
        Disk::open(&disk)
            .inspect_err(|error| tracing::warn!("{error}; it is left out"))
            .ok()
    });
    Ok(opened.collect())
}

/// A disk with its partition table and what is in the partitions.
fn describe(disk: &Disk) -> InventoryDisk {
    let (table, partitions) = partitions::read(disk);
    let hardware = |attributes: &[&str]| {
        let number = std::fs::metadata(disk.path())
            .map(|m| std::os::unix::fs::MetadataExt::rdev(&m))
            .ok()?;
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let dir = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        attributes.iter().find_map(|a| sysfs_text(&dir.join(a)))
    };
    let is_device = disk.is_device();
    InventoryDisk {
        name: disk.name().into(),
        size: disk.size(),
        sector: disk.sector(),
        model: is_device.then(|| hardware(&["device/model"])).flatten(),
        serial: disk.serial().map(String::from),
        wwn: is_device
            .then(|| hardware(&["wwid", "device/wwid"]))
            .flatten(),
        table,
        partitions,
    }
}

/// A one-line file of sysfs or the like, trimmed; none when it is absent, empty or binary.
pub fn sysfs_text(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_string())
}

/// Values of an os-release(5) file.
fn os_release(text: &str, inventory: &mut Inventory) {
    for line in text.lines() {
        let Some((name, value)) = line.trim().split_once('=') else {
            continue;
        };
        let value = value.trim_matches(['"', '\'']).to_string();
        match name {
            "PRETTY_NAME" => inventory.os = value,
            "ID" => inventory.os_id = value,
            "VERSION_ID" => inventory.os_version = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_overrides_what_was_found_and_mistakes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("inventory.json");
        let found = Inventory {
            hostname: "found".into(),
            cpus: 4,
            ..Inventory::default()
        };
        std::fs::write(&path, r#"{"hostname":"told","memory":1024}"#).unwrap();
        let merged = merge(found.clone(), &path).unwrap();
        assert_eq!((merged.hostname.as_str(), merged.cpus), ("told", 4));
        assert_eq!(merged.memory, 1024);
        for wrong in [r#"{"hostnam":"x"}"#, r#"{"cpus":"many"}"#, "[]", "{"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(merge(found.clone(), &path).is_err(), "{wrong}");
        }
    }

    #[test]
    fn os_release_values_lose_their_quotes() {
        let mut inventory = Inventory::default();
        os_release(
            "PRETTY_NAME=\"Debian 12\"\nID=debian\n# x\n",
            &mut inventory,
        );
        assert_eq!(
            (inventory.os.as_str(), inventory.os_id.as_str()),
            ("Debian 12", "debian")
        );
    }
}
