//! `relevo-vault verify`: every byte of every pack, then every recovery point from its roots.
//!
//! Works beside a vault that serves: packs are read as far as the catalogue knew them at the
//! start, and what was acknowledged there never changes. Damage is noted in the catalogue, and
//! the process that has the store open is asked to heal it, see [`heal`](mod@crate::heal).
//! Memory: a pack per processor, and 32 bytes per index node up to [`REMEMBERED`] of them.

mod packs;
mod place;

use std::collections::{BTreeMap, HashSet};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use relevo_wire::chunk::CheckedChunk;
use relevo_wire::{ChunkId, PointId, ServerId, TenantId, Timestamp};

use crate::catalogue::{Catalogue, Image, Located};
use crate::completeness::{self, Fault, Shelf};
use crate::control::{self, Request};
use crate::directory::Directory;
use crate::error::{StoreError, VaultError};
use crate::heal;
use crate::store::read_chunk;
use crate::volume::{DiskVolume, FileId, FileKind, PackId, Volume};

pub use packs::{LostEntry, PackCheck, check_pack};
pub use place::Place;

/// Faults that are named for each recovery point.
const NAMED: usize = 100;
/// Proven nodes that are remembered; with more, what is shared is walked again.
pub const REMEMBERED: usize = 1 << 21;

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
    /// What was done about the damage.
    pub healed: Option<serde_json::Value>,
}

/// A damaged place in a pack, or a place where pack and catalogue differ.
#[derive(Clone, Debug, Serialize)]
pub struct Damage {
    #[serde(skip)]
    pub(crate) place: PackId,
    /// The pack, below `packs/`.
    pub pack: String,
    /// Where the damage begins.
    pub offset: u64,
    /// Bytes of it.
    pub length: u64,
    /// Chunks that were there.
    pub chunks: Vec<ChunkId>,
    /// What stood there, one by one.
    #[serde(skip)]
    pub entries: Vec<LostEntry>,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub remedy: &'static str,
}

impl Damage {
    /// Where pack and catalogue differ.
    fn of_catalogue(place: PackId, reason: String, remedy: &'static str) -> Self {
        Self {
            place,
            pack: place.to_string(),
            offset: 0,
            length: 0,
            chunks: Vec::new(),
            entries: Vec::new(),
            reason,
            remedy,
        }
    }

    /// Notes it in the catalogue, for healing.
    pub fn note(&self, catalogue: &Catalogue) -> Result<(), StoreError> {
        for entry in &self.entries {
            catalogue.note_loss(self.place, entry.offset, entry.length, entry.id)?;
        }
        catalogue.set_checked(self.place.into(), None)
    }
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
    /// Where on its disks they belong; at most 100.
    pub places: Vec<Place>,
    /// True when its inventory is hit.
    pub inventory: bool,
}

/// Chunks that cannot be read, by tenant.
type Lost = BTreeMap<TenantId, HashSet<ChunkId>>;

/// Verifies a vault, and has what is damaged healed. `progress`: show bars on standard error;
/// `give_up`: see [`heal`](mod@crate::heal).
pub fn verify(directory: &Directory, progress: bool, give_up: bool) -> Result<Report, VaultError> {
    let mut report = Report::default();
    {
        let beside = crate::rebuild::open_beside(directory)?;
        let catalogue = &beside.catalogue;
        let started = Timestamp::now();
        let known = catalogue.packs()?;
        let lost = packs::check(directory, catalogue, &mut report, progress)?;
        check_parity(directory, &mut report)?;
        check_points(directory, catalogue, &lost, &mut report, progress)?;
        note(catalogue, &known, started, &report)?;
    }
    report.intact = report.damage.is_empty() && report.hit.is_empty();
    if !report.intact || give_up || !report.notices.is_empty() {
        let mut say = |text: String| tracing::info!("{text}");
        let request = Request::Heal { give_up };
        let answer = control::ask(directory, request, &mut say)?;
        report.healed = Some(answer.facts);
    }
    Ok(report)
}

/// Notes the damage for healing, and which packs have none.
fn note(
    catalogue: &Catalogue,
    known: &[(PackId, u64)],
    when: Timestamp,
    report: &Report,
) -> Result<(), StoreError> {
    let damaged: HashSet<PackId> = report.damage.iter().map(|d| d.place).collect();
    catalogue.transaction(|catalogue| {
        for (pack, _) in known.iter().filter(|(pack, _)| !damaged.contains(pack)) {
            catalogue.set_checked((*pack).into(), Some(when))?;
        }
        report.damage.iter().try_for_each(|d| d.note(catalogue))
    })
}

/// Parity files are derived: damage of them is a notice, and healed with the rest.
fn check_parity(directory: &Directory, report: &mut Report) -> Result<(), VaultError> {
    let volume = directory.volume();
    let groups = crate::parity::groups(&volume, directory.file().vault, None)?;
    for (file, reason) in &groups.lost {
        let notice = format!("parity {file}: {reason}; it is made anew");
        report.notices.push(notice);
    }
    for group in &groups.usable {
        report.bytes += group.file_length();
        let damaged = crate::parity::damaged_columns(&volume, group, group.file());
        if !damaged.is_empty() {
            let notice = format!("parity {}: {} blocks damaged", group.file(), damaged.len());
            report.notices.push(notice);
        }
    }
    let files = volume
        .list_files()
        .map_err(|e| VaultError::io(directory.path().join("packs"), e))?;
    let left = |file: &&FileId| matches!(file.kind, FileKind::NewPack | FileKind::NewParity);
    for file in files.iter().filter(left) {
        tracing::debug!(%file, "being written, or left by a crash");
    }
    Ok(())
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
            None => {
                let mut hit = hit(image, &faults);
                if let Ok(public) = manifest.public() {
                    let lost: HashSet<ChunkId> = hit.chunks.iter().copied().collect();
                    hit.places = place::places(&mut shelf, &public, &lost)?;
                    hit.inventory = place::in_inventory(&public, &lost);
                }
                report.hit.push(hit);
            }
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
        places: Vec::new(),
        inventory: false,
    }
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
        if self.complete.len() >= REMEMBERED {
            self.complete.clear();
        }
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
        for line in place::text(&h.places) {
            let _ = writeln!(text, "  {line}");
        }
        if h.inventory {
            text.push_str("  its inventory\n");
        }
    }
    if let Some(healed) = report.healed.clone()
        && let Ok(healed) = serde_json::from_value::<heal::Healed>(healed)
    {
        text.push_str(&heal::text(&healed));
    }
    if report.intact {
        text.push_str("everything is intact\n");
    }
    text
}
