//! Where one chunk ends and the next begins.
//!
//! FastCDC (2020, level 1), 16 KiB / 64 KiB / 256 KiB, restarted at each span, so that spans
//! can be read and cut in parallel. Chunker number 1 in the format: cut points of another
//! version of the algorithm would still restore, but share nothing with older images.

use fastcdc::v2020::FastCDC;

use crate::chunk::MAX_CHUNK;

/// The number that a manifest records for this chunker.
pub const CHUNKER: u32 = 1;
const MIN: usize = 16 * 1024;
const AVERAGE: usize = 64 * 1024;

/// The chunks of a span as ranges of it, in order and without gaps.
pub fn cut(span: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    FastCDC::new(span, MIN, AVERAGE, MAX_CHUNK).map(|c| c.offset..c.offset + c.length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that are the same in every version of this test: a simple generator's.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .take(len)
        .collect()
    }

    /// Guards deduplication against images taken by earlier releases.
    #[test]
    fn cut_points_stay_where_they_were() {
        let data = noise(1 << 20);
        let ends: Vec<_> = cut(&data).map(|range| range.end).collect();
        assert_eq!(ends, GOLDEN);
    }

    const GOLDEN: &[usize] = &[
        85788, 191831, 360103, 462768, 555789, 629896, 697485, 767953, 793023, 911025, 977220,
        1048576,
    ];
}
