//! A whole run: from disks to a recovery point.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use relevo_wire::chunk::MAX_CHUNK;
use relevo_wire::chunker::CHUNKER;
use relevo_wire::inventory::Inventory;
use relevo_wire::key::SealingKeys;
use relevo_wire::manifest::{
    Consistency, DiskImage, Faults, Gone, MANIFEST_VERSION, MAX_UNREADABLE, ManifestBody,
    PublicManifest, RunTotals, SealedManifest, SealedRef,
};
use relevo_wire::upload::UploadLimits;
use relevo_wire::{PointId, ServerId, TenantId, Timestamp};
use tokio::sync::mpsc;

use crate::AgentError;
use crate::cache::{Cache, Scope};
use crate::consistency::Holding;
use crate::disk::{Disk, DiskError};
use crate::pipeline::{Counters, Imaged, Pipeline, PipelineError, ReadSpeed, Run, survey_of};
use crate::report::{BackupReport, DiskTracking};
use crate::seal::UnderWay;
use crate::stop::Stop;
use crate::tracking::{Tracking, Unmarked};
use crate::uplink::{Committed, Dial, Link, Patience, Uplink, UplinkError, within_memory};

/// Sealed chunks between the workers and the uplink: at most 4 MiB.
const OFFERS: usize = 16;
/// Facts between the uplink and the cache, 150 bytes each.
const FACTS: usize = 8192;
/// More of either than a disk that fits into memory makes.
const ANY: usize = 1 << 24;

/// Ranges that could not be read, of all disks: a manifest has to fit into a frame of 4 MiB.
const MOST_UNREADABLE: usize = 1 << 17;

/// How often all is tried, at most.
const TRIES: u32 = 5;

/// What one run images, and how.
pub struct BackupRun {
    /// The server.
    pub server: ServerId,
    /// Whose server.
    pub tenant: TenantId,
    /// Seal the image.
    pub keys: SealingKeys,
    /// What to read.
    pub disks: Vec<Disk>,
    /// What to record besides.
    pub inventory: Inventory,
    /// The cache's file.
    pub cache: PathBuf,
    /// Where it is kept what was written to the disks since their last images. With none, disks
    /// are read whole and compared.
    pub tracking: Option<PathBuf>,
    /// How often all is read to prove what was marked.
    pub proof_every: Duration,
    /// How the server is held still for an image of one instant. Only disks of the server itself
    /// whose writes are tracked can be.
    pub holding: Holding,
    /// Threads that read and seal. With none, each part is done before the next begins: all is
    /// read and sealed into memory, then sent, then remembered. That suits small disks, and
    /// whoever wants the same steps every time.
    pub workers: usize,
    /// How much is under way at once.
    pub limits: UploadLimits,
    /// How long to go on without a connection.
    pub patience: Patience,
    /// Filled as it goes.
    pub counters: Arc<Counters>,
    /// Set by whoever wants the run to end early. A commit that has begun is waited for, so that
    /// what is said of the recovery point is true.
    pub stop: Stop,
}

/// What an attempt came to.
enum Attempt {
    Done(Box<BackupReport>),
    /// The vault lacks this many chunks that the cache thought it has.
    Incomplete(usize),
}

impl BackupRun {
    /// Images the disks. When the vault lacks what the cache says it has, the cache is emptied
    /// and the run made again, once: a missing node hides what is missing below it, so that
    /// forgetting only what the vault names might not be enough. Again after that only when the
    /// connection was lost meanwhile: what the vault acknowledged in an upload that is no more it
    /// may have collected.
    pub async fn run<D: Dial>(mut self, dial: &D) -> Result<(BackupReport, D::Link), AgentError> {
        // A vault that is not there when the run begins is told at once: nothing is lost yet, and
        // whoever started the run can see to it.
        let link = tokio::select! {
            biased;
            link = dial.dial() => link?,
            () = self.stop.wait() => return Err(AgentError::Interrupted),
        };
        let disks = Arc::new(std::mem::take(&mut self.disks));
        let mut uplink = Uplink::new(dial, link, self.patience);
        let mut tries = 0;
        loop {
            tries += 1;
            let uploads = uplink.uploads();
            match self.attempt(&mut uplink, &disks, tries > 1).await {
                Ok(Attempt::Done(report)) => return Ok((*report, uplink.link().clone())),
                Ok(Attempt::Incomplete(missing))
                    if tries >= TRIES || (tries > 1 && uplink.uploads() == uploads) =>
                {
                    return Err(AgentError::Incomplete(missing));
                }
                Ok(Attempt::Incomplete(missing)) => tracing::warn!(
                    "the vault lacks {missing} chunks that an earlier run stored: sending again \
                     what it lacks"
                ),
                Err(AgentError::Uplink(UplinkError::VaultChanged)) if tries == 1 => {
                    tracing::warn!("{}: starting again", UplinkError::VaultChanged);
                    uplink = Uplink::new(dial, uplink.link().clone(), self.patience);
                }
                Err(AgentError::Disk(error)) => {
                    lose(&disks, error)?;
                    // Nothing is wrong with what the cache knows.
                    tries -= 1;
                }
                Err(error) => return Err(error),
            }
            self.read_again(&disks);
        }
    }

    /// A new attempt reads anew; what was sent before stays sent.
    fn read_again(&self, disks: &[Disk]) {
        disks.iter().for_each(Disk::forget_unreadable);
        let c = &self.counters;
        for counter in [&c.done, &c.read, &c.changed] {
            counter.store(0, std::sync::atomic::Ordering::Relaxed);
        }
    }

    async fn attempt<D: Dial>(
        &self,
        uplink: &mut Uplink<'_, D>,
        disks: &Arc<Vec<Disk>>,
        from_scratch: bool,
    ) -> Result<Attempt, AgentError> {
        let (started, point) = (Timestamp::now(), PointId::random());
        let (mut imaged, cache) = self.image(uplink, disks, from_scratch, point).await?;
        let mut tracked = std::mem::take(&mut imaged.tracked);
        let mut chosen = Vec::new();
        for ((tracking, disk), differing) in
            tracked.iter_mut().zip(disks.iter()).zip(&imaged.differing)
        {
            let unmarked = match tracking.wants_clues() {
                true => denied(tracking, disk, disks, differing),
                false => tracking.unmarked(disk, differing),
            };
            chosen.push(DiskTracking::new(disk.name(), tracking.basis(), unmarked));
        }
        let done = self.commit(uplink, disks, imaged, cache, started, point);
        let mut done = done.await?;
        if let Attempt::Done(report) = &mut done {
            report.tracking = chosen;
            for (tracking, disk) in tracked.iter_mut().zip(disks.iter()) {
                if disk.lost().is_none() {
                    tracking.commit(disk, point);
                }
            }
        }
        Ok(done)
    }

    /// Reads, seals and uploads; returns when all is on the vault's stable storage.
    async fn image<D: Dial>(
        &self,
        uplink: &mut Uplink<'_, D>,
        disks: &Arc<Vec<Disk>>,
        from_scratch: bool,
        point: PointId,
    ) -> Result<(Imaged, Cache), AgentError> {
        let (vault, epoch) = uplink.link().vault();
        let scope = Scope {
            vault,
            epoch,
            tenant: self.tenant,
            server: self.server,
        };
        let failed = |source| AgentError::Cache {
            path: self.cache.clone(),
            source,
        };
        let mut secrets = vec![self.keys.secret.clone()];
        secrets.extend(self.keys.previous_secrets.iter().cloned());
        let mut cache = Cache::open(&self.cache, &scope, &secrets).map_err(failed)?;
        if from_scratch {
            cache.clear().map_err(failed)?;
        }
        let tracked = self.track(disks, &cache, point);
        let inventory =
            serde_json::to_vec(&self.inventory).map_err(|e| AgentError::Internal(e.to_string()))?;
        let alone = self.workers == 0;
        let (offers, offered) = mpsc::channel(if alone { ANY } else { OFFERS });
        let (facts, mut recorded) = mpsc::channel(if alone { ANY } else { FACTS });
        let (under_way, halt) = (UnderWay::default(), Stop::default());
        let pipeline = Pipeline::new(
            Run {
                secret: self.keys.secret.clone(),
                previous: self.keys.previous_secrets.clone(),
                facts: facts.clone(),
                counters: self.counters.clone(),
                scratch: self.cache.with_extension("leaves"),
                halt: halt.clone(),
                speed: ReadSpeed::default(),
            },
            self.workers,
            &cache,
            under_way.clone(),
            offers,
        )
        .map_err(failed)?;
        let (shared, holding) = (disks.clone(), self.holding.clone());
        let read = move || pipeline.run(&shared, tracked, &holding, &inventory, MAX_CHUNK);
        let record = move || {
            cache.record(&mut recorded, |chunk| under_way.remove(chunk));
            cache
        };
        let (reading, recording) = match alone {
            true => (Step::Done(aside(read)?), Step::Waiting(Box::new(record))),
            false => (
                Step::UnderWay(tokio::task::spawn_blocking(read)),
                Step::UnderWay(tokio::task::spawn_blocking(record)),
            ),
        };
        let limits = within_memory(self.limits, self.workers);
        let uploaded = tokio::select! {
            biased;
            uploaded = uplink.upload(offered, facts, &self.counters, limits) => {
                uploaded.map_err(AgentError::from)
            }
            () = self.stop.wait() => Err(AgentError::Interrupted),
        };
        // An uplink that failed lets the workers end; workers that failed let the uplink end.
        if uploaded.is_err() {
            halt.set();
        }
        let imaged = reading.finish().await?;
        let cache = recording.finish().await?;
        match (imaged, uploaded) {
            (Err(PipelineError::Disk(error)), _) => Err(error.into()),
            (Err(PipelineError::Scratch(source)), _) => Err(AgentError::State {
                path: self.cache.with_extension("leaves"),
                source,
            }),
            (_, Err(error)) => Err(error),
            (Err(PipelineError::UplinkGone(gone)), Ok(())) => {
                Err(AgentError::Internal(gone.to_string()))
            }
            (Ok(imaged), Ok(())) => Ok((imaged, cache)),
        }
    }

    /// What may be believed of each disk's changes. From here on writes are marked for the next
    /// run: nothing has been read yet.
    fn track(&self, disks: &[Disk], cache: &Cache, point: PointId) -> Vec<Tracking> {
        let tracking = disks.iter().map(|disk| match &self.tracking {
            Some(dir) => {
                let last = cache.last_image(disk.name());
                Tracking::begin(dir, disk, last, point, self.proof_every)
            }
            None => Tracking::off(),
        });
        tracking.collect()
    }

    async fn commit<D: Dial>(
        &self,
        uplink: &mut Uplink<'_, D>,
        disks: &[Disk],
        imaged: Imaged,
        mut cache: Cache,
        started: Timestamp,
        point: PointId,
    ) -> Result<Attempt, AgentError> {
        let finished = Timestamp::now();
        let Imaged {
            consistency,
            mut held,
            ..
        } = imaged;
        if consistency == Consistency::Fuzzy {
            let reasons = held.reasons.join("; ");
            tracing::warn!("the image holds blocks of several moments: {reasons}");
        }
        let lost = disks.iter().filter_map(|disk| disk.lost());
        held.reasons.extend(lost.map(String::from));
        let taken = held.instant.unwrap_or(started);
        let c = &self.counters;
        let totals = RunTotals {
            disk: disks.iter().map(Disk::size).sum(),
            read: Counters::get(&c.read),
            changed: Counters::get(&c.changed),
            new: Counters::get(&c.new),
            sent: Counters::get(&c.sent),
        };
        let most = (MOST_UNREADABLE / disks.len().max(1)).clamp(1, MAX_UNREADABLE);
        let faults = disks.iter().zip(&imaged.as_before).map(|(disk, before)| {
            let (unreadable, gone) = match (disk.lost(), cache.last_image(disk.name())) {
                (None, _) => (disk.unreadable(), None),
                (Some(_), Some(last)) if *before => (Vec::new(), Some(Gone::AsIn(last))),
                (Some(_), _) => (vec![(0, disk.size())], Some(Gone::Incomplete)),
            };
            Faults::new(unreadable, gone, most)
        });
        let faults: Vec<_> = faults.collect();
        let images = disks
            .iter()
            .zip(imaged.roots)
            .zip(&faults)
            .map(|((disk, root), faults)| DiskImage {
                name: disk.name().into(),
                size: disk.size(),
                root: root.map(SealedRef::node),
                sector: disk.sector(),
                serial: disk.serial().map(String::from),
                faults: faults.clone(),
            });
        let inventory = imaged.inventory.into_iter();
        let body = ManifestBody {
            disks: images.collect(),
            inventory: inventory.map(|(c, len)| SealedRef::data(c, len)).collect(),
            consistency,
            chunker: CHUNKER,
            agent: concat!("relevo-agent ", env!("CARGO_PKG_VERSION")).into(),
            started,
            finished,
            held: Some(held),
        };
        let public = PublicManifest {
            version: MANIFEST_VERSION,
            server: self.server,
            point,
            taken,
            roots: Vec::new(),
            inventory: Vec::new(),
            totals,
        };
        let manifest = SealedManifest::seal(&self.keys, public, &body)?;
        match uplink.commit(&manifest).await? {
            Committed::Incomplete(missing) => Ok(Attempt::Incomplete(missing.len())),
            Committed::Stored(stored) => {
                let read = disks.iter().filter(|disk| disk.lost().is_none());
                if let Err(error) = cache.promote(point, read.map(Disk::name)) {
                    tracing::warn!("cache: {error}; the next run takes longer");
                }
                let took = Timestamp::now().since(started);
                let report = BackupReport::new(self.server, point, taken, totals, stored, took);
                let report = report.with_survey(imaged.survey);
                let names = disks.iter().map(Disk::name);
                let report = report.with_faults(names.zip(faults));
                let held = body.held.unwrap_or_default();
                Ok(Attempt::Done(Box::new(
                    report.with_consistency(consistency, held),
                )))
            }
        }
    }
}

/// What file systems deny of what was found to have changed: the disks that are there are looked
/// at anew.
fn denied(
    tracking: &mut Tracking,
    disk: &Disk,
    all: &[Disk],
    differing: &[Range<u64>],
) -> Unmarked {
    let there: Vec<_> = all.iter().filter(|disk| disk.lost().is_none()).collect();
    let number = there.iter().position(|other| other.path() == disk.path());
    let look = || survey_of(&there, true, &Stop::default());
    number.map_or_else(Unmarked::default, |number| {
        tracking.denied(disk, differing, number, look)
    })
}

/// Goes on without a disk that went away, or is failing, when there are others.
fn lose(disks: &[Disk], error: DiskError) -> Result<(), DiskError> {
    let left = |disk: &&Disk| disk.lost().is_none();
    let lost = disks
        .iter()
        .filter(left)
        .find(|disk| error.lost_disk() == Some(disk.path()));
    match lost {
        Some(disk) if disks.iter().filter(left).count() > 1 => {
            tracing::error!("{error}: the run goes on with the other disks");
            disk.lose(&error);
            Ok(())
        }
        _ => Err(error),
    }
}

/// A part of a run, which may wait for others.
enum Step<T> {
    Waiting(Box<dyn FnOnce() -> T + Send>),
    UnderWay(tokio::task::JoinHandle<T>),
    Done(T),
}

impl<T: Send> Step<T> {
    async fn finish(self) -> Result<T, AgentError> {
        match self {
            Self::Waiting(work) => aside(work),
            Self::UnderWay(task) => task.await.map_err(panicked),
            Self::Done(value) => Ok(value),
        }
    }
}

/// Does what a worker of the runtime may not, since it blocks, and waits for it.
fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, AgentError> {
    std::thread::scope(|scope| scope.spawn(work).join())
        .map_err(|_| AgentError::Internal("a part of the run panicked".into()))
}

fn panicked(error: tokio::task::JoinError) -> AgentError {
    AgentError::Internal(error.to_string())
}
