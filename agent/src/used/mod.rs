//! What of a disk is in use, by its own structures: the rest needs no reading.
//!
//! ```text
//!  disk ─ partition ┬─ file system, swap ──────────────► free runs ─┐
//!                   ├─ member of a mirror ─ (as a disk)             ├─► UsedMap
//!                   └─ physical volume ─ logical volume (as a disk) ┘
//! ```
//!
//! * [`survey`](fn@survey): from disks to maps, and what was found where ([`area`]). [`map`]: the result.
//! * [`volume`], [`source`]: what structures are read from, wherever their bytes are.
//! * [`table`], [`md`], [`lvm`]: what holds other things. [`swap`], [`ext`], [`xfs`], [`btrfs`],
//!   [`fat`], [`ntfs`]: what has free space.
//! * [`evidence`]: what proves, of btrfs, that spans are as they were.
//! * [`whole`]: reasons to read all of an area. [`checksum`]; [`memory`]: a disk for tests.
//!
//! Invariants:
//! * Everything is in use unless a reader that trusts what it sees says that it is free. Whatever
//!   cannot be checked (bounds, checksums, counts, copies that must agree), is ambiguous or is
//!   not known to this release leaves its area whole, and the reason is told.
//! * Nothing is written, mounted or activated.
//! * Readers take any bytes: they end, do not panic, and their memory is bounded: a disk's map by
//!   8 MiB (short free runs are forgotten beyond), a FAT or a journal by 16 MiB, the log of XFS by
//!   32 MiB, the rest by a few MiB.

pub mod area;
pub mod btrfs;
pub mod checksum;
pub mod evidence;
pub mod ext;
pub mod fat;
pub mod lvm;
mod lvm_text;
pub mod map;
pub mod md;
pub mod memory;
pub mod ntfs;
pub mod source;
pub mod survey;
pub mod swap;
pub mod table;
pub mod volume;
pub mod whole;
pub mod xfs;

pub use area::Area;
pub use evidence::Evidence;
pub use map::UsedMap;
pub use source::DiskSource;
pub use survey::{Survey, survey, survey_with_evidence};
pub use volume::Source;
