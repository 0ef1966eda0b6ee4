//! From a [`BootPlan`] to the files that the VMM is started with.
//!
//! [`adapt`] writes into a run directory: `kernel`, `initrd-0`, `initrd-1`, …, `cmdline`, and the
//! plan itself as `plan.json` and `plan.txt`. The image is only read.

mod cpio;
mod module_file;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::filesystem::ext::ExtFileSystem;
use crate::filesystem::{FileSystem, FsError};
use crate::plan::{BootPlan, FileOnDisk, InitrdSegment, KernelSource, NamedDisk, modules};
use cpio::Archive;

/// The init shim, built from `recover/shim`.
const SHIM: &[u8] = include_bytes!(env!("RELEVO_INIT"));

/// Most bytes that all drivers may take, unpacked: far more than any server's.
const MAX_MODULES: u64 = 256 << 20;

/// Files for the VMM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdaptedBoot {
    /// `--kernel`.
    pub kernel: PathBuf,
    /// `--initrd`, in order.
    pub initrds: Vec<PathBuf>,
    /// `--cmdline`.
    pub command_line: String,
}

/// Why the files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum AdaptError {
    /// The plan does not belong to these disks.
    #[error("the plan reads from disk {index}, but only {disks} disks were given")]
    OtherDisks {
        /// Index in the plan.
        index: usize,
        /// Disks given.
        disks: usize,
    },
    /// A file of the image could not be read.
    #[error("reading from the image: {0}")]
    Image(#[from] FsError),
    /// A module could not be unpacked.
    #[error("module {path}: {reason}")]
    Module {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be written or copied.
    #[error("{path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl AdaptError {
    /// What the operator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::OtherDisks { .. } => "plan again with all disks of the recovery point".into(),
            Self::Image(source) => source.remedy(),
            Self::Module { .. } => "choose an older recovery point, or use a site kernel".into(),
            Self::Write { .. } => "check free space and permissions of the run directory and that the site kernel can be read".into(),
        }
    }
}

/// Writes the files of `plan` into `directory`, which is made if needed.
pub fn adapt(
    plan: &BootPlan,
    disks: &[NamedDisk],
    directory: &Path,
) -> Result<AdaptedBoot, AdaptError> {
    fs::create_dir_all(directory).map_err(|source| AdaptError::Write {
        path: directory.into(),
        source,
    })?;
    let kernel = directory.join("kernel");
    match &plan.kernel {
        KernelSource::Image { file, .. } => write(&kernel, &read(disks, file)?)?,
        KernelSource::Site { path } => {
            let bytes = fs::read(path).map_err(|source| AdaptError::Write {
                path: path.clone(),
                source,
            })?;
            write(&kernel, &bytes)?;
        }
    }
    let mut initrds = Vec::new();
    for (index, segment) in plan.initrd.iter().enumerate() {
        let path = directory.join(format!("initrd-{index}"));
        match segment {
            InitrdSegment::Relevo {
                modules,
                instructions,
            } => write(&path, &our_segment(disks, modules, instructions)?)?,
            InitrdSegment::Image(file) => write(&path, &read(disks, file)?)?,
        }
        initrds.push(path);
    }
    write(&directory.join("cmdline"), plan.command_line.as_bytes())?;
    write(&directory.join("plan.txt"), plan.to_string().as_bytes())?;
    let json = serde_json::to_vec_pretty(plan).map_err(|e| AdaptError::Write {
        path: directory.join("plan.json"),
        source: e.into(),
    })?;
    write(&directory.join("plan.json"), &json)?;
    Ok(AdaptedBoot {
        kernel,
        initrds,
        command_line: plan.command_line.clone(),
    })
}

/// The segment with the shim: everything below `/.relevo`, a name that no system uses, so that
/// no file of the image's own initramfs is replaced and the order of segments does not matter.
fn our_segment(
    disks: &[NamedDisk],
    modules: &[FileOnDisk],
    instructions: &str,
) -> Result<Vec<u8>, AdaptError> {
    let mut archive = Archive::new();
    for directory in [".relevo", ".relevo/modules", ".relevo/root"] {
        archive.directory(directory);
    }
    archive.file(".relevo/init", 0o755, SHIM);
    archive.file(".relevo/plan", 0o644, instructions.as_bytes());
    let mut room = MAX_MODULES;
    for module in modules {
        let bytes =
            module_file::unpack(&module.path, read(disks, module)?, room).map_err(|reason| {
                AdaptError::Module {
                    path: module.path.clone(),
                    reason,
                }
            })?;
        room = room.saturating_sub(bytes.len() as u64);
        archive.file(
            modules::path_in_initramfs(&module.path).trim_start_matches('/'),
            0o644,
            &bytes,
        );
    }
    Ok(archive.finish())
}

fn read(disks: &[NamedDisk], file: &FileOnDisk) -> Result<Vec<u8>, AdaptError> {
    let named = disks.get(file.disk).ok_or(AdaptError::OtherDisks {
        index: file.disk,
        disks: disks.len(),
    })?;
    let fs = ExtFileSystem::open(&named.disk, file.partition_start, file.partition_len)?;
    Ok(fs.read(&file.path)?)
}

/// Writes a file that only its owner reads: an initramfs may hold the key of a disk.
fn write(path: &Path, bytes: &[u8]) -> Result<(), AdaptError> {
    create_private(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|source| AdaptError::Write {
            path: path.into(),
            source,
        })
}

/// A new, empty file that only its owner reads.
pub fn create_private(path: &Path) -> io::Result<fs::File> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn boot_files_are_their_owners_only_even_where_others_were() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initrd-1");
        fs::write(&path, "older").unwrap();
        write(&path, b"key").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read(&path).unwrap(), b"key");
    }
}
