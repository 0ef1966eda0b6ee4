//! What structures are read from: a disk, a part of one, or a volume put together of parts.

use std::sync::Arc;

use super::whole::{Seen, Whole, demand};

/// A disk as the readers see it.
pub trait Source: Sync {
    /// Size in bytes.
    fn size(&self) -> u64;
    /// Logical sector size in bytes.
    fn sector(&self) -> u32;
    /// Reads exactly `buffer.len()` bytes, as they are on the disk now or were at the last
    /// [`forget`](Self::forget).
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Seen<()>;
    /// What is read from now on is read anew.
    fn forget(&self) {}
}

/// A run of addresses that structures fill, wherever its bytes are. Made bottom up, so that none
/// can contain itself.
pub enum Volume<'a> {
    /// A whole disk, and its number.
    Disk(&'a dyn Source, usize),
    /// A part of another volume.
    Part {
        /// Of which.
        of: Arc<Volume<'a>>,
        /// Its first byte there.
        start: u64,
        /// Its length.
        size: u64,
    },
    /// Segments that follow each other.
    Joined(Vec<Segment<'a>>),
}

/// A run of a joined volume, striped over its legs.
pub struct Segment<'a> {
    /// Length in bytes.
    pub length: u64,
    /// Bytes that lie on one leg before the next one's turn. The length is a multiple of the
    /// stripes of all legs.
    pub stripe: u64,
    /// Volumes, and where the segment begins on each.
    pub legs: Vec<(Arc<Volume<'a>>, u64)>,
}

impl Segment<'_> {
    /// How many of the segment's first `length` bytes are on leg `leg`.
    fn share(&self, leg: u64, length: u64) -> u64 {
        let round = self.stripe * self.legs.len() as u64;
        let rest = (length % round).saturating_sub(leg * self.stripe);
        length / round * self.stripe + rest.min(self.stripe)
    }
}

impl<'a> Volume<'a> {
    /// A part of a volume, when it lies within.
    pub fn part(of: &Arc<Self>, start: u64, size: u64) -> Seen<Arc<Self>> {
        let end = start.checked_add(size);
        demand(
            size > 0 && end.is_some_and(|end| end <= of.size()),
            "it does not lie within what it is in",
        )?;
        let of = of.clone();
        Ok(Arc::new(Self::Part { of, start, size }))
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Disk(source, _) => source.size(),
            Self::Part { size, .. } => *size,
            Self::Joined(segments) => segments.iter().map(|s| s.length).sum(),
        }
    }

    /// Logical sector size in bytes, of the first disk.
    pub fn sector(&self) -> u32 {
        match self {
            Self::Disk(source, _) => source.sector(),
            Self::Part { of, .. } => of.sector(),
            Self::Joined(segments) => segments
                .first()
                .and_then(|s| s.legs.first())
                .map_or(512, |(leg, _)| leg.sector()),
        }
    }

    /// What is read from now on is read anew.
    pub fn forget(&self) {
        match self {
            Self::Disk(source, _) => source.forget(),
            Self::Part { of, .. } => of.forget(),
            Self::Joined(segments) => {
                let legs = segments.iter().flat_map(|s| &s.legs);
                legs.for_each(|(leg, _)| leg.forget());
            }
        }
    }

    /// Reads exactly `buffer.len()` bytes.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Seen<()> {
        let end = offset.checked_add(buffer.len() as u64);
        demand(
            end.is_some_and(|end| end <= self.size()),
            "a structure points beyond its end",
        )?;
        match self {
            Self::Disk(source, _) => source.read_at(offset, buffer),
            Self::Part { of, start, .. } => of.read_at(start + offset, buffer),
            Self::Joined(segments) => {
                let (mut begin, mut done) = (0, 0);
                for segment in segments {
                    let end = begin + segment.length;
                    while done < buffer.len() && offset + (done as u64) < end {
                        let at = offset + done as u64 - begin;
                        let number = at / segment.stripe % segment.legs.len() as u64;
                        let room = (segment.stripe - at % segment.stripe).min(segment.length - at);
                        let length = room.min((buffer.len() - done) as u64) as usize;
                        let (leg, base) = &segment.legs[number as usize];
                        let place = base + segment.share(number, at);
                        leg.read_at(place, &mut buffer[done..done + length])?;
                        done += length;
                    }
                    begin = end;
                }
                Ok(())
            }
        }
    }

    /// `length` bytes from `offset`.
    pub fn bytes(&self, offset: u64, length: usize) -> Seen<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Tells where the bytes from `start` to `end` are: disks, and runs of each.
    pub fn locate(&self, start: u64, end: u64, tell: &mut dyn FnMut(usize, u64, u64)) {
        if start >= end {
            return;
        }
        match self {
            Self::Disk(_, number) => tell(*number, start, end),
            Self::Part {
                of, start: base, ..
            } => of.locate(base + start, base + end, tell),
            Self::Joined(segments) => {
                let mut begin = 0;
                for segment in segments {
                    let stop = begin + segment.length;
                    let (from, to) = (start.clamp(begin, stop), end.clamp(begin, stop));
                    for (number, (leg, base)) in (0..).zip(&segment.legs) {
                        let from = base + segment.share(number, from - begin);
                        let to = base + segment.share(number, to - begin);
                        leg.locate(from, to, tell);
                    }
                    begin = stop;
                }
            }
        }
    }
}

/// Whether no two of these runs `(start, end)` have a byte in common. Sorts them.
pub fn disjoint(runs: &mut [(u64, u64)]) -> bool {
    runs.sort_unstable();
    runs.windows(2).all(|pair| pair[0].1 <= pair[1].0)
}

impl From<crate::disk::DiskError> for Whole {
    fn from(error: crate::disk::DiskError) -> Self {
        Self::new(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::used::memory::Memory;

    /// Guards: where a byte is read from is where it is said to be, over stripes, segments and
    /// parts.
    #[test]
    fn every_byte_is_where_it_is_said_to_be() {
        let disks: Vec<_> = (0..2)
            .map(|n: u8| Memory::new((0..4096u32).map(|i| (i * 31) as u8 ^ n).collect()))
            .collect();
        let whole: Vec<_> = (0..)
            .zip(&disks)
            .map(|(number, disk)| Arc::new(Volume::Disk(disk, number)))
            .collect();
        let inner = Volume::part(&whole[1], 512, 2048).unwrap();
        let joined = Arc::new(Volume::Joined(vec![
            Segment {
                length: 100,
                stripe: 100,
                legs: vec![(whole[0].clone(), 7)],
            },
            Segment {
                length: 1200,
                stripe: 100,
                legs: vec![(inner.clone(), 0), (whole[0].clone(), 1000), (inner, 1000)],
            },
        ]));
        assert_eq!(joined.size(), 1300);
        let volume = Volume::part(&joined, 30, 1260).unwrap();
        let all = volume.bytes(0, 1260).unwrap();
        for at in 0..1260u64 {
            let mut places = Vec::new();
            volume.locate(at, at + 1, &mut |disk, from, to| {
                places.push((disk, from, to))
            });
            let [(disk, from, to)] = places[..] else {
                panic!("{places:?}")
            };
            assert_eq!(to, from + 1);
            let mut byte = [0];
            disks[disk].read_at(from, &mut byte).unwrap();
            assert_eq!(byte[0], all[at as usize], "byte {at}");
        }
        let mut length = 0;
        volume.locate(11, 1111, &mut |_, from, to| length += to - from);
        assert_eq!(length, 1100);
        assert!(volume.bytes(1259, 2).is_err());
        assert!(Volume::part(&volume, u64::MAX, 2).is_err());
    }
}
