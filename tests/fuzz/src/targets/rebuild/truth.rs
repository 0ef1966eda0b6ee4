//! What packs hold, read another way than the vault does.

use std::collections::{HashMap, HashSet};

use relevo_vault::pack::{FIRST_ENTRY, PackHeader};
use relevo_vault::record::Record;
use relevo_vault::scan::scan;
use relevo_wire::chunk::CheckedChunk;
use relevo_wire::index::NodeLinks;
use relevo_wire::{ChunkId, PointId, TenantId, VaultId};

use super::packs::Packs;

/// What the packs hold, read another way than the vault does.
#[derive(Default)]
pub struct Truth {
    /// Roots of each point; more than one when several claim its id.
    pub points: HashMap<(TenantId, PointId), Vec<Vec<ChunkId>>>,
    chunks: HashMap<(TenantId, ChunkId), CheckedChunk>,
}

impl Truth {
    /// Of these packs.
    pub fn of(packs: &Packs, vault: VaultId) -> Self {
        let mut truth = Self::default();
        for (pack, bytes) in packs {
            let fits = |header: &PackHeader| header.vault == vault && header.pack == *pack;
            let Some((header, _)) = PackHeader::decode(bytes).filter(|(h, _)| fits(h)) else {
                continue;
            };
            let Some(entries) = bytes.get(FIRST_ENTRY as usize..) else {
                continue;
            };
            let found = scan(&entries.to_vec().into(), FIRST_ENTRY, &header.salt);
            for record in found.entries.into_iter().filter_map(|entry| entry.record) {
                match record {
                    Record::Chunk(chunk) => {
                        truth.chunks.insert((pack.tenant, chunk.id()), chunk);
                    }
                    Record::Point(point) => {
                        if let Ok(public) = point.manifest.public() {
                            let roots = [public.roots, public.inventory].concat();
                            let known = truth.points.entry((pack.tenant, public.point));
                            known.or_default().push(roots);
                        }
                    }
                    _ => {}
                }
            }
        }
        truth
    }

    /// Of several points of one id any may count.
    pub fn is_whole(&self, (tenant, point): (TenantId, PointId)) -> bool {
        let roots = self.points.get(&(tenant, point));
        let whole = |roots: &Vec<ChunkId>| {
            let mut seen = HashSet::new();
            roots
                .iter()
                .all(|root| self.is_there(tenant, *root, 8, &mut seen))
        };
        roots.is_some_and(|roots| roots.iter().any(whole))
    }

    fn is_there(
        &self,
        tenant: TenantId,
        id: ChunkId,
        deep: u8,
        seen: &mut HashSet<ChunkId>,
    ) -> bool {
        let Some(chunk) = self.chunks.get(&(tenant, id)) else {
            return false;
        };
        if !NodeLinks::is_node(chunk) || !seen.insert(id) {
            return true;
        }
        let links = NodeLinks::parse(chunk);
        deep > 0
            && links.is_ok_and(|links| {
                links
                    .ids()
                    .all(|id| self.is_there(tenant, id, deep - 1, seen))
            })
    }
}
