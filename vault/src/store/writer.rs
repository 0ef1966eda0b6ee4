//! The one thread that writes: what all sessions brought meanwhile is one round.

use std::sync::Arc;

use relevo_wire::{ChunkId, TenantId};
use tokio::sync::{mpsc, oneshot};

use super::failure::{Failure, Watched};
use crate::error::StoreError;
use crate::ledger::{Appended, Deleted, Deletion, Ledger};
use crate::record::Record;
use crate::volume::Volume;

/// Records of one round hold at most about this many bytes.
const ROUND_BYTES: usize = 64 * 1024 * 1024;

/// Something that only the writer may do. It answers by itself; what failed is told here too.
pub(super) type Work<V> = Box<dyn FnOnce(&mut Ledger<V>) -> Result<(), StoreError> + Send>;
type Answer = Result<Appended, StoreError>;
type Reply = oneshot::Sender<Answer>;
/// What sessions of one tenant brought, and whom to answer.
type Batch = Vec<(Vec<Record>, Reply)>;

/// What is brought to the writer.
pub(super) enum Job<V> {
    Append {
        tenant: TenantId,
        records: Vec<Record>,
        reply: Reply,
    },
    MarkComplete {
        tenant: TenantId,
        epoch: i64,
        ids: Vec<ChunkId>,
    },
    Delete {
        tenant: TenantId,
        wanted: Vec<Deletion>,
        reply: oneshot::Sender<Result<Deleted, StoreError>>,
    },
    Work(Work<V>),
}

impl<V> Job<V> {
    /// With what its answer comes by.
    pub(super) fn append(
        tenant: TenantId,
        records: Vec<Record>,
    ) -> (Self, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        let job = Self::Append {
            tenant,
            records,
            reply,
        };
        (job, answer)
    }
}

/// The writer.
pub(super) struct Writer<V> {
    ledger: Ledger<V>,
    failure: Arc<Failure>,
}

impl<V: Volume> Writer<V> {
    pub(super) fn new(ledger: Ledger<V>, failure: Arc<Failure>) -> Self {
        Self { ledger, failure }
    }

    /// Serves until nobody can bring anything any more. A round has one `fdatasync` per tenant
    /// in it.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job<V>>) {
        // After a panic nobody would be answered any more, and the vault would look alive.
        let _watched = Watched::new(self.failure.clone(), "the thread that writes");
        while let Some(first) = queue.blocking_recv() {
            let mut round = vec![first];
            let mut bytes = 0;
            while bytes < ROUND_BYTES
                && let Ok(job) = queue.try_recv()
            {
                if let Job::Append { records, .. } = &job {
                    bytes += records.iter().map(weight).sum::<usize>();
                }
                round.push(job);
            }
            self.serve(round);
        }
        self.ledger.catalogue().checkpoint();
    }

    fn serve(&mut self, round: Vec<Job<V>>) {
        let mut appends: Vec<(TenantId, Batch)> = Vec::new();
        let (mut deletions, mut works) = (Vec::new(), Vec::new());
        for job in round {
            match job {
                Job::Append {
                    tenant,
                    records,
                    reply,
                } => match appends.iter_mut().find(|(t, _)| *t == tenant) {
                    Some((_, batch)) => batch.push((records, reply)),
                    None => appends.push((tenant, vec![(records, reply)])),
                },
                // After the round's appends, so that a lock or hold of the same round counts.
                Job::Delete {
                    tenant,
                    wanted,
                    reply,
                } => deletions.push((tenant, wanted, reply)),
                Job::Work(work) => works.push(work),
                Job::MarkComplete { tenant, epoch, ids } => {
                    let done = self.ledger.mark_complete(tenant, epoch, &ids);
                    self.heed(&done);
                    if let Err(error) = done {
                        tracing::warn!(%error, "complete nodes could not be noted");
                    }
                }
            }
        }
        for (tenant, batch) in appends {
            self.append(tenant, batch);
        }
        for work in works {
            let done = work(&mut self.ledger);
            self.heed(&done);
        }
        for (tenant, wanted, reply) in deletions {
            let done = self.ledger.delete(tenant, &wanted);
            self.heed(&done);
            let _ = reply.send(done);
        }
    }

    fn append(&mut self, tenant: TenantId, batch: Batch) {
        let records: Vec<&[Record]> = batch
            .iter()
            .map(|(records, _)| records.as_slice())
            .collect();
        let done = self.ledger.append(tenant, &records);
        self.heed(&done);
        if let Err(error) = &done
            && !matches!(error, StoreError::PointTaken(_) | StoreError::NotWhole(_))
        {
            tracing::error!(%tenant, %error, "records could not be stored");
        }
        // Who has gone away needs no answer.
        match done {
            Ok(answers) => {
                for ((_, reply), appended) in batch.into_iter().zip(answers) {
                    let _ = reply.send(Ok(appended));
                }
            }
            // One session's contradiction must not fail the others of the round.
            Err(StoreError::PointTaken(_) | StoreError::NotWhole(_)) if batch.len() > 1 => {
                for (records, reply) in batch {
                    let one = self.ledger.append(tenant, &[&records]);
                    let _ = reply.send(one.map(|a| a.first().copied().unwrap_or_default()));
                }
            }
            Err(error) => {
                for (_, reply) in batch {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    fn heed<T>(&self, done: &Result<T, StoreError>) {
        self.failure.heed(self.ledger.catalogue(), done);
    }
}

fn weight(record: &Record) -> usize {
    match record {
        Record::Chunk(chunk) => chunk.bytes().len(),
        _ => 4096,
    }
}
