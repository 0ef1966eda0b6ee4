//! A vault's packs, read without the vault: with nothing else left, they and the keys are enough.
//!
//! * `files`: finds the tenant's packs below a directory.
//! * `survey`: what is in them; `places`: where each chunk is.
//!
//! Every chunk is hashed when it is read; of a damaged one the other copies are tried. Nothing is
//! written, and no vault may be running: what it collects meanwhile would be missed.

mod files;
mod places;
mod survey;

use std::path::{Path, PathBuf};

use relevo_vault::pack::{ENTRY_HEADER, EntryHeader, EntryKind, MAX_BODY};
use relevo_vault::record::Record;
use relevo_wire::chunk::CheckedChunk;
use relevo_wire::client::ClientError;
use relevo_wire::manifest::SealedManifest;
use relevo_wire::message::{PointEntry, ServerEntry};
use relevo_wire::{ChunkId, PointId, ServerId, TenantId, Timestamp};

use super::threads::Threads;
use crate::failure::Failure;
use files::PackFiles;
use survey::Survey;

/// The packs of one tenant.
pub struct Packs {
    dir: PathBuf,
    files: PackFiles,
    survey: Survey,
    threads: Threads,
}

impl Packs {
    /// Looks through the packs of `tenant` below `dir`: a vault's directory, its `packs`, or a
    /// copy of either.
    pub fn open(dir: &Path, tenant: TenantId, include_deleted: bool) -> Result<Self, Failure> {
        let (files, around) = PackFiles::find(dir, tenant).map_err(|e| Failure::io(dir, &e))?;
        if files.all().is_empty() {
            return Err(no_packs(dir, tenant, &around));
        }
        let mut survey = Survey::of(&files, include_deleted);
        survey.damage.splice(0..0, around.unusable);
        tracing::info!(
            packs = files.all().len(),
            chunks = survey.places.count(),
            points = survey.points.len(),
            "the packs were looked through"
        );
        Ok(Self {
            dir: dir.into(),
            files,
            survey,
            threads: Threads::start("packs")?,
        })
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn threads(&self) -> &Threads {
        &self.threads
    }

    /// What is not as it was written, in words.
    pub fn damage(&self) -> Vec<String> {
        self.survey.damage.clone()
    }

    /// The servers, by name. One whose enrolment was lost is named after its id.
    pub fn servers(&self) -> Vec<ServerEntry> {
        let mut ids: Vec<ServerId> = self.survey.servers.keys().copied().collect();
        ids.extend(self.survey.points.values().map(|p| p.entry.manifest.server));
        ids.sort_unstable();
        ids.dedup();
        let mut servers: Vec<ServerEntry> = ids.into_iter().map(|id| self.server(id)).collect();
        servers.sort_by(|a, b| (&a.name, a.enrolled).cmp(&(&b.name, b.enrolled)));
        servers
    }

    fn server(&self, id: ServerId) -> ServerEntry {
        let points = self.points(id);
        let (name, enrolled) = match self.survey.servers.get(&id) {
            Some(record) => (record.name.clone(), record.enrolled),
            None => (format!("server-{}", id.short()), Timestamp::from_millis(0)),
        };
        ServerEntry {
            id,
            name,
            enrolled,
            points: points.len() as u64,
            latest: points.first().map(|point| point.manifest.taken),
        }
    }

    /// The recovery points of a server, newest first.
    pub fn points(&self, server: ServerId) -> Vec<PointEntry> {
        let all = self.survey.points.values();
        let mut points: Vec<PointEntry> = all
            .filter(|found| found.entry.manifest.server == server)
            .map(|found| found.entry.clone())
            .collect();
        points.sort_by_key(|p| std::cmp::Reverse((p.manifest.taken, p.manifest.point)));
        points
    }

    /// The manifest of a point.
    pub fn manifest(&self, point: PointId) -> Result<SealedManifest, Failure> {
        let gone = |reason: &str| {
            let cause = format!("recovery point {point}: {reason}");
            Failure::new(cause, "choose another recovery point")
        };
        let found = self.survey.points.get(&point);
        let found = found.ok_or_else(|| gone("it is not in the packs"))?;
        let (header, body) = self
            .entry(found.pack, found.offset)
            .map_err(|reason| gone(&reason))?;
        match survey::decode(&header, body.into()) {
            Ok(Some(Record::Point(record))) => Ok(record.manifest),
            Ok(_) => Err(gone("another entry stands in its place")),
            Err(reason) => Err(gone(&reason)),
        }
    }

    /// Reads chunks; in the order of their places, since disks like that.
    pub(super) fn fetch(
        &self,
        ids: &[ChunkId],
        mut each: impl FnMut(usize, Result<CheckedChunk, ClientError>),
    ) {
        let mut order: Vec<_> = (0..ids.len())
            .map(|at| (self.survey.places.of(&ids[at]).next(), at))
            .collect();
        order.sort_unstable();
        for (_, at) in order {
            // Reading blocks; the runtime moves other tasks away meanwhile.
            let chunk = tokio::task::block_in_place(|| self.chunk(ids[at]));
            each(at, chunk);
        }
    }

    /// The newest intact copy of a chunk.
    fn chunk(&self, id: ChunkId) -> Result<CheckedChunk, ClientError> {
        let mut error = ClientError::MissingChunk(id);
        for (pack, offset) in self.survey.places.of(&id) {
            let path = self.files.all()[pack].path.display();
            let (header, body) = match self.entry(pack, offset) {
                Ok(entry) => entry,
                Err(reason) => {
                    tracing::warn!("pack {path}, offset {offset}: chunk {id}: {reason}");
                    continue;
                }
            };
            if header.kind != EntryKind::Chunk as u8 || header.id != *id.as_bytes() {
                continue;
            }
            match CheckedChunk::check(id, body.into()) {
                Ok(chunk) => return Ok(chunk),
                Err(damaged) => {
                    tracing::warn!("pack {path}, offset {offset}: {damaged}");
                    error = damaged.into();
                }
            }
        }
        Err(error)
    }

    fn entry(&self, pack: usize, offset: u64) -> Result<(EntryHeader, Vec<u8>), String> {
        let salt = &self.files.all()[pack].header.salt;
        let words = |e: std::io::Error| e.to_string();
        let head = self.files.read(pack, offset, ENTRY_HEADER).map_err(words)?;
        let header = EntryHeader::decode(&head, salt, offset)
            .filter(|header| header.length as usize <= MAX_BODY)
            .ok_or("its entry is damaged")?;
        let body_at = offset + ENTRY_HEADER as u64;
        let body = self.files.read(pack, body_at, header.length as usize);
        Ok((header, body.map_err(words)?))
    }
}

fn no_packs(dir: &Path, tenant: TenantId, around: &files::Around) -> Failure {
    let cause = format!("{} has no packs of tenant {tenant}", dir.display());
    if let Some(unusable) = around.unusable.first() {
        let cause = format!("{cause} that can be read ({unusable})");
        return Failure::new(cause, "bring the packs from another copy");
    }
    if around.others.is_empty() {
        let remedy = "name the vault's directory, its 'packs', or a copy of either";
        return Failure::new(cause, remedy);
    }
    let others: Vec<_> = around.others.keys().map(ToString::to_string).collect();
    let remedy = format!(
        "it has packs of tenant {}: give that tenant's keys",
        others.join(", ")
    );
    Failure::new(cause, remedy)
}
