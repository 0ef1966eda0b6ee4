//! Partition tables: where the volumes of a disk begin and end, and what names them.
//!
//! [`read_layout`] recognises GPT (UEFI 2.10, section 5.3) with either header damaged, MBR
//! with extended partitions, and a disk that is one file system without a table. Whatever the
//! bytes are, the answer is a layout whose partitions all lie inside the disk, or an error
//! that names the absurdity: nothing here panics or allocates by a number read from disk.

mod gpt;
mod mbr;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::MemoryDisk;

use serde::{Deserialize, Serialize};

use crate::block::{BlockError, BlockRead};
use crate::filesystem::signature::{self, Content};

/// What kind of table a disk carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableKind {
    /// GUID partition table.
    Gpt,
    /// Master boot record, with logical partitions where there is an extended one.
    Mbr,
    /// No table: the whole disk is one volume.
    WholeDisk,
}

/// One partition, or the whole disk where there is no table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Number as Linux counts it (`/dev/vda1` is 1; logical partitions start at 5); 0 for the
    /// whole disk.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// What Linux offers below `/dev/disk/by-partuuid`, in lower case.
    pub part_uuid: Option<String>,
    /// Type: a GUID in lower case (GPT) or two hexadecimal digits (MBR).
    pub kind: String,
    /// Name in the table (GPT only).
    pub name: Option<String>,
    /// Marked for booting: MBR's active flag, GPT's legacy BIOS bootable attribute.
    pub bootable: bool,
}

/// The partitions of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskLayout {
    /// Kind of table.
    pub table: TableKind,
    /// Bytes per sector that the table counts in: 512 or 4096.
    pub sector_size: u32,
    /// GUID of the disk (GPT), or its signature as eight hexadecimal digits (MBR).
    pub disk_id: Option<String>,
    /// Partitions by number.
    pub partitions: Vec<Partition>,
    /// Damage that did not prevent reading, in words.
    pub notes: Vec<String>,
}

impl Partition {
    /// What the table says the partition is for, where its content has no signature to tell.
    pub fn purpose(&self) -> Option<&'static str> {
        match self.kind.as_str() {
            "21686148-6449-6e6f-744e-656564454649" => {
                Some("the boot loader's own partition (BIOS boot)")
            }
            "9e1a2d38-c612-4316-aa26-8b49521e5a8b" | "41" => Some("firmware (PReP)"),
            "e3c9e316-0b5c-4db8-817d-f92df00215ae" => Some("Microsoft reserved"),
            _ => None,
        }
    }
}

/// Type GUID of an EFI system partition.
pub const EFI_SYSTEM: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

impl DiskLayout {
    /// Whether the disk has an EFI system partition, so that its firmware was (or could be) UEFI.
    pub fn has_efi_system(&self) -> bool {
        self.partitions
            .iter()
            .any(|p| p.kind == EFI_SYSTEM || p.kind == "ef")
    }
}

/// Why a disk's partitions cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The disk could not be read.
    #[error(transparent)]
    Read(#[from] BlockError),
    /// Nothing was ever written to it.
    #[error("the disk is blank: no partition table, no file system, only zeros")]
    Blank,
    /// The first sectors hold something that is neither.
    #[error("the disk has neither a partition table nor a known file system in its first sectors")]
    Unrecognised,
    /// Smaller than any table.
    #[error("the disk has only {size} bytes, too few for a partition table")]
    TooSmall {
        /// Size in bytes.
        size: u64,
    },
    /// The table describes more disk than there is.
    #[error("the image is truncated: {what} reaches to byte {end}, but the image ends at {size}")]
    Truncated {
        /// The partition or header.
        what: String,
        /// First byte after it.
        end: u64,
        /// Size of the image in bytes.
        size: u64,
    },
    /// Neither GPT header can be believed.
    #[error("the GPT is damaged: {primary}; {backup}")]
    GptDamaged {
        /// What is wrong with the first header.
        primary: String,
        /// What is wrong with the one at the end.
        backup: String,
    },
    /// An entry makes no sense.
    #[error("the partition table is absurd: {reason}")]
    Absurd {
        /// Which entry, and why.
        reason: String,
    },
}

impl LayoutError {
    /// What the operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Read(_) => "check the connection to the vault and run `relevo-vault verify`",
            Self::Blank | Self::TooSmall { .. } => {
                "check that the right disk of the server was backed up, and name that one"
            }
            Self::Unrecognised => {
                "if the whole disk is encrypted or belongs to a RAID or volume manager, restore it \
                 with `relevo-recover restore` and open it there; else choose an older recovery point"
            }
            Self::Truncated { .. } => {
                "choose an older recovery point, and take a new backup of the whole disk"
            }
            Self::GptDamaged { .. } | Self::Absurd { .. } => {
                "choose an older recovery point, or restore the disk and repair its table (`sgdisk --verify`, `sfdisk --verify`)"
            }
        }
    }
}

/// Reads the partition table of `disk`.
pub fn read_layout(disk: &dyn BlockRead) -> Result<DiskLayout, LayoutError> {
    let size = disk.size();
    if size < 1024 {
        return Err(LayoutError::TooSmall { size });
    }
    let mut boot_sector = [0u8; 512];
    disk.read_at(0, &mut boot_sector)?;

    if let Some(layout) = gpt::read(disk, &boot_sector)? {
        return Ok(layout);
    }
    // A file system may keep a boot sector that ends in 55 AA like an MBR's, so what is
    // recognised at its own place wins over a table that only might be one.
    let content = signature::probe(disk, 0, size)?;
    let is_mbr = mbr::has_signature(&boot_sector);
    let is_boot_sector = matches!(
        content,
        Content::Fat | Content::Ntfs | Content::ExFat | Content::BitLocker
    );
    if is_mbr
        && !is_boot_sector
        && let Some(layout) = mbr::read(disk, &boot_sector)?
    {
        return Ok(layout);
    }
    match content {
        Content::Blank if is_mbr => Ok(whole_disk(size, "the MBR lists no partition")),
        Content::Blank => Err(LayoutError::Blank),
        Content::Unknown => Err(LayoutError::Unrecognised),
        _ => Ok(whole_disk(
            size,
            "no partition table: the whole disk is one volume",
        )),
    }
}

fn whole_disk(size: u64, note: &str) -> DiskLayout {
    let whole = Partition {
        number: 0,
        start: 0,
        len: size,
        part_uuid: None,
        kind: "whole-disk".into(),
        name: None,
        bootable: true,
    };
    DiskLayout {
        table: TableKind::WholeDisk,
        sector_size: 512,
        disk_id: None,
        partitions: vec![whole],
        notes: vec![note.into()],
    }
}

/// Refuses partitions that share sectors: which of them holds valid data cannot be known.
fn refuse_overlaps(partitions: &[Partition]) -> Result<(), LayoutError> {
    let mut by_start: Vec<&Partition> = partitions.iter().collect();
    by_start.sort_by_key(|p| p.start);
    for pair in by_start.windows(2) {
        if let [a, b] = pair
            && a.start + a.len > b.start
        {
            return Err(LayoutError::Absurd {
                reason: format!("partitions {} and {} overlap", a.number, b.number),
            });
        }
    }
    Ok(())
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u16::from_le_bytes)
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}
