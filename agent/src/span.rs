//! One span of a disk in memory: holes skipped, zeros told from data.

use std::ops::Range;

use relevo_wire::index::SPAN;

use crate::disk::{Disk, DiskError};

/// What a span holds.
pub enum Content<'a> {
    /// Zeros and holes only.
    Zero,
    /// Bytes, some of which are not zero.
    Data(&'a [u8]),
}

/// A span as read.
pub struct Span<'a> {
    /// Its number on the disk.
    pub number: u64,
    /// Its length in bytes: [`SPAN`], or less at the disk's end.
    pub length: u64,
    /// Bytes that were read, holes not among them.
    pub read: u64,
    /// What it holds.
    pub content: Content<'a>,
}

/// Number of spans of a disk of `size` bytes.
pub fn count(size: u64) -> u64 {
    size.div_ceil(SPAN)
}

/// Reads spans of one disk into one buffer that it keeps.
#[derive(Default)]
pub struct SpanReader {
    buffer: Vec<u8>,
    /// The run of data found last.
    run: Range<u64>,
}

impl SpanReader {
    /// Reads span `number`.
    pub fn read(&mut self, disk: &Disk, number: u64) -> Result<Span<'_>, DiskError> {
        let start = number * SPAN;
        let end = (start + SPAN).min(disk.size());
        let length = end.saturating_sub(start);
        let (mut at, mut read) = (start, 0);
        while let Some((from, to)) = self.next_data(disk, at, end)? {
            // Only a span with data costs memory that is touched.
            if self.buffer.len() < length as usize {
                self.buffer.resize(length as usize, 0);
            }
            self.buffer[(at - start) as usize..(from - start) as usize].fill(0);
            let bytes = &mut self.buffer[(from - start) as usize..(to - start) as usize];
            disk.read_aside(from, bytes)?;
            read += to - from;
            at = to;
        }
        let content = if read == 0 {
            Content::Zero
        } else {
            self.buffer[(at - start) as usize..length as usize].fill(0);
            let bytes = &self.buffer[..length as usize];
            if is_zero(bytes) {
                Content::Zero
            } else {
                Content::Data(bytes)
            }
        };
        Ok(Span {
            number,
            length,
            read,
            content,
        })
    }

    /// The next run of data within `at..end`.
    fn next_data(
        &mut self,
        disk: &Disk,
        at: u64,
        end: u64,
    ) -> Result<Option<(u64, u64)>, DiskError> {
        if !self.run.contains(&at) {
            match disk.next_data(at, end)? {
                Some((from, to)) => self.run = from..to,
                None => return Ok(None),
            }
        }
        let from = self.run.start.max(at);
        Ok((from < end).then(|| (from, self.run.end.min(end))))
    }
}

/// Whether all bytes are zero. Blocks without an early exit inside are compared by the
/// processor's widest registers.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(1024)
        .all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_single_byte_anywhere_is_not_zero() {
        let mut bytes = vec![0; 5000];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for at in [0, 1023, 1024, 4999] {
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "byte {at}");
            bytes[at] = 0;
        }
    }

    /// Guards against stale bytes of the last span showing through the holes of the next.
    #[test]
    fn holes_are_zeros_whatever_the_buffer_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        let file = std::fs::File::create(&path).unwrap();
        file.write_all_at(&vec![7; SPAN as usize], 0).unwrap();
        file.write_all_at(&[9; 4096], SPAN + 65536).unwrap();
        file.set_len(3 * SPAN + 100).unwrap();
        let disk = Disk::open(&path.into()).unwrap();
        let mut reader = SpanReader::default();
        assert_eq!(reader.read(&disk, 0).unwrap().read, SPAN);
        let second = reader.read(&disk, 1).unwrap();
        assert!(second.read < SPAN, "the hole was read");
        let Content::Data(bytes) = second.content else {
            panic!("not data")
        };
        assert!(is_zero(&bytes[..65536]) && is_zero(&bytes[65536 + 4096..]));
        let last = reader.read(&disk, 3).unwrap();
        assert!(matches!(last.content, Content::Zero));
        assert_eq!((last.length, last.read), (100, 0));
    }
}
