//! A list of recovery points comes in pages.

use crate::id::ServerId;
use crate::message::{FULL_PAGE, PointCursor, PointEntry, Request};

/// Gathers the pages of a server's recovery points, newest first.
#[derive(Debug, Default)]
pub struct PointPages(Vec<PointEntry>);

impl PointPages {
    /// What to ask for next.
    pub fn request(&self, server: ServerId) -> Request {
        let after = self.0.last().map(PointCursor::behind);
        Request::ListPoints { server, after }
    }

    /// Takes what was answered; true when there may be more.
    pub fn take(&mut self, page: Vec<PointEntry>) -> bool {
        let first = |list: &[PointEntry]| list.first().map(PointCursor::behind);
        // A vault that knows no pages gives the first one again.
        if !self.0.is_empty() && first(&page) == first(&self.0) {
            return false;
        }
        let more = page.len() >= FULL_PAGE;
        self.0.extend(page);
        more
    }

    /// All that came.
    pub fn into_points(self) -> Vec<PointEntry> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::id::PointId;
    use crate::manifest::{PublicManifest, RunTotals};
    use crate::time::Timestamp;

    fn list(points: std::ops::Range<i64>) -> Vec<PointEntry> {
        let point = |taken: i64| PointEntry {
            manifest: PublicManifest {
                version: 1,
                server: ServerId::from_bytes([1; 16]),
                point: PointId::from_bytes([taken as u8; 16]),
                taken: Timestamp::from_millis(taken),
                roots: vec![],
                inventory: vec![],
                totals: RunTotals::default(),
            },
            committed: Timestamp::from_millis(taken),
            stored: 0,
            verified: None,
        };
        points.rev().map(point).collect()
    }

    /// Guards against lists that never end, or that lack their tail.
    #[test]
    fn pages_end_with_every_vault() {
        let server = ServerId::from_bytes([1; 16]);
        let all = list(0..40);
        let mut pages = PointPages::default();
        assert!(pages.take(all[..20].to_vec()));
        let after = Some(PointCursor::behind(&all[19]));
        assert_eq!(pages.request(server), Request::ListPoints { server, after });
        assert!(pages.take(all[20..].to_vec()));
        assert!(!pages.take(vec![]));
        assert_eq!(pages.into_points(), all);
        // One that knows no pages.
        let mut pages = PointPages::default();
        while pages.take(all.clone()) {}
        assert_eq!(pages.into_points(), all);
    }
}
