//! What must hold whenever the vault is up: what it promised, no more and no less.

use std::collections::HashSet;
use std::sync::Arc;

use relevo_vault::ledger::Finding;
use relevo_wire::{ChunkId, PointId};

use crate::catalogue::CatalogueFate;
use crate::promises::State;
use crate::site::{Loss, Site};
use crate::world::World;

impl World {
    /// Damage is reported when there is some, and only then. A catalogue that was lost cannot
    /// tell what was never acknowledged from what was damaged, and says so.
    pub fn judge(&self, findings: &[Finding], fate: CatalogueFate) {
        let excused =
            matches!(fate, CatalogueFate::Lost | CatalogueFate::Harmed) || self.promises().damaged;
        for finding in findings {
            // One too old to know of packs that were retired since is made anew.
            let excused =
                excused || fate == CatalogueFate::Aged && matches!(finding, Finding::Damaged(..));
            assert!(
                excused || !finding.is_damage(),
                "damage out of nothing: {finding}"
            );
        }
    }

    /// Every acknowledged point is listed and restores bit for bit; what is listed beside them
    /// was asked for, and is whole; what was deleted stays deleted. What damage took is named,
    /// and is no more than what it hit.
    pub fn check(self: &Arc<Self>, when: &str) {
        for (number, tenant) in self.tenants.iter().enumerate() {
            let mut site = Site::new(self, tenant);
            let mine = |at: &usize| self.servers[*at].tenant == number;
            let mine: Vec<usize> = (0..self.servers.len()).filter(mine).collect();
            let listed: HashSet<_> = site.servers().into_iter().map(|s| s.id).collect();
            for &at in &mine {
                let id = self.servers[at].id;
                let there = listed.contains(&id);
                assert!(
                    there || self.promises().hit_more,
                    "{when}: server {at} is lost"
                );
                if there {
                    let points = site.points(id);
                    self.check_server(&mut site, at, points.iter().map(|p| p.manifest.point), when);
                }
            }
            assert!(
                listed
                    .iter()
                    .all(|id| mine.iter().any(|at| self.servers[*at].id == *id)),
                "{when}: a tenant sees another's servers"
            );
        }
    }

    fn check_server(
        self: &Arc<Self>,
        site: &mut Site<'_>,
        at: usize,
        listed: impl Iterator<Item = PointId>,
        when: &str,
    ) {
        let listed: HashSet<PointId> = listed.collect();
        let promised: Vec<_> = {
            let promises = self.promises();
            let mine = promises.points.iter().filter(|(_, p)| p.server == at);
            mine.map(|(id, p)| (*id, p.clone())).collect()
        };
        for point in &listed {
            let known = promised.iter().any(|(id, _)| id == point);
            assert!(
                known,
                "{when}: server {at} has a point out of nothing: {point}"
            );
        }
        for (point, promise) in promised {
            let there = listed.contains(&point);
            let excused = {
                let promises = self.promises();
                promises.hit_points.contains(&point) || promises.hit_more
            };
            match promise.state {
                State::Acknowledged if !there && !excused => {
                    panic!("{when}: server {at} lost an acknowledged point: {point}")
                }
                State::Deleted if there && !excused => {
                    panic!("{when}: server {at} has a deleted point back: {point}")
                }
                _ if !there => continue,
                _ => {}
            }
            match site.compare(point, &promise.image) {
                Ok(()) => {}
                Err(Loss::Chunk(id)) if self.excuses(id) => {
                    self.note(format_args!(
                        "point {point} of server {at} lacks what was damaged"
                    ));
                }
                Err(loss) => panic!("{when}: point {point} of server {at} is not whole: {loss:?}"),
            }
        }
    }

    /// Whether a chunk may be gone.
    pub fn excuses(&self, id: ChunkId) -> bool {
        let promises = self.promises();
        promises.hit_more || promises.hit_chunks.contains(&id)
    }
}
