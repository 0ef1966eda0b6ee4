//! What a disk's image lacks.

use minicbor::{Decode, Encode};

use crate::id::PointId;

/// Most ranges that are told apart of one disk. With more, the nearest are taken together.
pub const MAX_UNREADABLE: usize = 4096;

/// What is wrong with a disk's image. Absent when nothing is, and in manifests of version 1.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize,
)]
pub struct Faults {
    /// Where bytes that could not be read begin and end. They are zeros in the image. Ascending
    /// and apart.
    #[n(0)]
    pub unreadable: Vec<(u64, u64)>,
    /// What the image is, when the disk went away while it was read.
    #[n(1)]
    pub gone: Option<Gone>,
}

/// What an image is whose disk went away while it was read.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Gone {
    /// What had been read by then; the rest is among the bytes that could not be read.
    #[n(0)]
    Incomplete,
    /// The disk as it is in this earlier recovery point.
    #[n(1)]
    AsIn(#[n(0)] PointId),
}

impl Faults {
    /// Of what could not be read; none when that is nothing and the disk stayed. Keeps at most
    /// `most` ranges ([`MAX_UNREADABLE`] and 1 bound it): what lies between two that are taken
    /// together counts as unreadable too, which it may not be.
    pub fn new(mut unreadable: Vec<(u64, u64)>, gone: Option<Gone>, most: usize) -> Option<Self> {
        unreadable.retain(|(start, end)| start < end);
        unreadable.sort_unstable();
        let mut apart: Vec<(u64, u64)> = Vec::new();
        for (start, end) in unreadable {
            match apart.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => apart.push((start, end)),
            }
        }
        let unreadable = take_together(apart, most.clamp(1, MAX_UNREADABLE));
        (!unreadable.is_empty() || gone.is_some()).then_some(Self { unreadable, gone })
    }

    /// Bytes in the ranges that could not be read.
    pub fn unreadable_bytes(&self) -> u64 {
        let lengths = self.unreadable.iter();
        lengths.fold(0, |sum: u64, (start, end)| {
            sum.saturating_add(end.saturating_sub(*start))
        })
    }
}

/// Closes the narrowest gaps between ranges that are sorted and apart until `most` are left.
fn take_together(ranges: Vec<(u64, u64)>, most: usize) -> Vec<(u64, u64)> {
    let Some(surplus) = ranges.len().checked_sub(most).filter(|more| *more > 0) else {
        return ranges;
    };
    let mut gaps: Vec<_> = (1..ranges.len())
        .map(|at| (ranges[at].0 - ranges[at - 1].1, at))
        .collect();
    gaps.sort_unstable();
    let closed: std::collections::HashSet<usize> =
        gaps[..surplus].iter().map(|(_, at)| *at).collect();
    let mut left: Vec<(u64, u64)> = Vec::with_capacity(most);
    for (at, range) in ranges.into_iter().enumerate() {
        match left.last_mut() {
            Some(last) if closed.contains(&at) => last.1 = range.1,
            _ => left.push(range),
        }
    }
    left
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Guards every byte that could not be read against being taken for zeros of the disk,
        /// and the manifest's size.
        #[test]
        fn every_unreadable_byte_stays_named_in_at_most_so_many_ranges(
            ranges in prop::collection::vec((0u64..2000, 0u64..40), 0..60),
            most in 1usize..20,
        ) {
            let given: Vec<_> = ranges.iter().map(|(at, length)| (*at, at + length)).collect();
            let named = |ranges: &[(u64, u64)], byte: u64| {
                ranges.iter().any(|(start, end)| (*start..*end).contains(&byte))
            };
            let Some(faults) = Faults::new(given.clone(), None, most) else {
                prop_assert!(given.iter().all(|(start, end)| start == end));
                return Ok(());
            };
            prop_assert!(faults.unreadable.len() <= most);
            prop_assert!(faults.unreadable.windows(2).all(|two| two[0].1 < two[1].0));
            for byte in 0..2100 {
                prop_assert!(!named(&given, byte) || named(&faults.unreadable, byte));
            }
            let unbounded = Faults::new(given.clone(), None, usize::MAX).unwrap();
            let counted = (0..2100).filter(|byte| named(&given, *byte)).count() as u64;
            prop_assert_eq!(unbounded.unreadable_bytes(), counted);
        }
    }

    /// Guards the gaps that are widest: they hold most of what was read.
    #[test]
    fn the_narrowest_gaps_are_closed_first() {
        let faults = Faults::new(vec![(0, 1), (100, 101), (103, 104), (300, 301)], None, 3);
        let expected = vec![(0, 1), (100, 104), (300, 301)];
        assert_eq!(faults.unwrap().unreadable, expected);
        let gone = Faults::new(vec![], Some(Gone::Incomplete), 1).unwrap();
        assert_eq!(gone.unreadable_bytes(), 0);
    }
}
