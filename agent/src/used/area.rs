//! What was found where, for the log and the report.

use serde::Serialize;

/// A part of a disk, or of a volume over parts of disks, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Area {
    /// The disk's name in the image.
    pub disk: String,
    /// Where it begins on that disk, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// The logical volume, as `group/volume`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// What is there: `ext4`, `swap`, `unpartitioned`, …; `unknown` when nothing was recognised.
    pub what: &'static str,
    /// Bytes of it that are in use, as far as is known, and are read.
    pub used_bytes: u64,
    /// Why all of it is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_whole: Option<String>,
    /// Why more of it is read than is in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_more: Option<String>,
}

/// What a reader says besides free runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Why a part is taken as used although the structures may say that it is free.
    pub read_more: Option<String>,
}
