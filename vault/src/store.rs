//! The store that sessions share: look-ups and reads go straight to catalogue and packs,
//! records go to one writer thread that gathers what all sessions bring into one `fdatasync`.

mod failure;
mod opening;
mod reads;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use relevo_wire::{ChunkId, TenantId, Timestamp, VaultId};
use tokio::sync::{mpsc, oneshot};

use crate::catalogue::{Catalogue, OpenSegments};
use crate::clock::{BootClock, VaultClock, VaultTime};
use crate::collect::Openings;
use crate::error::StoreError;
use crate::ledger::{Appended, Deleted, Deletion, Finding, Ledger};
use crate::pack::{ROLL_AT, entry_size};
use crate::record::{ClockRecord, Record};
use crate::volume::Volume;
use failure::Failure;
use writer::{Job, Work, Writer};

pub(crate) use opening::{Opened, open_ledger};
pub use reads::{ReadRun, ReadStep, plan_reads, read_chunk};

/// Batches that wait for the writer; a session that finds it full waits.
const QUEUE: usize = 64;
/// Readers of the catalogue that are kept for the next; each has a cache.
const READERS: usize = 16;

/// A vault's packs and catalogue.
pub struct Store<V> {
    volume: Arc<V>,
    vault: VaultId,
    catalogue: PathBuf,
    segments: Arc<OpenSegments>,
    readers: Mutex<Vec<Catalogue>>,
    jobs: Mutex<Option<mpsc::Sender<Job<V>>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    failure: Arc<Failure>,
    clock: Arc<VaultClock>,
    client_reads: AtomicU64,
    catalogue_reads: AtomicU64,
    openings: Openings,
    collecting: Mutex<()>,
    read_all: bool,
}

impl<V: Volume> Store<V> {
    /// Opens packs and catalogue, brings the catalogue up to date and starts the writer.
    /// What was found amiss is for the caller to report. The directory's lock must be held.
    pub fn open(
        volume: Arc<V>,
        vault: VaultId,
        catalogue: &Path,
    ) -> Result<(Self, Vec<Finding>), StoreError> {
        Self::open_rolling(volume, vault, catalogue, ROLL_AT)
    }

    /// As [`open`](Self::open), with packs of another size.
    pub fn open_rolling(
        volume: Arc<V>,
        vault: VaultId,
        catalogue: &Path,
        roll_at: u64,
    ) -> Result<(Self, Vec<Finding>), StoreError> {
        Self::open_timed(volume, vault, catalogue, roll_at, None)
    }

    /// As [`open_rolling`](Self::open_rolling), with vault time by another clock.
    pub fn open_timed(
        volume: Arc<V>,
        vault: VaultId,
        catalogue: &Path,
        roll_at: u64,
        boot: Option<Arc<dyn BootClock>>,
    ) -> Result<(Self, Vec<Finding>), StoreError> {
        let Opened {
            mut ledger,
            findings,
            fresh: read_all,
        } = open_ledger(&volume, vault, catalogue)?;
        let segments = ledger.catalogue().segments();
        ledger.set_roll_at(roll_at);
        if let Some(boot) = boot {
            ledger.set_boot_clock(boot)?;
        }
        let clock = ledger.clock().clone();
        let (jobs, queue) = mpsc::channel(QUEUE);
        let failure = Arc::new(Failure::default());
        let writing = Writer::new(ledger, failure.clone());
        let writer = std::thread::Builder::new()
            .name("relevo-writer".into())
            .spawn(move || writing.run(queue))
            .map_err(|e| StoreError::io("start the writer", &e))?;
        let store = Self {
            volume,
            vault,
            catalogue: catalogue.into(),
            segments,
            readers: Mutex::default(),
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(Some(writer)),
            failure,
            clock,
            client_reads: AtomicU64::new(0),
            catalogue_reads: AtomicU64::new(0),
            openings: Openings::default(),
            collecting: Mutex::default(),
            read_all,
        };
        Ok((store, findings))
    }

    /// True when the opening read all packs: nothing was known of them, or not any more.
    pub fn has_read_all(&self) -> bool {
        self.read_all
    }

    /// Hands records to the writer; the answer comes when they are durable and can be found.
    pub async fn append(
        &self,
        tenant: TenantId,
        records: Vec<Record>,
    ) -> Result<Appended, StoreError> {
        let (job, answer) = Job::append(tenant, records);
        self.jobs()?
            .send(job)
            .await
            .map_err(|_| StoreError::Stopped)?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    /// As [`append`](Self::append), for threads that may wait.
    pub fn append_blocking(
        &self,
        tenant: TenantId,
        records: Vec<Record>,
    ) -> Result<Appended, StoreError> {
        let (job, answer) = Job::append(tenant, records);
        self.jobs()?
            .blocking_send(job)
            .map_err(|_| StoreError::Stopped)?;
        answer.blocking_recv().map_err(|_| StoreError::Stopped)?
    }

    /// Deletes those recovery points that may be; durable when the answer comes. For threads
    /// that may wait.
    pub fn delete_blocking(
        &self,
        tenant: TenantId,
        wanted: Vec<Deletion>,
    ) -> Result<Deleted, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Delete {
            tenant,
            wanted,
            reply,
        };
        self.jobs()?
            .blocking_send(job)
            .map_err(|_| StoreError::Stopped)?;
        answer.blocking_recv().map_err(|_| StoreError::Stopped)?
    }

    /// Runs `work` in the writer, behind the appends that were handed in before. For threads
    /// that may wait; nobody else writes meanwhile.
    pub fn in_writer<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ledger<V>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let work: Work<V> = Box::new(move |ledger| {
            let done = work(ledger);
            let error = done.as_ref().err().cloned();
            // Who has gone away needs no answer.
            let _ = reply.send(done);
            error.map_or(Ok(()), Err)
        });
        self.jobs()?
            .blocking_send(Job::Work(work))
            .map_err(|_| StoreError::Stopped)?;
        answer.blocking_recv().map_err(|_| StoreError::Stopped)?
    }

    /// Whose packs they are.
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// The packs.
    pub fn volume(&self) -> &Arc<V> {
        &self.volume
    }

    /// Uploads that are open.
    pub fn openings(&self) -> &Openings {
        &self.openings
    }

    /// Waits until nobody else collects.
    pub fn collect_alone(&self) -> MutexGuard<'_, ()> {
        self.collecting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs of reads that clients were given so far: what works in the background looks whether
    /// it is in somebody's way.
    pub fn client_reads(&self) -> u64 {
        self.client_reads.load(Ordering::Relaxed)
    }

    /// Vault time now.
    pub fn vault_time(&self) -> VaultTime {
        self.clock.now()
    }

    /// Writes down how far vault time has come, where anything is locked, so that it goes on
    /// from there after a restart. What the last such entry says of the audit log is kept
    /// unless `audit` says more.
    pub fn note_clock(&self, audit: Option<(u64, [u8; 32])>) -> Result<(), StoreError> {
        let time = self.vault_time();
        for tenant in self.read(|c| c.tenants_with_locks(time))? {
            let known = || self.read(|c| c.audit_anchor(tenant));
            let (audit_entries, audit_head) = match audit {
                Some(audit) => audit,
                None => known()?.unwrap_or_default(),
            };
            let record = ClockRecord {
                time,
                wall: Timestamp::now(),
                audit_entries,
                audit_head,
            };
            self.append_blocking(tenant, vec![Record::Clock(record)])?;
        }
        Ok(())
    }

    /// Notes nodes below which everything was found in this epoch. Does not wait.
    pub fn mark_complete(&self, tenant: TenantId, epoch: i64, ids: Vec<ChunkId>) {
        if let Ok(jobs) = self.jobs() {
            // Losing the note costs a longer walk next time.
            let _ = jobs.blocking_send(Job::MarkComplete { tenant, epoch, ids });
        }
    }

    /// Runs `work` on a reading connection to the catalogue.
    pub fn read<T>(
        &self,
        work: impl FnOnce(&Catalogue) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.catalogue_reads.fetch_add(1, Ordering::Relaxed);
        let free = self.lock_readers().pop();
        let catalogue = match free {
            Some(catalogue) => catalogue,
            None => Catalogue::open_sharing(&self.catalogue, self.segments.clone())?.0,
        };
        let done = work(&catalogue);
        self.failure.heed(&catalogue, &done);
        let mut readers = self.lock_readers();
        if readers.len() < READERS {
            readers.push(catalogue);
        }
        done
    }

    /// Ends when the store can go on no more, with the reason: then nothing is left but to open
    /// it anew, in a new process.
    pub async fn failed(&self) -> String {
        self.failure.wait().await
    }

    /// How often the catalogue was read: tells of a request what time would tell.
    pub fn catalogue_reads(&self) -> u64 {
        self.catalogue_reads.load(Ordering::Relaxed)
    }

    /// Stops the writer when it has answered everybody.
    pub fn close(&self) {
        let jobs = self
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(jobs);
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the writer ended in a panic");
        }
    }

    fn jobs(&self) -> Result<mpsc::Sender<Job<V>>, StoreError> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.clone().ok_or(StoreError::Stopped)
    }

    fn lock_readers(&self) -> std::sync::MutexGuard<'_, Vec<Catalogue>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Drop for Store<V> {
    fn drop(&mut self) {
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            // Its panic, if any, was reported by the panic hook.
            let _ = writer.join();
        }
    }
}

/// Bytes of packs that a record of this many bytes takes.
pub fn stored_size(length: usize) -> u64 {
    entry_size(length)
}
