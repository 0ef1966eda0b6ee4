//! What the server's own boot loader would boot by default.
//!
//! The answer is found as the loader would find it, and not by guessing the newest kernel: an
//! operator who pinned an older one did so for a reason. Tried in this order, first answer wins:
//! GRUB 2 ([`grub`], with BLS entries where its script says `blscfg`), BLS entries alone
//! ([`bls`], as systemd-boot reads them), [`extlinux`], and last the kernels that lie in `/boot`
//! ([`bare_kernel`]). What failed on the way is told in [`BootEntry::notes`].

pub mod bare_kernel;
pub mod bls;
pub mod extlinux;
pub mod grub;
pub mod version;

use serde::{Deserialize, Serialize};

use crate::filesystem::tree::{Place, Tree};
use crate::filesystem::volume::Volumes;
use crate::filesystem::{FsError, Node};

/// Files that one entry may load into its initramfs: microcode, the real one, and some to spare.
const MAX_INITRDS: usize = 16;

/// A regular file on one of the volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOnVolume {
    /// Index of the volume.
    pub volume: usize,
    /// Path within it, without symbolic links.
    pub path: String,
}

/// What would be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEntry {
    /// Title in the menu, or the kernel's file name.
    pub title: String,
    /// The kernel.
    pub kernel: FileOnVolume,
    /// Initial RAM disks, in order.
    pub initrds: Vec<FileOnVolume>,
    /// The command line, without the kernel's name.
    pub arguments: String,
    /// Which loader and configuration file said so.
    pub source: String,
    /// What was tried before and why it gave no answer.
    pub notes: Vec<String>,
}

/// A configuration's answer before its paths were looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Title in the menu.
    pub title: String,
    /// Volume the paths refer to, if the configuration names one that exists.
    pub volume: Option<usize>,
    /// Kernel path as written.
    pub kernel: String,
    /// Initial RAM disk paths as written.
    pub initrds: Vec<String>,
    /// Command line.
    pub arguments: String,
    /// Remarks of the reader.
    pub notes: Vec<String>,
}

/// Finds what would be booted on the system whose tree is `system`; `None` if it has no kernel.
pub fn find_default(volumes: &Volumes, system: &Tree) -> Result<Option<BootEntry>, FsError> {
    let mut notes = Vec::new();
    type Reader = fn(&Volumes, &Tree, &Place, &str) -> Result<Choice, String>;
    let loaders: [(&str, &[&str], Reader); 3] = [
        ("GRUB 2", grub::CONFIGS, grub::read),
        ("boot loader entries", bls::DIRECTORIES, bls::read),
        ("extlinux", extlinux::CONFIGS, extlinux::read),
    ];
    for (loader, places, read) in loaders {
        for path in places {
            let Some(place) = system.find(path)? else {
                continue;
            };
            if place.node == Node::Directory && system.list(path).is_empty() {
                continue;
            }
            let choice = match read(volumes, system, &place, path) {
                Ok(choice) => choice,
                Err(reason) => {
                    notes.push(format!("{loader}, {path}: {reason}"));
                    continue;
                }
            };
            match locate(volumes, system, &place, &choice) {
                Ok((kernel, initrds)) => {
                    notes.extend(choice.notes);
                    return Ok(Some(BootEntry {
                        title: choice.title,
                        kernel,
                        initrds,
                        arguments: choice.arguments,
                        source: format!("{loader}, {path}"),
                        notes,
                    }));
                }
                Err(reason) => notes.push(format!(
                    "{loader}, {path}, entry \"{}\": {reason}",
                    choice.title
                )),
            }
        }
    }
    Ok(bare_kernel::find(system)?.map(|mut entry| {
        entry.notes = notes;
        entry
    }))
}

/// Looks up the files of a choice: on the volume it names, on the configuration's own, and at
/// the places where a path means the same file with `/boot` mounted or not.
fn locate(
    volumes: &Volumes,
    system: &Tree,
    config: &Place,
    choice: &Choice,
) -> Result<(FileOnVolume, Vec<FileOnVolume>), String> {
    let find = |path: &str| -> Result<FileOnVolume, String> {
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        for volume in choice.volume.into_iter().chain([config.volume]) {
            if let Some(file) = file_on(volumes, volume, &path) {
                return Ok(file);
            }
        }
        for path in [path.clone(), format!("/boot{path}")] {
            if let Ok(Some(Place {
                volume,
                path,
                node: Node::File(_),
            })) = system.find(&path)
            {
                return Ok(FileOnVolume { volume, path });
            }
        }
        Err(format!("{path} does not exist"))
    };
    if choice.initrds.len() > MAX_INITRDS {
        return Err(format!(
            "{} initramfs are no boot entry",
            choice.initrds.len()
        ));
    }
    let kernel = find(&choice.kernel)?;
    let initrds = choice
        .initrds
        .iter()
        .map(|path| find(path))
        .collect::<Result<_, _>>()?;
    Ok((kernel, initrds))
}

/// The regular file at `path` on one volume alone, as a boot loader sees it.
fn file_on(volumes: &Volumes, volume: usize, path: &str) -> Option<FileOnVolume> {
    let fs = volumes.all.get(volume)?.fs.clone()?;
    match Tree::of(volume, fs).find(path) {
        Ok(Some(Place {
            path,
            node: Node::File(_),
            ..
        })) => Some(FileOnVolume { volume, path }),
        _ => None,
    }
}
