//! Which spans are read, and their leaves back in the disk's order.

use std::collections::BTreeMap;
use std::sync::Arc;

use relevo_wire::index::SPAN;

use super::{PipelineError, Run};
use crate::cache::Fact;
use crate::leaves::Leaves;
use crate::seal::{SealedSpan, UplinkGone};

/// Numbers of spans to read.
pub(super) enum Spans {
    /// So many from the first on.
    All(u64),
    These(Vec<u64>),
}

impl Spans {
    /// Those that have bytes of these runs, which are sorted.
    pub(super) fn these(runs: &[(u64, u64)]) -> Self {
        let mut numbers = Vec::new();
        for (start, end) in runs {
            let first = numbers.last().map_or(0, |last| last + 1);
            numbers.extend((start / SPAN).max(first)..end.div_ceil(SPAN));
        }
        Self::These(numbers)
    }

    pub(super) fn count(&self) -> u64 {
        match self {
            Self::All(count) => *count,
            Self::These(numbers) => numbers.len() as u64,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.count()).map(|at| self.number(at))
    }

    pub(super) fn number(&self, at: u64) -> u64 {
        match self {
            Self::All(_) => at,
            Self::These(numbers) => numbers[at as usize],
        }
    }
}

/// Puts spans in the disk's order, and keeps their leaves.
pub(super) struct InOrder<'a> {
    run: &'a Run,
    disk: &'a Arc<str>,
    spans: &'a Spans,
    leaves: &'a Leaves,
    waiting: BTreeMap<u64, SealedSpan>,
    /// The first span that has not come.
    pub(super) head: u64,
}

impl<'a> InOrder<'a> {
    pub(super) fn new(
        run: &'a Run,
        name: &'a Arc<str>,
        spans: &'a Spans,
        leaves: &'a Leaves,
    ) -> Self {
        Self {
            run,
            disk: name,
            spans,
            leaves,
            waiting: BTreeMap::new(),
            head: 0,
        }
    }

    pub(super) fn push(&mut self, at: u64, sealed: SealedSpan) -> Result<(), PipelineError> {
        self.waiting.insert(at, sealed);
        while let Some(sealed) = self.waiting.remove(&self.head) {
            let span = self.spans.number(self.head);
            self.run.keep(self.disk, span, &sealed, self.leaves)?;
            self.head += 1;
        }
        Ok(())
    }
}

impl Run {
    /// Keeps a span's leaf, and tells the cache what to remember of it.
    pub(super) fn keep(
        &self,
        disk: &Arc<str>,
        span: u64,
        sealed: &SealedSpan,
        leaves: &Leaves,
    ) -> Result<(), PipelineError> {
        if let Some(known) = sealed.remember {
            let disk = disk.clone();
            self.facts
                .blocking_send(Fact::Span { disk, span, known })
                .map_err(|_| UplinkGone)?;
        }
        Ok(leaves.set(span, sealed.leaf)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_runs_come_once_and_in_order() {
        let runs = [
            (10, 20),
            (30, SPAN + 1),
            (2 * SPAN, 3 * SPAN),
            (9 * SPAN - 1, 9 * SPAN),
        ];
        let Spans::These(numbers) = Spans::these(&runs) else {
            panic!("all")
        };
        assert_eq!(numbers, [0, 1, 2, 8]);
    }
}
