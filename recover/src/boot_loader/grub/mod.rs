//! GRUB 2: runs `grub.cfg` far enough to know its menu and what the default entry loads.
//!
//! A grub.cfg is a program (GRUB manual, "Writing full configuration files directly"): which
//! entry is the default depends on `if`, on variables kept in `grubenv`, and on functions. So it
//! is parsed (`syntax`) and run (`shell`, `commands`, `expansion`) against the volumes at hand, with bounds on steps
//! and depth, and the menu entry that the value of `default` names is then run for its `linux`
//! and `initrd` commands (`menu`). Commands that only draw or load modules do nothing.

mod commands;
mod environment;
mod expansion;
mod menu;
mod shell;
mod syntax;
mod test_command;
#[cfg(test)]
mod tests;
mod tokens;

use super::Choice;
use crate::filesystem::tree::{Place, Tree};
use crate::filesystem::volume::Volumes;

/// Where the configuration lies, seen from the running system.
pub const CONFIGS: &[&str] = &[
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/efi/EFI/redhat/grub.cfg",
];

/// What a script can see of the machine. Devices are GRUB names without parentheses.
pub trait World {
    /// The content of a file on a device.
    fn read(&self, device: &str, path: &str) -> Option<Vec<u8>>;
    /// Whether a path exists on a device, and is a directory.
    fn is_directory(&self, device: &str, path: &str) -> Option<bool>;
    /// Device of the file system with this UUID.
    fn by_uuid(&self, uuid: &str) -> Option<String>;
    /// Device of the file system with this label.
    fn by_label(&self, label: &str) -> Option<String>;
    /// First device that has this file.
    fn by_file(&self, path: &str) -> Option<String>;
    /// Boot loader entries on a device.
    fn entries(&self, device: &str) -> Vec<super::bls::Entry>;
    /// Whether the machine starts by UEFI.
    fn efi(&self) -> bool;
}

/// Reads the default entry of the `grub.cfg` at `place`.
pub fn read(volumes: &Volumes, system: &Tree, place: &Place, path: &str) -> Result<Choice, String> {
    let text = system.text(path).ok_or("it cannot be read")?;
    let device = volumes
        .all
        .get(place.volume)
        .map(|v| v.grub_name())
        .ok_or("its volume is unknown")?;
    let directory = place.path.rsplit_once('/').map_or("", |(d, _)| d);
    let loaded = default_entry(&text, &device, directory, &OnVolumes(volumes))?;
    Ok(Choice {
        title: loaded.title,
        volume: volume_of(volumes, &loaded.device),
        kernel: loaded.kernel,
        initrds: loaded.initrds,
        arguments: loaded.arguments,
        notes: loaded.notes,
    })
}

/// What a menu entry loads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Title of the entry.
    pub title: String,
    /// Device that the paths refer to.
    pub device: String,
    /// Kernel.
    pub kernel: String,
    /// Initial RAM disks.
    pub initrds: Vec<String>,
    /// Arguments of the kernel.
    pub arguments: String,
    /// Remarks.
    pub notes: Vec<String>,
}

/// Runs a configuration that lies in `directory` of `device` and returns what its default loads.
pub fn default_entry(
    text: &str,
    device: &str,
    directory: &str,
    world: &dyn World,
) -> Result<Loaded, String> {
    let script = syntax::parse(text)?;
    let mut shell = shell::Shell::new(world, device, directory);
    shell.run(&script)?;
    menu::boot_default(&mut shell)
}

struct OnVolumes<'a>(&'a Volumes);

impl OnVolumes<'_> {
    fn tree(&self, device: &str) -> Option<Tree> {
        let index = volume_of(self.0, device)?;
        Some(Tree::of(index, self.0.all.get(index)?.fs.clone()?))
    }

    fn name(&self, volume: usize) -> Option<String> {
        self.0.all.get(volume).map(|v| v.grub_name())
    }
}

impl World for OnVolumes<'_> {
    fn read(&self, device: &str, path: &str) -> Option<Vec<u8>> {
        self.tree(device)?.small(path)
    }
    fn is_directory(&self, device: &str, path: &str) -> Option<bool> {
        let place = self.tree(device)?.find(path).ok()??;
        Some(place.node == crate::filesystem::Node::Directory)
    }
    fn by_uuid(&self, uuid: &str) -> Option<String> {
        self.name(self.0.by_uuid(uuid)?)
    }
    fn by_label(&self, label: &str) -> Option<String> {
        self.name(self.0.by_label(label)?)
    }
    fn by_file(&self, path: &str) -> Option<String> {
        self.0
            .all
            .iter()
            .map(|v| v.grub_name())
            .find(|name| self.is_directory(name, path).is_some())
    }
    fn entries(&self, device: &str) -> Vec<super::bls::Entry> {
        let Some(tree) = self.tree(device) else {
            return Vec::new();
        };
        ["/loader/entries", "/boot/loader/entries"]
            .iter()
            .map(|directory| super::bls::entries(&tree, directory))
            .find(|entries| !entries.is_empty())
            .unwrap_or_default()
    }
    fn efi(&self) -> bool {
        self.0.layouts.iter().flatten().any(|l| l.has_efi_system())
    }
}

/// The volume with a GRUB name: `hd0,gpt1`, `hd0,msdos5`, `hd0,1`, `ahci0,gpt1`, `hd0`.
fn volume_of(volumes: &Volumes, device: &str) -> Option<usize> {
    if let Some(exact) = volumes.all.iter().position(|v| v.grub_name() == device) {
        return Some(exact);
    }
    let (disk, partition) = device.split_once(',').unwrap_or((device, "0"));
    let number = |s: &str| {
        s.trim_start_matches(|c: char| !c.is_ascii_digit())
            .parse::<u32>()
            .ok()
    };
    if disk.starts_with("lvm") || disk.starts_with("md") || disk.starts_with("crypt") {
        return None;
    }
    let disk_index = number(disk)? as usize;
    let partition = number(partition)?;
    volumes
        .all
        .iter()
        .position(|v| v.disk == disk_index && v.partition.number == partition)
}
