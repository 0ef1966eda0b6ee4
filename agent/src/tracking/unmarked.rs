//! Changes that nothing told of: what a proof finds, and what an administrator hears of it.

use std::fmt;
use std::ops::Range;

use crate::disk::Disk;

/// Spans that had changed without being marked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unmarked {
    /// How many.
    pub count: u64,
    /// Where the first ones lie on the disk, in bytes; those that adjoin are one.
    pub ranges: Vec<Range<u64>>,
}

impl Unmarked {
    /// So many ranges are named.
    const NAMED: usize = 16;

    pub(super) fn tell(&self, disk: &Disk, what: &str) {
        tracing::error!(
            "{}: {what}: this image is right, since all was read; from now on all is read, until \
             'relevo-agent tracking reset'. Please report this with the kernel's release",
            disk.path().display()
        );
    }

    pub(super) fn add(&mut self, span: Range<u64>) {
        self.count += 1;
        if let Some(last) = self.ranges.last_mut()
            && last.end == span.start
        {
            last.end = span.end;
        } else if self.ranges.len() < Self::NAMED {
            self.ranges.push(span);
        }
    }
}

impl fmt::Display for Unmarked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} spans", self.count)?;
        for (at, range) in self.ranges.iter().enumerate() {
            let before = if at == 0 { " (bytes " } else { ", " };
            write!(f, "{before}{}..{}", range.start, range.end)?;
        }
        match self.ranges.len() {
            0 => Ok(()),
            Self::NAMED => f.write_str(" and maybe more)"),
            _ => f.write_str(")"),
        }
    }
}
