//! `relevo-vault verify`: every byte of every pack, then every recovery point from its roots.
//!
//! Works beside a vault that serves: packs are read as far as the catalogue knew them at the
//! start, and what was acknowledged there never changes. Damaged chunks are then forgotten by
//! the catalogue and a new epoch begins, so that agents which still have them send them again:
//! a later backup heals earlier points. Memory: a pack per processor, 32 bytes per index node.

mod packs;

use std::collections::{BTreeMap, HashSet};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use relevo_wire::chunk::CheckedChunk;
use relevo_wire::{ChunkId, PointId, ServerId, TenantId, Timestamp};

use crate::catalogue::{Catalogue, Image, Located};
use crate::completeness::{self, Fault, Shelf};
use crate::directory::Directory;
use crate::error::{StoreError, VaultError};
use crate::store::read_chunk;
use crate::volume::{DiskVolume, PackId};

/// Faults that are named for each recovery point.
const NAMED: usize = 100;

/// What a verification found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// True when nothing is amiss.
    pub intact: bool,
    /// Packs read.
    pub packs: usize,
    /// Bytes of packs read and hashed.
    pub bytes: u64,
    /// Chunks found intact.
    pub chunks: u64,
    /// Recovery points proven whole.
    pub points: usize,
    /// Damage in packs.
    pub damage: Vec<Damage>,
    /// Recovery points that are not whole.
    pub hit: Vec<Hit>,
    /// What is not as it should be and costs nothing.
    pub notices: Vec<String>,
}

/// A damaged place in a pack, or a place where pack and catalogue differ.
#[derive(Clone, Debug, Serialize)]
pub struct Damage {
    #[serde(skip)]
    place: PackId,
    /// The pack, below `packs/`.
    pub pack: String,
    /// Where the damage begins.
    pub offset: u64,
    /// Bytes of it.
    pub length: u64,
    /// Chunks that were there.
    pub chunks: Vec<ChunkId>,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub remedy: &'static str,
}

/// A recovery point that is not whole.
#[derive(Clone, Debug, Serialize)]
pub struct Hit {
    /// Whose.
    pub tenant: TenantId,
    /// Of which server.
    pub server: ServerId,
    /// The server's name.
    pub name: String,
    /// The recovery point.
    pub point: PointId,
    /// The moment whose state it holds.
    pub taken: Timestamp,
    /// Chunks that are missing or wrong; at most 100.
    pub chunks: Vec<ChunkId>,
}

/// Chunks that cannot be read, by tenant.
type Lost = BTreeMap<TenantId, HashSet<ChunkId>>;

/// Verifies a vault. `progress`: show bars on standard error.
pub fn verify(directory: &Directory, progress: bool) -> Result<Report, VaultError> {
    let beside = crate::rebuild::open_beside(directory)?;
    let catalogue = &beside.catalogue;
    let mut report = Report::default();
    let lost = packs::check(directory, catalogue, &mut report, progress)?;
    check_points(directory, catalogue, &lost, &mut report, progress)?;
    forget(catalogue, &report)?;
    report.intact = report.damage.is_empty() && report.hit.is_empty();
    Ok(report)
}

/// Walks each recovery point, and notes the time with those that are whole.
fn check_points(
    directory: &Directory,
    catalogue: &Catalogue,
    lost: &Lost,
    report: &mut Report,
    progress: bool,
) -> Result<(), VaultError> {
    let images = catalogue.images()?;
    let bar = bar(progress, images.len() as u64, "points", "{pos}/{len}");
    let volume = directory.volume();
    let mut complete = BTreeMap::<TenantId, HashSet<ChunkId>>::new();
    let nothing = HashSet::new();
    for image in &images {
        let Some((manifest, _)) = catalogue.point(image.tenant, image.point)? else {
            continue;
        };
        let mut shelf = PackShelf {
            catalogue,
            volume: &volume,
            tenant: image.tenant,
            lost: lost.get(&image.tenant).unwrap_or(&nothing),
            complete: complete.entry(image.tenant).or_default(),
        };
        let faults = match manifest.public() {
            Ok(public) => completeness::faults(&mut shelf, &public, NAMED)?,
            Err(error) => {
                let notice = format!("recovery point {}: {error}", image.point);
                report.notices.push(notice);
                continue;
            }
        };
        let now = faults.is_empty().then(Timestamp::now);
        catalogue.set_verified(image.tenant, image.point, now)?;
        match now {
            Some(_) => report.points += 1,
            None => report.hit.push(hit(image, &faults)),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

fn hit(image: &Image, faults: &[Fault]) -> Hit {
    Hit {
        tenant: image.tenant,
        server: image.server,
        name: image.name.clone(),
        point: image.point,
        taken: image.taken,
        chunks: faults.iter().map(Fault::chunk).collect(),
    }
}

/// Makes agents send again what is damaged. Whole packs that are missing are not given up here:
/// they may come back, and `rebuild` is the word for going on without them.
fn forget(catalogue: &Catalogue, report: &Report) -> Result<(), VaultError> {
    catalogue.transaction(|catalogue| {
        for damage in &report.damage {
            if damage.remedy == packs::BACK_UP_AGAIN {
                let offsets = damage.offset..damage.offset + damage.length;
                catalogue.forget_chunks(damage.place, offsets, &damage.chunks)?;
            }
        }
        Ok(())
    })
}

/// The packs as a walk of `verify` sees them: nothing that was found lost is there.
struct PackShelf<'a> {
    catalogue: &'a Catalogue,
    volume: &'a DiskVolume,
    tenant: TenantId,
    lost: &'a HashSet<ChunkId>,
    /// Nodes that this verification has proven.
    complete: &'a mut HashSet<ChunkId>,
}

impl Shelf for PackShelf<'_> {
    fn locate(&mut self, ids: &[ChunkId]) -> Result<Vec<Option<Located>>, StoreError> {
        let mut found = self.catalogue.locate(self.tenant, ids)?;
        for (located, id) in found.iter_mut().zip(ids) {
            if self.lost.contains(id) {
                *located = None;
            }
        }
        Ok(found)
    }

    fn read(&mut self, id: ChunkId, at: Located) -> Result<Option<CheckedChunk>, StoreError> {
        Ok(read_chunk(self.volume, self.tenant, id, at).ok())
    }

    fn is_complete(&self, id: ChunkId, _: &Located) -> bool {
        self.complete.contains(&id)
    }

    fn set_complete(&mut self, id: ChunkId) {
        self.complete.insert(id);
    }
}

fn bar(shown: bool, length: u64, what: &'static str, counts: &str) -> ProgressBar {
    if !shown {
        return ProgressBar::hidden();
    }
    let template = format!("{{msg:8}} {{wide_bar}} {counts} {{eta}}");
    let bar = ProgressBar::new(length).with_message(what);
    match ProgressStyle::with_template(&template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// For people.
pub fn text(report: &Report) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let size = crate::images::bytes(report.bytes);
    let _ = writeln!(
        text,
        "{} packs, {size}, {} chunks read; {} recovery points whole",
        report.packs, report.chunks, report.points
    );
    for notice in &report.notices {
        let _ = writeln!(text, "notice: {notice}");
    }
    for d in &report.damage {
        let _ = writeln!(
            text,
            "damage: pack {}, {} bytes at {}: {}",
            d.pack, d.length, d.offset, d.reason
        );
        for id in &d.chunks {
            let _ = writeln!(text, "  chunk {id}");
        }
        let _ = writeln!(text, "  remedy: {}", d.remedy);
    }
    for h in &report.hit {
        let _ = writeln!(
            text,
            "not whole: server '{}' ({}), point {} of {}: {} chunks",
            h.name,
            h.server,
            h.point,
            h.taken,
            h.chunks.len()
        );
    }
    if report.intact {
        text.push_str("everything is intact\n");
    }
    text
}
