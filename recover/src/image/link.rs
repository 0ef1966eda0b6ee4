//! The line to the vault: connects again by itself, so that a reader of blocks only ever
//! sees data, a wait, or words.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use relevo_wire::ChunkId;
use relevo_wire::chunk::CheckedChunk;
use relevo_wire::client::{ClientError, VaultConnection};
use relevo_wire::enrollment::Enrollment;
use relevo_wire::message::{Request, Response};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::threads::Threads;
use crate::failure::Failure;

/// Ids in one Get: about one span of the disk, so that its first bytes come soon.
const BATCH: usize = 64;
/// How long a line may bring nothing before another connection is tried. A vault that was
/// killed says no goodbye.
const SILENCE: Duration = Duration::from_secs(10);
/// How long one attempt to connect may take before the next.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long a vault that was not reached yet is tried.
const FIRST_CONTACT: Duration = Duration::from_secs(8);
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(3);

/// How long to wait for a vault that is away before giving up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// For ever: a running machine's disk waits like a slow one.
    Forever,
    /// This long from the first failure of each request.
    For(Duration),
}

impl Default for Patience {
    /// A minute, for commands that a person waits for.
    fn default() -> Self {
        Self::For(Duration::from_secs(60))
    }
}

/// A vault, reached through whatever connection works at the moment. Clones of the [`Arc`]
/// share it. Its methods may be called from any thread that is no worker of a runtime.
pub struct VaultLink {
    enrollment: Enrollment,
    patience: Patience,
    current: tokio::sync::Mutex<Option<(u64, VaultConnection)>>,
    connections: AtomicU64,
    closing: AtomicBool,
    threads: Threads,
}

impl VaultLink {
    /// Connects once; from then on the link connects again whenever it has to.
    pub fn connect(enrollment: Enrollment, patience: Patience) -> Result<Arc<Self>, Failure> {
        let link = Self::new(enrollment, patience)?;
        let first = link.clone();
        // Patience is for what has worked before: somebody who starts something wants to know
        // soon that the vault is away.
        let patience = match patience {
            Patience::For(limit) => Patience::For(limit.min(FIRST_CONTACT)),
            Patience::Forever => Patience::For(FIRST_CONTACT),
        };
        link.wait_for(async move { first.connection(&mut Retry::new(patience)).await.map(drop) })??;
        Ok(link)
    }

    fn new(enrollment: Enrollment, patience: Patience) -> Result<Arc<Self>, Failure> {
        Ok(Arc::new(Self {
            enrollment,
            patience,
            current: tokio::sync::Mutex::new(None),
            connections: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            threads: Threads::start("vault-link")?,
        }))
    }

    /// A link that leads nowhere, for stores that are full already.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub(super) fn unconnected() -> Arc<Self> {
        let identity = relevo_wire::identity::Identity::Recovery {
            tenant: relevo_wire::TenantId::random(),
            site: relevo_wire::SiteId::random(),
        };
        let expires = relevo_wire::Timestamp::now();
        let (vault, name) = ("127.0.0.1:9".to_string(), "test".to_string());
        let enrollment = Enrollment::new(vault, name, &identity, expires, &[], &[], &[]);
        Self::new(enrollment, Patience::For(Duration::ZERO)).unwrap()
    }

    /// The vault's address as configured.
    pub fn vault(&self) -> &str {
        &self.enrollment.vault
    }

    /// Asks and waits for the answer.
    pub fn request(self: &Arc<Self>, request: &Request) -> Result<Response, Failure> {
        let (link, request) = (self.clone(), request.clone());
        let answer = self.wait_for(async move {
            let mut retry = Retry::new(link.patience);
            loop {
                let connection = link.connection(&mut retry).await?;
                match timeout(SILENCE, connection.request(&request)).await {
                    Ok(Ok(response)) => return Ok(response),
                    Ok(Err(error)) => link.failed(error, &mut retry).await?,
                    Err(_) => link.failed(silent(link.vault()), &mut retry).await?,
                }
            }
        })?;
        Ok(answer.map_err(|e: ClientError| e)?)
    }

    /// Ends all waiting: whoever waits for the vault gets an error.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// The runtime on which the link's work is done.
    pub fn handle(&self) -> &Handle {
        self.threads.handle()
    }

    /// Runs `future` on the link's runtime and waits for its result.
    pub fn wait_for<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Failure> {
        self.threads.wait_for(future)
    }

    /// Fetches chunks, in any order and on as many connections as it takes. `each` is given the
    /// place in `ids` and the chunk, exactly once per id; an error is that chunk's own.
    pub async fn fetch(
        &self,
        ids: &[ChunkId],
        mut each: impl FnMut(usize, Result<CheckedChunk, ClientError>),
    ) {
        let mut open: Vec<usize> = (0..ids.len()).collect();
        let mut retry = Retry::new(self.patience);
        while !open.is_empty() {
            let error = match self.connection(&mut retry).await {
                Ok(connection) => {
                    match self
                        .fetch_on(&connection, ids, &mut open, &mut retry, &mut each)
                        .await
                    {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                }
                Err(error) => {
                    for at in open.drain(..) {
                        each(at, Err(error.clone()));
                    }
                    return;
                }
            };
            if let Err(error) = self.failed(error, &mut retry).await {
                for at in open.drain(..) {
                    each(at, Err(error.clone()));
                }
            }
        }
    }

    /// One pass over what is still open; returns early when the connection fails.
    async fn fetch_on(
        &self,
        connection: &VaultConnection,
        ids: &[ChunkId],
        open: &mut Vec<usize>,
        retry: &mut Retry,
        each: &mut impl FnMut(usize, Result<CheckedChunk, ClientError>),
    ) -> Result<(), ClientError> {
        let silent = |_| silent(self.vault());
        while !open.is_empty() {
            let batch: Vec<usize> = open.iter().take(BATCH).copied().collect();
            let wanted = batch.iter().map(|at| ids[*at]).collect();
            let mut stream = timeout(SILENCE, connection.get(wanted))
                .await
                .map_err(silent)??;
            for at in batch {
                let next = timeout(SILENCE, stream.next()).await.map_err(silent)?;
                let chunk = match next {
                    Some(Ok(chunk)) => Ok(chunk),
                    Some(Err(error @ (ClientError::MissingChunk(_) | ClientError::Chunk(_)))) => {
                        Err(error)
                    }
                    Some(Err(error)) => return Err(error),
                    None => {
                        return Err(ClientError::Protocol("it left chunks out".into()));
                    }
                };
                open.retain(|other| *other != at);
                retry.progress();
                each(at, chunk);
            }
        }
        Ok(())
    }

    /// A connection that worked when last used.
    async fn connection(&self, retry: &mut Retry) -> Result<VaultConnection, ClientError> {
        loop {
            let mut current = self.current.lock().await;
            if let Some((generation, connection)) = &*current {
                retry.generation = *generation;
                return Ok(connection.clone());
            }
            let connected = timeout(ATTEMPT, VaultConnection::connect(&self.enrollment)).await;
            let error = match connected {
                Ok(Ok(connection)) => {
                    retry.generation = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
                    *current = Some((retry.generation, connection.clone()));
                    if retry.said {
                        tracing::info!(vault = self.vault(), "the vault is back");
                    }
                    return Ok(connection);
                }
                Ok(Err(error)) => error,
                Err(_) => silent(self.vault()),
            };
            drop(current);
            retry.pause(self, error).await?;
        }
    }

    /// After a failure: waits a little when another try may work, else gives the error back.
    async fn failed(&self, error: ClientError, retry: &mut Retry) -> Result<(), ClientError> {
        if !may_pass(&error) {
            return Err(error);
        }
        // Another task may have replaced the broken connection already.
        self.current
            .lock()
            .await
            .take_if(|(generation, _)| *generation == retry.generation);
        retry.pause(self, error).await
    }
}

/// Whether the vault may answer later without anybody touching this site. A name service that
/// is away is as good a reason to wait as a vault that is.
fn may_pass(error: &ClientError) -> bool {
    error.is_transient() || matches!(error, ClientError::Address { .. })
}

fn silent(vault: &str) -> ClientError {
    ClientError::Connection {
        vault: vault.into(),
        reason: "no answer".into(),
        remedy: "check that the vault runs and that UDP reaches its port",
        transient: true,
    }
}

/// The tries of one request.
struct Retry {
    patience: Patience,
    since: Option<Instant>,
    back_off: Duration,
    said: bool,
    /// The connection used last.
    generation: u64,
}

impl Retry {
    fn new(patience: Patience) -> Self {
        Self {
            patience,
            since: None,
            back_off: FIRST_BACK_OFF,
            said: false,
            generation: 0,
        }
    }

    fn progress(&mut self) {
        self.since = None;
        self.back_off = FIRST_BACK_OFF;
    }

    async fn pause(&mut self, link: &VaultLink, error: ClientError) -> Result<(), ClientError> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let out_of_patience = match self.patience {
            Patience::Forever => false,
            Patience::For(limit) => since.elapsed() >= limit,
        };
        if !may_pass(&error) || out_of_patience || link.closing.load(Ordering::Acquire) {
            return Err(error);
        }
        if !self.said {
            self.said = true;
            tracing::warn!(%error, "the vault is away; trying again until it is back");
        }
        tokio::time::sleep(self.back_off).await;
        self.back_off = (self.back_off * 2).min(LONGEST_BACK_OFF);
        Ok(())
    }
}
