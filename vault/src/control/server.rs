//! The side of the vault that serves.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};

use super::{MAX_REQUEST, Reply, Request, SOCKET, perform, short_path};
use crate::error::VaultError;
use crate::ingest::Vault;
use crate::volume::Volume;

/// Requests at once; further ones wait.
const REQUESTS: usize = 16;
/// How long a request may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// The socket. Its name goes when this is dropped.
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlServer {
    /// Listens in a vault's directory, of which the lock is held: a socket that is there was
    /// left by a process that is gone. Called within a runtime.
    pub fn bind(vault: &Path) -> Result<Self, VaultError> {
        let path = vault.join(SOCKET);
        let failed = |e| VaultError::io(&path, e);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let directory = File::open(vault).map_err(failed)?;
        let listener = UnixListener::bind(short_path(&directory)).map_err(failed)?;
        // Who connects is asked for his user as well: see `allowed`.
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, path })
    }

    /// Answers until it is dropped.
    pub async fn run<V: Volume + 'static>(self, vault: Arc<Vault<V>>) {
        let places = Arc::new(Semaphore::new(REQUESTS));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a control connection could not be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if !allowed(&stream) {
                tracing::warn!("a control connection of another user was refused");
                continue;
            }
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let vault = vault.clone();
            tokio::spawn(async move {
                if let Err(error) = serve(stream, vault).await {
                    tracing::debug!(%error, "a control connection ended early");
                }
                drop(place);
            });
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The vault's own user, and root, whatever the directory's mode lets in.
fn allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn serve<V: Volume + 'static>(
    stream: UnixStream,
    vault: Arc<Vault<V>>,
) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(MAX_REQUEST as u64));
    tokio::time::timeout(PATIENCE, read.read_line(&mut line)).await??;
    let request: Request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => {
            let failed = Reply::Failed {
                error: format!("the vault that serves does not know this request: {error}"),
                remedy: "let command and 'relevo-vault serve' be of one release".into(),
                usage: false,
            };
            return send(&mut write, &failed).await;
        }
    };
    tracing::debug!(?request, "asked by the control socket");
    let (replies, mut coming) = mpsc::channel(16);
    let work = tokio::task::spawn_blocking(move || {
        let mut note = |text| {
            // Who has gone away needs no note; what he asked for is done all the same.
            let _ = replies.blocking_send(Reply::Note(text));
        };
        let last = match perform(&vault, request, &mut note) {
            Ok(answer) => Reply::Done(answer),
            Err(error) => Reply::from(&error),
        };
        let _ = replies.blocking_send(last);
    });
    let mut sent = Ok(());
    while let Some(reply) = coming.recv().await {
        sent = send(&mut write, &reply).await;
        if sent.is_err() {
            break;
        }
    }
    drop(coming);
    work.await.map_err(std::io::Error::other)?;
    sent
}

async fn send(write: &mut tokio::net::unix::OwnedWriteHalf, reply: &Reply) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    write.write_all(&line).await
}
