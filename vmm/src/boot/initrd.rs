//! The initramfs: one or more files put behind each other, as Linux reads them.
//!
//! An initramfs is a sequence of cpio archives, plain or packed, with zeros between them
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`). Where unpacking in the
//! guest would take long, [`join`] unpacks every segment on the host.

use std::path::{Path, PathBuf};

use super::ImageFile;
use super::unpack::{Packing, UnpackError, unpack};

/// Why the initramfs could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// A file could not be read.
    #[error("cannot read the initramfs {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// It does not fit the guest's memory.
    #[error("the initramfs {path} needs more than the {} MiB of the guest's memory", most >> 20)]
    TooLarge {
        /// The file with which it became too large.
        path: PathBuf,
        /// The room there is, in bytes.
        most: u64,
    },
    /// A packed segment is damaged.
    #[error("the initramfs {path} is damaged at byte {offset}")]
    Segment {
        /// The file.
        path: PathBuf,
        /// Where the segment starts.
        offset: usize,
        /// What is wrong with it.
        #[source]
        source: UnpackError,
    },
}

/// Reads `files` and puts them behind each other, each padded to four bytes. All of it, and
/// no more of the host's memory, takes at most `most` bytes.
pub fn join(files: &[ImageFile], unpack_segments: bool, most: u64) -> Result<Vec<u8>, InitrdError> {
    let mut all = Vec::new();
    for file in files {
        let path = file.path();
        let too_large = || InitrdError::TooLarge {
            path: path.to_owned(),
            most,
        };
        let data = file
            .read_at_most(most)
            .map_err(|source| InitrdError::Read {
                path: path.to_owned(),
                source,
            })?
            .ok_or_else(too_large)?;
        if unpack_segments {
            unpacked(path, &data, &mut all, most)?;
        } else {
            all.extend_from_slice(&data);
        }
        pad(&mut all);
        if all.len() as u64 > most {
            return Err(too_large());
        }
    }
    Ok(all)
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

fn unpacked(path: &Path, data: &[u8], out: &mut Vec<u8>, most: u64) -> Result<(), InitrdError> {
    let mut at = 0;
    while let Some(rest) = data.get(at..).filter(|r| !r.is_empty()) {
        if rest[0] == 0 {
            at += 1;
            continue;
        }
        pad(out);
        if let Some(len) = cpio_len(rest) {
            out.extend_from_slice(&rest[..len]);
            at += len;
            continue;
        }
        let room = most.saturating_sub(out.len() as u64);
        match Packing::detect(rest).map(|packing| unpack(packing, rest, room)) {
            Some(Ok((segment, used))) => {
                out.extend_from_slice(&segment);
                at += used;
            }
            // What only the guest can judge is left to the guest.
            None | Some(Err(UnpackError::Unsupported(_))) => {
                out.extend_from_slice(rest);
                at = data.len();
            }
            Some(Err(UnpackError::TooLarge { .. })) => {
                return Err(InitrdError::TooLarge {
                    path: path.to_owned(),
                    most,
                });
            }
            Some(Err(source)) => {
                return Err(InitrdError::Segment {
                    path: path.to_owned(),
                    offset: at,
                    source,
                });
            }
        }
    }
    Ok(())
}

/// Length of the plain cpio archive ("newc") at the start of `data`, up to and including
/// its trailer; `None` if there is no whole one.
fn cpio_len(data: &[u8]) -> Option<usize> {
    const HEADER: usize = 110;
    let mut at: usize = 0;
    loop {
        let header = data.get(at..at.checked_add(HEADER)?)?;
        if !matches!(&header[..6], b"070701" | b"070702") {
            return None;
        }
        let field = |index: usize| {
            let text = std::str::from_utf8(&header[6 + 8 * index..14 + 8 * index]).ok()?;
            usize::from_str_radix(text, 16).ok()
        };
        let (file_size, name_size) = (field(6)?, field(11)?);
        let name_at = at + HEADER;
        let name = data.get(name_at..name_at.checked_add(name_size)?)?;
        let body = (name_at + name.len()).next_multiple_of(4);
        at = body.checked_add(file_size)?.checked_next_multiple_of(4)?;
        if name.starts_with(b"TRAILER!!!\0") {
            return Some(at.min(data.len()));
        }
    }
}

#[cfg(test)]
#[path = "initrd_test.rs"]
mod tests;
