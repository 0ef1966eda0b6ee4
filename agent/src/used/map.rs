//! Which bytes of a disk are in use, as sorted runs of those that are not.

/// Most runs that are kept: 8 MiB.
const MOST: usize = 1 << 19;

/// Runs of bytes that are free, as they are found. When there are too many, the short ones are
/// forgotten: what is not named free is read.
#[derive(Clone, Debug, Default)]
pub struct FreeRuns {
    runs: Vec<(u64, u64)>,
    /// Runs shorter than this are forgotten.
    grain: u64,
}

impl FreeRuns {
    /// Bytes from `start` to `end` are free.
    pub fn push(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        if let Some(last) = self.runs.last_mut()
            && last.1 == start
        {
            last.1 = end;
            return;
        }
        // The run before is finished only now.
        let grain = self.grain;
        self.runs.pop_if(|last| last.1 - last.0 < grain);
        if self.runs.len() >= MOST {
            self.thin();
        }
        self.runs.push((start, end));
    }

    fn thin(&mut self) {
        self.sort();
        while self.runs.len() > MOST / 2 {
            self.grain = (self.grain * 2).max(8192);
            let grain = self.grain;
            self.runs.retain(|run| run.1 - run.0 >= grain);
        }
    }

    fn sort(&mut self) {
        coalesce(&mut self.runs);
    }

    /// Without the runs of `used`.
    pub fn except(mut self, mut used: Vec<(u64, u64)>) -> Self {
        self.sort();
        coalesce(&mut used);
        let mut left = Self {
            runs: Vec::new(),
            grain: self.grain,
        };
        let mut next = 0;
        for (start, end) in self.runs {
            let mut at = start;
            while next < used.len() && used[next].1 <= start {
                next += 1;
            }
            for used in &used[next..] {
                if used.0 >= end {
                    break;
                }
                left.push(at, used.0.min(end));
                at = at.max(used.1);
            }
            left.push(at, end);
        }
        left
    }

    /// The runs, as they came.
    pub fn runs(&self) -> &[(u64, u64)] {
        &self.runs
    }

    /// Bytes in them.
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.1 - run.0).sum()
    }
}

/// Sorts runs and joins those that touch or overlap.
pub fn coalesce(runs: &mut Vec<(u64, u64)>) {
    runs.sort_unstable();
    runs.dedup_by(|next, last| {
        let joined = next.0 <= last.1;
        if joined {
            last.1 = last.1.max(next.1);
        }
        joined
    });
}

/// Which bytes of a disk are in use. Everything, unless it is known to be free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsedMap {
    /// Free runs, sorted, with used bytes between them.
    free: Vec<(u64, u64)>,
}

impl From<FreeRuns> for UsedMap {
    fn from(mut free: FreeRuns) -> Self {
        free.sort();
        Self { free: free.runs }
    }
}

impl UsedMap {
    /// The first run at or after `from` that is in use: where it begins, which is before `end`,
    /// and where it ends, at most at `end`.
    pub fn next_used(&self, from: u64, end: u64) -> Option<(u64, u64)> {
        let next = self.free.partition_point(|run| run.1 <= from);
        let (start, next) = match self.free.get(next) {
            Some(run) if run.0 <= from => (run.1, next + 1),
            _ => (from, next),
        };
        let stop = self.free.get(next).map_or(end, |run| run.0.min(end));
        (start < end).then_some((start, stop))
    }

    /// Bytes that are not in use.
    pub fn free_bytes(&self) -> u64 {
        self.free.iter().map(|run| run.1 - run.0).sum()
    }

    /// Free runs, sorted.
    pub fn free_runs(&self) -> &[(u64, u64)] {
        &self.free
    }

    /// In use in either of both.
    pub fn union(&self, other: &Self) -> Self {
        let (mut free, mut mine, mut theirs) = (Vec::new(), 0, 0);
        while let (Some(a), Some(b)) = (self.free.get(mine), other.free.get(theirs)) {
            let (start, end) = (a.0.max(b.0), a.1.min(b.1));
            if start < end {
                free.push((start, end));
            }
            if a.1 <= b.1 {
                mine += 1;
            } else {
                theirs += 1;
            }
        }
        Self { free }
    }

    /// These runs of bytes in use too.
    pub fn with_used(&self, runs: Vec<(u64, u64)>) -> Self {
        let free = FreeRuns {
            runs: self.free.clone(),
            grain: 0,
        };
        Self {
            free: free.except(runs).runs,
        }
    }

    /// Runs that are in use now and were free in `earlier`, in order.
    pub fn used_since(&self, earlier: &Self) -> Vec<(u64, u64)> {
        let was_free = FreeRuns {
            runs: earlier.free.clone(),
            grain: 0,
        };
        was_free.except(self.free.clone()).runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(bits: &[bool]) -> UsedMap {
        let mut free = FreeRuns::default();
        for (at, _) in (0..).zip(bits).filter(|(_, used)| !**used) {
            free.push(at, at + 1);
        }
        free.into()
    }

    fn bits(map: &UsedMap, length: usize) -> Vec<bool> {
        let mut bits = vec![false; length];
        let mut at = 0;
        while let Some((from, to)) = map.next_used(at, length as u64) {
            assert!(from >= at && to > from);
            bits[from as usize..to as usize].fill(true);
            at = to;
        }
        bits
    }

    proptest! {
        /// Guards the arithmetic of runs against that of single bytes.
        #[test]
        fn runs_are_as_bytes(both in proptest::collection::vec(any::<(bool, bool)>(), 1..200)) {
            let (a, b): (Vec<_>, Vec<_>) = both.into_iter().unzip();
            let (one, two) = (map(&a), map(&b));
            prop_assert_eq!(bits(&one, a.len()), a.clone());
            let either: Vec<_> = a.iter().zip(&b).map(|(a, b)| *a || *b).collect();
            prop_assert_eq!(bits(&one.union(&two), a.len()), either);
            let since: Vec<_> = (0..).zip(a.iter().zip(&b))
                .filter(|(_, (a, b))| !**a && **b).map(|(at, _)| at).collect();
            let found: Vec<_> = two.used_since(&one).into_iter().flat_map(|(a, b)| a..b).collect();
            prop_assert_eq!(found, since);
        }
    }

    /// Guards memory: a disk with every other block free has more runs than are kept, and what is
    /// forgotten is read.
    #[test]
    fn too_many_runs_forget_the_short_ones() {
        let mut free = FreeRuns::default();
        for number in 0..3 * MOST as u64 {
            let length = if number % 1000 == 0 { 1 << 20 } else { 4096 };
            let start = number << 21;
            free.push(start, start + length);
            assert!(free.runs.len() <= MOST);
        }
        let map = UsedMap::from(free);
        let long = 3 * MOST / 1000;
        assert!(map.free.len() >= long, "the long ones are kept");
        assert_eq!(map.next_used(0, u64::MAX), Some((1 << 20, 1000 << 21)));
    }
}
