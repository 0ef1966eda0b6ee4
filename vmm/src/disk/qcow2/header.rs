//! The header and its extensions (sections "Header" and "Header extensions").

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::error::Qcow2Error;
use super::storage::Storage;

/// The first bytes of every image.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Most bytes of an L1 table; QEMU's limit too.
pub(super) const MAX_L1_BYTES: u64 = 32 << 20;
/// Most bytes of a refcount table; QEMU's limit too.
pub(super) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// Bits 9–55 of a table's entry: an offset in the file.
pub(super) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// Where the header has the refcount table's offset, then its clusters (12 bytes in all).
pub(super) const REFCOUNT_TABLE_FIELDS: u64 = 48;
/// Where the header has the autoclear features.
pub(super) const AUTOCLEAR_FIELD: u64 = 88;

const LENGTH_2: usize = 72;
const LENGTH_3: usize = 104;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const COMPRESSION: u64 = 1 << 3;
/// Incompatible features by bit, as QEMU names them; those that are not done here as well.
const NAMED: [(u64, &str); 2] = [
    (1 << 2, "an external data file"),
    (1 << 4, "extended L2 entries"),
];

const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;

/// Sizes that follow from the cluster size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    /// Base-2 logarithm of the cluster size in bytes, 9–21.
    pub(super) cluster_bits: u32,
}

impl Geometry {
    pub(super) fn cluster_size(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Clusters that one L2 table maps.
    pub(super) fn l2_entries(self) -> u64 {
        1 << (self.cluster_bits - 3)
    }

    pub(super) fn is_aligned(self, offset: u64) -> bool {
        offset.is_multiple_of(self.cluster_size())
    }

    /// Clusters that `bytes` need.
    pub(super) fn clusters(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_size())
    }

    /// L1 entries for a disk of `size` bytes.
    fn l1_entries(self, size: u64) -> u64 {
        self.clusters(size).div_ceil(self.l2_entries())
    }
}

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Deflate,
    Zstd,
}

/// What the header says of a backing file.
#[derive(Debug, Clone)]
pub(super) struct BackingName {
    pub(super) name: OsString,
    pub(super) format: Option<String>,
}

/// A header whose fields were checked against each other and the limits here.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) geometry: Geometry,
    pub(super) size: u64,
    pub(super) backing: Option<BackingName>,
    pub(super) l1_offset: u64,
    pub(super) l1_entries: usize,
    pub(super) refcount_table_offset: u64,
    pub(super) refcount_table_clusters: u64,
    pub(super) refcount_order: u32,
    pub(super) snapshots_offset: u64,
    pub(super) snapshots: u32,
    pub(super) autoclear: u64,
    pub(super) compression: Compression,
    pub(super) is_dirty: bool,
    pub(super) is_corrupt: bool,
}

impl Header {
    /// Reads the header; `path` is for messages.
    pub(super) fn read(storage: &dyn Storage, path: &Path) -> Result<Self, Qcow2Error> {
        let failed = |source| Qcow2Error::Open {
            path: path.to_owned(),
            source,
        };
        let malformed = |reason| Qcow2Error::Malformed {
            path: path.to_owned(),
            reason,
        };
        let unsupported = |feature| Qcow2Error::Unsupported {
            path: path.to_owned(),
            feature,
        };
        let mut first = [0; LENGTH_3 + 8];
        let count = storage.read_at(&mut first, 0).map_err(failed)?;
        if count < LENGTH_2 || first[..4] != MAGIC {
            let path = path.to_owned();
            return Err(Qcow2Error::NotQcow2 { path });
        }
        let version = be_u32(&first, 4);
        if !matches!(version, 2 | 3) {
            return Err(unsupported(format!("version {version} of the format")));
        }
        let cluster_bits = be_u32(&first, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(malformed("the cluster size is not 512 bytes to 2 MiB"));
        }
        let geometry = Geometry { cluster_bits };
        let mut cluster = vec![0; geometry.cluster_size() as usize];
        storage.read_at(&mut cluster, 0).map_err(failed)?;

        let fields = Version3::read(version, &cluster).map_err(malformed)?;
        let extensions = Extensions::read(&cluster, fields.length).map_err(malformed)?;
        if let Some(feature) = fields.unsupported(&extensions) {
            return Err(unsupported(feature));
        }
        match be_u32(&cluster, 32) {
            0 => {}
            1 => return Err(unsupported("AES encryption".to_owned())),
            2 => return Err(unsupported("LUKS encryption".to_owned())),
            other => return Err(unsupported(format!("encryption method {other}"))),
        }
        let size = be_u64(&cluster, 24);
        if i64::try_from(size).is_err() {
            return Err(malformed("the virtual disk is larger than any disk"));
        }
        let header = Self {
            version,
            geometry,
            size,
            backing: extensions.backing(&cluster).map_err(malformed)?,
            l1_offset: be_u64(&cluster, 40),
            l1_entries: be_u32(&cluster, 36) as usize,
            refcount_table_offset: be_u64(&cluster, 48),
            refcount_table_clusters: u64::from(be_u32(&cluster, 56)),
            refcount_order: fields.refcount_order,
            snapshots_offset: be_u64(&cluster, 64),
            snapshots: be_u32(&cluster, 60),
            autoclear: fields.autoclear,
            compression: fields.compression,
            is_dirty: fields.incompatible & DIRTY != 0,
            is_corrupt: fields.incompatible & CORRUPT != 0,
        };
        header.check().map_err(malformed)?;
        Ok(header)
    }

    fn check(&self) -> Result<(), &'static str> {
        let geometry = self.geometry;
        let in_range = |offset: u64| offset & !OFFSET_MASK == 0 && geometry.is_aligned(offset);
        if self.l1_entries as u64 * 8 > MAX_L1_BYTES {
            return Err("the L1 table is larger than 32 MiB");
        }
        if (self.l1_entries as u64) < geometry.l1_entries(self.size) {
            return Err("the L1 table is too small for the virtual disk");
        }
        if self.l1_entries > 0 && (self.l1_offset == 0 || !in_range(self.l1_offset)) {
            return Err("the L1 table is not at a cluster's start");
        }
        if self.refcount_order > 6 {
            return Err("reference counts are wider than 64 bits");
        }
        if self.refcount_table_offset == 0 || !in_range(self.refcount_table_offset) {
            return Err("the refcount table is not at a cluster's start");
        }
        if self.refcount_table_clusters == 0
            || self.refcount_table_clusters << geometry.cluster_bits > MAX_REFCOUNT_TABLE_BYTES
        {
            return Err("the refcount table is empty or larger than 8 MiB");
        }
        if self.snapshots > 0 && (self.snapshots_offset == 0 || !in_range(self.snapshots_offset)) {
            return Err("the list of snapshots is not at a cluster's start");
        }
        Ok(())
    }
}

/// The fields that version 2 does not have, with what it assumes instead.
struct Version3 {
    incompatible: u64,
    autoclear: u64,
    refcount_order: u32,
    compression: Compression,
    unknown_compression: Option<u8>,
    length: usize,
}

impl Version3 {
    fn read(version: u32, cluster: &[u8]) -> Result<Self, &'static str> {
        if version == 2 {
            return Ok(Self {
                incompatible: 0,
                autoclear: 0,
                refcount_order: 4,
                compression: Compression::Deflate,
                unknown_compression: None,
                length: LENGTH_2,
            });
        }
        let length = be_u32(cluster, 100) as usize;
        if length < LENGTH_3 || !length.is_multiple_of(8) || length > cluster.len() {
            return Err("the header's length is impossible");
        }
        let incompatible = be_u64(cluster, 72);
        let kind = if length > LENGTH_3 {
            cluster[LENGTH_3]
        } else {
            0
        };
        let (compression, unknown_compression) = match kind {
            0 => (Compression::Deflate, None),
            1 => (Compression::Zstd, None),
            other => (Compression::Deflate, Some(other)),
        };
        if (incompatible & COMPRESSION != 0) != (kind != 0) {
            return Err("the compression type contradicts its feature bit");
        }
        Ok(Self {
            incompatible,
            autoclear: be_u64(cluster, AUTOCLEAR_FIELD as usize),
            refcount_order: be_u32(cluster, 96),
            compression,
            unknown_compression,
            length,
        })
    }

    /// The first thing that cannot be done here.
    fn unsupported(&self, extensions: &Extensions<'_>) -> Option<String> {
        let unknown = self.incompatible & !(DIRTY | CORRUPT | COMPRESSION);
        if let Some((_, name)) = NAMED.iter().find(|(bit, _)| unknown & bit != 0) {
            return Some((*name).to_owned());
        }
        if unknown != 0 {
            let bit = unknown.trailing_zeros() as u8;
            return Some(match extensions.feature_name(bit) {
                Some(name) => format!("the feature \"{name}\" (bit {bit})"),
                None => format!("an unknown feature (bit {bit})"),
            });
        }
        self.unknown_compression
            .map(|kind| format!("compression type {kind}"))
    }
}

/// The extensions that matter here.
#[derive(Default)]
struct Extensions<'c> {
    backing_format: Option<&'c [u8]>,
    feature_names: &'c [u8],
}

impl<'c> Extensions<'c> {
    fn read(cluster: &'c [u8], start: usize) -> Result<Self, &'static str> {
        let mut found = Self::default();
        let mut rest = cluster.get(start..).unwrap_or_default();
        // In version 2 the backing file's name may follow the header at once.
        let name_at = be_u64(cluster, 8);
        while let Some((head, tail)) = rest.split_at_checked(8) {
            let at = (cluster.len() - rest.len()) as u64;
            if name_at != 0 && at >= name_at {
                break;
            }
            let (kind, length) = (be_u32(head, 0), be_u32(head, 4) as usize);
            if kind == 0 {
                break;
            }
            let Some(data) = tail.get(..length) else {
                return Err("a header extension is longer than the first cluster");
            };
            match kind {
                EXTENSION_BACKING_FORMAT => found.backing_format = Some(data),
                EXTENSION_FEATURE_NAMES => found.feature_names = data,
                _ => {}
            }
            rest = tail.get(length.next_multiple_of(8)..).unwrap_or_default();
        }
        Ok(found)
    }

    fn feature_name(&self, bit: u8) -> Option<String> {
        let (entries, _) = self.feature_names.as_chunks::<48>();
        let entry = entries.iter().find(|e| e[0] == 0 && e[1] == bit)?;
        let name = entry[2..].split(|byte| *byte == 0).next()?;
        let name: String = String::from_utf8_lossy(name)
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        (!name.is_empty()).then_some(name)
    }

    fn backing(&self, cluster: &[u8]) -> Result<Option<BackingName>, &'static str> {
        let (offset, length) = (be_u64(cluster, 8), be_u32(cluster, 16) as usize);
        if offset == 0 || length == 0 {
            return Ok(None);
        }
        if length > 1023 {
            return Err("the backing file's name is longer than 1023 bytes");
        }
        let name = usize::try_from(offset)
            .ok()
            .and_then(|start| cluster.get(start..start.checked_add(length)?))
            .ok_or("the backing file's name is not in the first cluster")?;
        if name.contains(&0) {
            return Err("the backing file's name has a zero byte");
        }
        Ok(Some(BackingName {
            name: OsStr::from_bytes(name).to_owned(),
            format: self
                .backing_format
                .map(|text| String::from_utf8_lossy(text).into_owned()),
        }))
    }
}

fn be_u32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn be_u64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8]
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}
