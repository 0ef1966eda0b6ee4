//! The side of a command.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::{Answer, Reply, Request, SOCKET, perform, short_path};
use crate::audit::Audit;
use crate::directory::Directory;
use crate::error::VaultError;
use crate::ingest::Vault;
use crate::settings::SettingsWatch;

/// How often it looks for a vault that serves, or for the directory to be free.
const ATTEMPTS: usize = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// Has a request done: by the vault that serves this directory, or here when none does.
pub fn ask(
    directory: &Directory,
    request: Request,
    note: &mut dyn FnMut(String),
) -> Result<Answer, VaultError> {
    for _ in 0..ATTEMPTS {
        if let Some(stream) = connect(directory)? {
            return exchange(stream, &request, note);
        }
        if let Some(_lock) = directory.try_lock()? {
            let store = crate::rebuild::open_store(directory)?;
            let settings = Arc::new(SettingsWatch::open(directory.path())?);
            let id = directory.file().vault;
            let audit = Arc::new(Audit::open(directory.path(), id));
            let vault = Vault::new(id, store, directory.authority()?)
                .with_settings(settings)
                .with_audit(audit);
            let done = perform(&vault, request, note);
            if let Err(error) = vault.anchor_audit() {
                tracing::warn!(%error, "the packs could not be told of the audit log");
            }
            vault.store().close();
            return done;
        }
        // It starts or stops, or another command has the directory for a moment.
        std::thread::sleep(PAUSE);
    }
    Err(VaultError::Directory {
        path: directory.path().into(),
        reason: "another relevo-vault uses this directory and does not answer".into(),
        remedy: "wait until 'relevo-vault serve' has started, or the other command is done",
    })
}

fn connect(directory: &Directory) -> Result<Option<UnixStream>, VaultError> {
    let path = directory.path().join(SOCKET);
    let opened = File::open(directory.path()).map_err(|e| VaultError::io(directory.path(), e))?;
    match UnixStream::connect(short_path(&opened)) {
        Ok(stream) => Ok(Some(stream)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(e) => Err(VaultError::io(path, e)),
    }
}

fn exchange(
    mut stream: UnixStream,
    request: &Request,
    note: &mut dyn FnMut(String),
) -> Result<Answer, VaultError> {
    let failed = |e: std::io::Error| VaultError::io(SOCKET, e);
    let mut line = serde_json::to_vec(request).map_err(|e| failed(e.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(failed)?;
        match serde_json::from_str(&line).map_err(|e| failed(e.into()))? {
            Reply::Note(text) => note(text),
            Reply::Done(answer) => return Ok(answer),
            Reply::Failed {
                error: reason,
                remedy,
                usage,
            } => {
                return Err(match usage {
                    true => VaultError::Usage { reason, remedy },
                    false => VaultError::Refused { reason, remedy },
                });
            }
        }
    }
    Err(VaultError::Refused {
        reason: "the vault stopped before it answered".into(),
        remedy: "see whether it was done ('relevo-vault images', 'locks'), then try again".into(),
    })
}
