//! What must hold whenever the vault is up: what it promised, no more and no less.

use std::collections::HashSet;
use std::sync::Arc;

use relevo_vault::ledger::Finding;
use relevo_vault::ledger::open_pack_header;
use relevo_vault::record::Record;
use relevo_vault::scan::scan;
use relevo_vault::volume::PackId;
use relevo_wire::{ChunkId, PointId, VaultId};

use crate::catalogue::CatalogueFate;
use crate::promises::State;
use crate::site::{Loss, Site};
use crate::world::World;

/// Where the entries of a pack begin.
const FIRST_ENTRY: u64 = relevo_vault::pack::FIRST_ENTRY;
/// What a disk fails to read at once.
const SECTOR: u64 = 512;

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
    fn excuses(&self, id: ChunkId) -> bool {
        let promises = self.promises();
        promises.hit_more || promises.hit_chunks.contains(&id)
    }

    /// Damages a few bytes of a pack, and notes what stood there.
    pub fn rot(&self, vault: VaultId) {
        let disk = &self.machine.disk;
        let files = disk.files();
        let before: Vec<Vec<u8>> = files
            .iter()
            .map(|(file, _)| disk.content(*file).unwrap_or_default())
            .collect();
        let lost = self.once_in(3);
        let (file, range) = match lost {
            true => {
                let (file, length) = files[self.roll(files.len() as u64) as usize];
                let from = self.roll(length) / SECTOR * SECTOR;
                let range = from..(from + SECTOR).min(length);
                disk.lose(file, range.clone());
                (file, range)
            }
            false => match disk.flip_bit() {
                Some((file, at)) => (file, at..at + 1),
                None => return,
            },
        };
        let place = files.iter().position(|(id, _)| *id == file);
        if let (Some(place), Some(pack)) = (place, file.pack()) {
            self.note_hits(vault, pack, &before[place], range.clone());
        }
        self.promises().damaged = true;
        let what = if lost { "cannot be read" } else { "changed" };
        self.note(format_args!(
            "rot: bytes {range:?} of {:?} {} {what}",
            file.kind, file.number
        ));
    }

    /// Which entries of a pack these bytes touch.
    fn note_hits(&self, vault: VaultId, pack: PackId, bytes: &[u8], range: std::ops::Range<u64>) {
        let mut promises = self.promises();
        if range.start < FIRST_ENTRY || bytes.len() as u64 <= FIRST_ENTRY {
            // Its header stands there twice; a second hit may cost the pack.
            promises.hit_more |= promises.damaged;
        }
        let header = open_pack_header(&*self.machine.disk, vault, pack);
        let Ok(Ok(header)) = header else {
            promises.hit_more = true;
            return;
        };
        let body = bytes::Bytes::copy_from_slice(&bytes[(FIRST_ENTRY as usize).min(bytes.len())..]);
        for entry in scan(&body, FIRST_ENTRY, &header.salt).entries {
            let end = relevo_vault::pack::entry_size(entry.length as usize) + entry.offset;
            if entry.offset >= range.end || range.start >= end {
                continue;
            }
            match entry.record {
                Some(Record::Chunk(chunk)) => drop(promises.hit_chunks.insert(chunk.id())),
                Some(Record::Point(point)) => {
                    let id = point.manifest.public().unwrap().point;
                    promises.hit_points.insert(id);
                }
                _ => promises.hit_more = true,
            }
        }
    }
}
