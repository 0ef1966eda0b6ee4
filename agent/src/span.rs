//! One span of a disk in memory: holes and what nothing uses skipped, zeros told from data.

use std::ops::Range;

use relevo_wire::index::SPAN;

use crate::disk::{Disk, DiskError, PageBuffer};
use crate::used::UsedMap;

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
    /// Bytes that were read: holes and what nothing uses are not among them.
    pub read: u64,
    /// Tells which bytes were read from other choices of bytes.
    pub shape: u64,
    /// What it holds.
    pub content: Content<'a>,
}

impl Span<'_> {
    /// All its bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        match self.content {
            Content::Zero => vec![0; self.length as usize],
            Content::Data(bytes) => bytes.to_vec(),
        }
    }
}

/// Number of spans of a disk of `size` bytes.
pub fn count(size: u64) -> u64 {
    size.div_ceil(SPAN)
}

/// Reads spans of one disk into one buffer that it keeps.
#[derive(Default)]
pub struct SpanReader {
    buffer: PageBuffer,
    /// Runs in use of the span at hand.
    runs: Vec<(u64, u64)>,
    /// The run of data found last.
    run: Range<u64>,
}

impl SpanReader {
    /// Reads what of span `number` is in use; the rest of it is zeros, and so is what cannot be
    /// read.
    pub fn read(
        &mut self,
        disk: &Disk,
        used: &UsedMap,
        number: u64,
    ) -> Result<Span<'_>, DiskError> {
        let (start, end) = bounds(disk, number);
        let length = end.saturating_sub(start);
        let (mut at, mut read, mut shape) = (start, 0, blake3::Hasher::new());
        let mut runs = std::mem::take(&mut self.runs);
        runs.clear();
        while let Some((from, to)) = self.next_run(disk, used, at, end)? {
            read += to - from;
            add_run(&mut shape, from, to);
            runs.push((from, to));
            at = to;
        }
        self.runs = runs;
        let mut content = Content::Zero;
        if read > 0 {
            // Only a span with data costs memory that is touched.
            let bytes = self.buffer.of(length as usize);
            disk.read_runs(start, &self.runs, bytes)?;
            if !is_zero(bytes) {
                content = Content::Data(bytes);
            }
        }
        Ok(Span {
            number,
            length,
            read,
            shape: first_word(&shape.finalize()),
            content,
        })
    }

    /// The shape that span `number` would have if it was read now.
    pub fn shape(&mut self, disk: &Disk, used: &UsedMap, number: u64) -> Result<u64, DiskError> {
        let (mut at, end) = bounds(disk, number);
        let mut shape = blake3::Hasher::new();
        while let Some((from, to)) = self.next_run(disk, used, at, end)? {
            add_run(&mut shape, from, to);
            at = to;
        }
        Ok(first_word(&shape.finalize()))
    }

    /// The next run within `at..end` that is in use and no hole.
    fn next_run(
        &mut self,
        disk: &Disk,
        used: &UsedMap,
        mut at: u64,
        end: u64,
    ) -> Result<Option<(u64, u64)>, DiskError> {
        while let Some((from, to)) = used.next_used(at, end) {
            let Some((start, stop)) = self.next_data(disk, from, end)? else {
                break;
            };
            if start < to {
                return Ok(Some((start, stop.min(to))));
            }
            at = start;
        }
        Ok(None)
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

/// Where a span begins and ends.
fn bounds(disk: &Disk, number: u64) -> (u64, u64) {
    let start = number * SPAN;
    (start, (start + SPAN).min(disk.size()))
}

fn add_run(shape: &mut blake3::Hasher, from: u64, to: u64) {
    shape.update(&from.to_le_bytes()).update(&to.to_le_bytes());
}

fn first_word(hash: &blake3::Hash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
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
    use crate::used::map::FreeRuns;

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
        let (mut reader, all) = (SpanReader::default(), UsedMap::default());
        assert_eq!(reader.read(&disk, &all, 0).unwrap().read, SPAN);
        let second = reader.read(&disk, &all, 1).unwrap();
        assert!(second.read < SPAN, "the hole was read");
        let Content::Data(bytes) = second.content else {
            panic!("not data")
        };
        assert!(is_zero(&bytes[..65536]) && is_zero(&bytes[65536 + 4096..]));
        let last = reader.read(&disk, &all, 3).unwrap();
        assert!(matches!(last.content, Content::Zero));
        assert_eq!((last.length, last.read), (100, 0));
    }

    /// Guards: what nothing uses is neither read nor shown, and the shape tells of it, read or
    /// not.
    #[test]
    fn free_runs_are_zeros_and_change_the_shape() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        std::fs::write(&path, vec![7; 2 * SPAN as usize]).unwrap();
        let disk = Disk::open(&path.into()).unwrap();
        let mut free = FreeRuns::default();
        for (start, end) in [(1000, 5000), (9000, 9001), (SPAN - 10, SPAN + 10)] {
            free.push(start, end);
        }
        let (some, all) = (UsedMap::from(free), UsedMap::default());
        let mut reader = SpanReader::default();
        let whole = reader.read(&disk, &all, 0).unwrap().shape;
        let span = reader.read(&disk, &some, 0).unwrap();
        let (read, shape) = (span.read, span.shape);
        let Content::Data(bytes) = span.content else {
            panic!("not data")
        };
        let zeros = |(at, byte): (usize, &u8)| (*byte == 0).then_some(at as u64);
        let zeros: Vec<_> = bytes.iter().enumerate().filter_map(zeros).collect();
        let expected: Vec<_> = (1000..5000).chain([9000]).chain(SPAN - 10..SPAN).collect();
        assert_eq!(zeros, expected);
        assert_eq!(read, SPAN - expected.len() as u64);
        assert_ne!(shape, whole);
        assert_eq!(reader.shape(&disk, &some, 0).unwrap(), shape);
        assert_eq!(reader.shape(&disk, &all, 0).unwrap(), whole);
        assert_eq!(reader.read(&disk, &some, 1).unwrap().read, SPAN - 10);
    }
}
