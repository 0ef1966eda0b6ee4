//! The recovery site: lists, opens and compares, with the keys, over an undisturbed line.

use std::collections::HashMap;
use std::sync::Arc;

use relevo_vault::ingest::Peer;
use relevo_wire::chunk::CheckedChunk;
use relevo_wire::frame::{self, FrameDecoder};
use relevo_wire::index::{ChunkRef, Extent, FANOUT, Node, SPAN, depth};
use relevo_wire::message::{PointEntry, Request, Response, ServerEntry};
use relevo_wire::{ChunkId, PointId, ServerId};

use crate::image::Image;
use crate::network::response;
use crate::world::{Tenant, World};

/// Why a recovery point did not come back.
#[derive(Debug, PartialEq, Eq)]
pub enum Loss {
    /// This chunk is not there, or not what it was: the site says so.
    Chunk(ChunkId),
    /// The vault refuses, in words.
    Refused(String),
}

/// A site that asks for one tenant. Chunks that it has read it keeps, checked and in memory.
pub struct Site<'a> {
    world: &'a Arc<World>,
    tenant: &'a Tenant,
    seen: HashMap<ChunkId, CheckedChunk>,
}

impl<'a> Site<'a> {
    /// A site with the tenant's opening keys.
    pub fn new(world: &'a Arc<World>, tenant: &'a Tenant) -> Self {
        Self {
            world,
            tenant,
            seen: HashMap::new(),
        }
    }

    fn ask(&self, request: &Request) -> Vec<u8> {
        let peer = Peer::Recovery(self.tenant.keys.sealing.tenant, self.tenant.site);
        let bytes = frame::encode(request).unwrap();
        let answer = self.world.machine.serve(peer, &bytes, true, 1);
        answer.unwrap_or_else(|| panic!("nobody answers the recovery site"))
    }

    fn answer(&self, request: &Request) -> Result<Response, Loss> {
        response(&self.ask(request)).map_err(|e| Loss::Refused(e.to_string()))
    }

    /// The tenant's servers.
    pub fn servers(&self) -> Vec<ServerEntry> {
        match self.answer(&Request::ListServers) {
            Ok(Response::Servers(servers)) => servers,
            other => panic!("servers cannot be listed: {other:?}"),
        }
    }

    /// A server's recovery points.
    pub fn points(&self, server: ServerId) -> Vec<PointEntry> {
        match self.answer(&Request::ListPoints {
            server,
            after: None,
        }) {
            Ok(Response::Points(points)) => points,
            other => panic!("points cannot be listed: {other:?}"),
        }
    }

    /// Restores a point and compares it with what was imaged.
    ///
    /// # Panics
    /// When bytes come back that are not those of the disk: no damage excuses that.
    pub fn compare(&mut self, point: PointId, images: &[Image]) -> Result<(), Loss> {
        let manifest = match self.answer(&Request::GetManifest { point })? {
            Response::Manifest(manifest) => manifest,
            other => panic!("a manifest is answered with {other:?}"),
        };
        let (public, body) = manifest.open(&self.tenant.keys).unwrap();
        assert_eq!(public.point, point);
        assert_eq!(body.disks.len(), images.len(), "a disk is missing");
        for (disk, image) in body.disks.iter().zip(images) {
            assert_eq!(disk.size, image.size, "a disk's size changed");
            let root = disk.root.map(|root| root.chunk());
            self.unfold(root, depth(disk.size), 0, image)?;
        }
        for part in &body.inventory {
            let chunk = part.chunk();
            self.fetch(&[chunk.id])?;
            self.open_data(chunk, part.length as usize)?;
        }
        Ok(())
    }

    fn fetch(&mut self, ids: &[ChunkId]) -> Result<(), Loss> {
        let ids: Vec<ChunkId> = ids
            .iter()
            .filter(|id| !self.seen.contains_key(id))
            .copied()
            .collect();
        if ids.is_empty() {
            return Ok(());
        }
        let answer = self.ask(&Request::Get { ids: ids.clone() });
        match response(&answer) {
            Ok(Response::Chunks) => {}
            Ok(other) => panic!("chunks are answered with {other:?}"),
            Err(error) => return Err(Loss::Refused(error.to_string())),
        }
        let mut frames = FrameDecoder::default();
        frames.push(&answer);
        frames.next_frame().unwrap();
        for id in ids {
            let bytes = frames.next_frame().unwrap().unwrap();
            if bytes.is_empty() {
                return Err(Loss::Chunk(id));
            }
            let chunk = CheckedChunk::check(id, bytes).map_err(|_| Loss::Chunk(id))?;
            self.seen.insert(id, chunk);
        }
        Ok(())
    }

    fn open_data(&self, chunk: ChunkRef, length: usize) -> Result<Vec<u8>, Loss> {
        Ok(self.seen[&chunk.id].open(&chunk.key, length).unwrap())
    }

    /// Compares the subtree of `level` that begins at byte `start` of the disk.
    fn unfold(
        &mut self,
        at: Option<ChunkRef>,
        level: u8,
        start: u64,
        image: &Image,
    ) -> Result<(), Loss> {
        let below = SPAN * (FANOUT as u64).pow(u32::from(level));
        let end = (start + below).min(image.size);
        let Some(at) = at else {
            assert!(
                image.is_zero(start, end - start),
                "data at {start} came back as zeros"
            );
            return Ok(());
        };
        self.fetch(&[at.id])?;
        let node = Node::open(&self.seen[&at.id], &at.key).unwrap();
        match node {
            Node::Inner { children, .. } => {
                let step = below / FANOUT as u64;
                for slot in 0..FANOUT {
                    let from = start + step * slot as u64;
                    if from < end {
                        let child = children.get(slot).copied().flatten();
                        self.unfold(child, level - 1, from, image)?;
                    }
                }
            }
            Node::Leaf(extents) => {
                let data = extents.iter().filter_map(|extent| match extent {
                    Extent::Data { chunk, .. } => Some(chunk.id),
                    Extent::Zero { .. } => None,
                });
                self.fetch(&data.collect::<Vec<_>>())?;
                let mut offset = start;
                for extent in &extents {
                    let length = extent.length() as usize;
                    match extent {
                        Extent::Zero { .. } => {
                            assert!(image.is_zero(offset, length as u64), "zeros at {offset}");
                        }
                        Extent::Data { chunk, .. } => {
                            let bytes = self.open_data(*chunk, length)?;
                            assert!(
                                bytes == image.read(offset, length),
                                "other bytes at {offset}"
                            );
                        }
                    }
                    offset += length as u64;
                }
                assert_eq!(offset, end, "a span's leaf has a wrong length");
            }
        }
        Ok(())
    }
}
