//! Ways to cut a disk into chunks.

use std::ops::Range;

use fastcdc::v2020::{FastCDC, Normalization};
use relevo_wire::chunker;

use super::disk::PIECE;

/// Bytes of a block of nearly every file system.
const BLOCK: usize = 4096;

/// A way to cut.
#[derive(Clone, Copy)]
pub enum Scheme {
    /// What the agent does.
    Ours,
    /// Pieces of one size, at multiples of it.
    Fixed(usize),
    /// FastCDC of an average, from a quarter to four times of it, restarted at each span.
    Content(usize),
    /// The same with stronger normalization: sizes nearer to the average.
    Even(usize),
    /// The same without spans.
    Unbound(usize),
    /// Cut by content as FastCDC does, but at multiples of 4 KiB only: by a hash of the block
    /// before the cut.
    Blocks(usize),
}

impl Scheme {
    /// All that are measured.
    pub fn all() -> Vec<Self> {
        let kib = |n: usize| n << 10;
        let fixed = [4, 16, 64, 256, 1024, 4096].map(|n| Self::Fixed(kib(n)));
        let content = [16, 32, 64, 128, 256, 512, 1024].map(|n| Self::Content(kib(n)));
        let others = [
            Self::Even(kib(64)),
            Self::Unbound(kib(64)),
            Self::Unbound(kib(1024)),
            Self::Blocks(kib(16)),
            Self::Blocks(kib(32)),
            Self::Blocks(kib(64)),
            Self::Blocks(kib(128)),
        ];
        let ours = [Self::Ours];
        [&ours[..], &fixed, &content, &others].concat()
    }

    /// How it is called in figures.
    pub fn name(self) -> String {
        match self {
            Self::Ours => "ours".into(),
            Self::Fixed(size) => format!("fixed-{}K", size >> 10),
            Self::Content(average) => format!("cdc-{}K", average >> 10),
            Self::Even(average) => format!("cdc-{}K-even", average >> 10),
            Self::Unbound(average) => format!("cdc-{}K-unbound", average >> 10),
            Self::Blocks(average) => format!("blocks-{}K", average >> 10),
        }
    }

    /// Bytes of a disk that are cut by themselves.
    pub fn span(self) -> usize {
        match self {
            Self::Unbound(_) => 64 * PIECE,
            _ => PIECE,
        }
    }

    /// The chunks of a span, in order and without gaps.
    pub fn cut(self, span: &[u8]) -> Vec<Range<usize>> {
        let gear = |average, level| {
            let cut = FastCDC::with_level(span, average / 4, average, average * 4, level);
            cut.map(|c| c.offset..c.offset + c.length).collect()
        };
        match self {
            Self::Ours => chunker::cut(span).collect(),
            Self::Fixed(size) => (0..span.len())
                .step_by(size)
                .map(|at| at..(at + size).min(span.len()))
                .collect(),
            Self::Content(average) | Self::Unbound(average) => gear(average, Normalization::Level1),
            Self::Even(average) => gear(average, Normalization::Level3),
            Self::Blocks(average) => blocks(span, average),
        }
    }
}

fn blocks(span: &[u8], average: usize) -> Vec<Range<usize>> {
    let (least, most) = (average / 4, average * 4);
    // As FastCDC's first level: twice as strict before the average, half as strict behind it.
    let blocks = (average / BLOCK) as u32;
    let (strict, loose) = (u32::MAX / (blocks * 2), u32::MAX / blocks * 2);
    let (mut cuts, mut start) = (Vec::new(), 0);
    for (number, block) in span.chunks(BLOCK).enumerate() {
        let end = number * BLOCK + block.len();
        let length = end - start;
        if length < least {
            continue;
        }
        let limit = if length < average { strict } else { loose };
        if length >= most || fingerprint(block) < limit {
            cuts.push(start..end);
            start = end;
        }
    }
    if start < span.len() {
        cuts.push(start..span.len());
    }
    cuts
}

fn fingerprint(block: &[u8]) -> u32 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut lanes = [ODD; 8];
    for words in block.chunks_exact(64) {
        for (lane, word) in lanes.iter_mut().zip(words.chunks_exact(8)) {
            let word = word.try_into().map_or(0, u64::from_le_bytes);
            *lane = (lane.rotate_left(23) ^ word).wrapping_mul(ODD);
        }
    }
    let all = lanes.iter().fold(0, |all: u64, lane| {
        (all.rotate_left(29) ^ lane).wrapping_mul(ODD)
    });
    (all >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the comparison: every way cuts all of a span, and none cuts what another does not
    /// have to store.
    #[test]
    fn chunks_are_the_span() {
        let mut state = 1u64;
        let span: Vec<u8> = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .take(PIECE - 77)
        .collect();
        for scheme in Scheme::all() {
            let mut at = 0;
            for chunk in scheme.cut(&span) {
                assert_eq!(chunk.start, at, "{}", scheme.name());
                assert!(chunk.end > at, "{}", scheme.name());
                at = chunk.end;
            }
            assert_eq!(at, span.len(), "{}", scheme.name());
        }
    }

    /// Guards against averages that are another's: half or double would still look plausible.
    #[test]
    fn blocks_are_as_long_on_average_as_said() {
        let mut state = 7u64;
        let data: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .take(16 * PIECE)
        .collect();
        let chunks = blocks(&data, 64 << 10).len();
        let average = data.len() / chunks;
        assert!((45 << 10..90 << 10).contains(&average), "{average}");
    }
}
