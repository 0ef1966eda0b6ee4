//! Real images, small, of which packs may hold parts.

use relevo_vault::record::PointRecord;
use relevo_wire::chunk::{CheckedChunk, Chunk, Compressor, SealedChunk};
use relevo_wire::index::{ChunkRef, Extent, Node, SPAN, TreeBuilder};
use relevo_wire::key::OpeningKeys;
use relevo_wire::manifest::{
    Consistency, DiskImage, MANIFEST_VERSION, ManifestBody, PublicManifest, RunTotals,
    SealedManifest, SealedRef,
};
use relevo_wire::{PointId, ServerId, Timestamp};

/// Images that packs may hold parts of.
pub struct Material {
    /// Data and nodes.
    pub chunks: Vec<CheckedChunk>,
    /// A point for each image.
    pub points: Vec<PointRecord>,
    /// Chunks of each image.
    pub images: Vec<std::ops::Range<usize>>,
    /// Whose images.
    pub server: ServerId,
}

/// Makes it.
pub fn material() -> Material {
    let keys = OpeningKeys::generate().unwrap_or_else(|e| panic!("keys: {e}"));
    let server = ServerId::from_bytes([6; 16]);
    let (mut chunks, mut points, mut images) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..3u8 {
        let first = chunks.len();
        let root = image(&keys, number, &mut chunks);
        images.push(first..chunks.len());
        let body = ManifestBody {
            disks: vec![DiskImage {
                name: "sda".into(),
                size: 3 * SPAN,
                root: Some(SealedRef::node(root)),
                sector: 512,
                serial: None,
                faults: None,
            }],
            inventory: Vec::new(),
            consistency: Consistency::Offline,
            chunker: 1,
            agent: "fuzz".into(),
            started: Timestamp::from_millis(0),
            finished: Timestamp::from_millis(1),
            held: None,
        };
        let public = PublicManifest {
            version: MANIFEST_VERSION,
            server,
            point: PointId::from_bytes([number + 1; 16]),
            taken: Timestamp::from_millis(i64::from(number) * 1000),
            roots: Vec::new(),
            inventory: Vec::new(),
            totals: RunTotals::default(),
        };
        let manifest = SealedManifest::seal(&keys.sealing, public, &body);
        points.push(PointRecord {
            manifest: manifest.unwrap_or_else(|e| panic!("manifest: {e}")),
            committed: Timestamp::from_millis(i64::from(number) * 1000 + 500),
            stored: 1,
            locked: None,
        });
    }
    Material {
        chunks,
        points,
        images,
        server,
    }
}

/// A disk of three spans, of which images share the first.
fn image(keys: &OpeningKeys, number: u8, chunks: &mut Vec<CheckedChunk>) -> ChunkRef {
    let secret = &keys.sealing.secret;
    let mut compressor = Compressor::new();
    let mut keep = |sealed: &SealedChunk| {
        chunks.push(sealed.into());
        ChunkRef {
            id: sealed.id(),
            key: sealed.key(),
        }
    };
    let mut leaves = Vec::new();
    for span in 0..3u8 {
        let content = if span == 0 { 0 } else { number };
        let mut extents = Vec::new();
        for part in 0..2u8 {
            let plaintext = [span, content, part].repeat(300);
            let sealed = Chunk::new(secret, &plaintext).seal(&mut compressor);
            extents.push(Extent::Data {
                length: 900,
                chunk: keep(&sealed),
            });
        }
        extents.push(Extent::Zero {
            length: SPAN as u32 - 1800,
        });
        leaves.push(keep(&Node::Leaf(extents).seal(secret)));
    }
    let mut tree = TreeBuilder::new(secret.clone(), 3 * SPAN);
    let mut nodes = Vec::new();
    for leaf in leaves {
        tree.push(Some(leaf), &mut |node| nodes.push(node));
    }
    let root = tree.finish(&mut |node| nodes.push(node));
    for node in &nodes {
        keep(node);
    }
    root.unwrap_or_else(|| unreachable!("the disk holds data"))
}
