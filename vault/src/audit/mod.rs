//! The audit log: who did what in this vault, in an order and wording that nobody changes unseen.
//!
//! `audit/00000001.jsonl` and so on in the vault's directory, one JSON object a line. Each names
//! the hash of the one before and ends with its own: BLAKE3 of the line up to there. A file that
//! has grown is followed by the next, the chain going on. How long the chain is and where it ends
//! is written into the packs with vault time ([`crate::record::ClockRecord`]), so that cutting it
//! short, or writing it anew, is found as well: see [`check`].
//!
//! * An entry is durable when [`Audit::record`] returns; acts are answered after that.
//! * Several processes write: `serve`, and commands beside it. A lock keeps them in order.
//! * A line that a crash left unfinished was never answered: it is cut off, and an entry says so.

mod check;
mod entry;
mod rarely;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};

use relevo_wire::message::AuditEntry;
use relevo_wire::{TenantId, Timestamp, VaultId};

use crate::directory::sync_directory;
use crate::error::VaultError;
use rarely::Rarely;

pub use check::{Anchor, Checked, Fault, check};
pub use entry::{Act, Event, Head, Line};

/// A file of this many bytes is followed by the next.
const ROLL_AT: u64 = 8 << 20;
/// Entries in one answer.
const PAGE: usize = 500;

/// The log of one vault, open for writing.
pub struct Audit {
    path: PathBuf,
    first: Head,
    roll_at: u64,
    state: Mutex<State>,
    rarely: Mutex<Rarely>,
}

/// How far the log was read.
struct State {
    head: Head,
    /// The newest file; 0 when there is none.
    file: u64,
    /// Its bytes; more than it can have when it must be read again.
    length: u64,
}

impl Audit {
    /// Opens the log of the vault in this directory. Nothing is written before the first entry,
    /// but for the end of an unfinished line. A log that cannot be read is said to the log of
    /// the process and read again at each use: backups and restores do not wait for it.
    pub fn open(vault_directory: &Path, vault: VaultId) -> Self {
        Self::open_rolling(vault_directory, vault, ROLL_AT)
    }

    fn open_rolling(vault_directory: &Path, vault: VaultId, roll_at: u64) -> Self {
        let first = first_head(vault);
        let audit = Self {
            path: vault_directory.join("audit"),
            first,
            roll_at,
            state: Mutex::new(State {
                head: first,
                file: 0,
                length: u64::MAX,
            }),
            rarely: Mutex::default(),
        };
        if audit.path.exists()
            && let Err(error) = audit.caught_up(&mut audit.state())
        {
            tracing::error!(%error, remedy = error.remedy(), "the audit log is out of use");
        }
        audit
    }

    /// Whether the next entry can be written: what is not done without one asks this before.
    pub fn ready(&self) -> Result<(), VaultError> {
        let mut state = self.state();
        let _lock = self.caught_up(&mut state)?;
        if state.file > 0 {
            let path = self.path.join(name(state.file));
            let opened = OpenOptions::new().write(true).open(&path);
            opened.map_err(|e| self.unusable(&VaultError::io(path, e)))?;
        }
        Ok(())
    }

    /// Writes an entry; it is durable when this returns.
    pub fn record(&self, event: &Event) -> Result<Head, VaultError> {
        let mut state = self.state();
        let _lock = self.caught_up(&mut state)?;
        self.append(&mut state, event)
    }

    /// As [`record`](Self::record), for what somebody can make happen as often as he likes: of
    /// the same act by the same one, one entry a minute, which says how many it stands for.
    pub fn record_rarely(&self, event: Event) -> Result<(), VaultError> {
        let now = std::time::Instant::now();
        let mut rarely = self.rarely.lock().unwrap_or_else(PoisonError::into_inner);
        let due = rarely.due(event, now);
        drop(rarely);
        match due {
            Some(event) => self.record(&event).map(drop),
            None => Ok(()),
        }
    }

    /// Where the chain has come to, other processes' entries included, for the clock entries of
    /// packs.
    pub fn head(&self) -> Head {
        let mut state = self.state();
        if self.path.exists()
            && let Err(error) = self.caught_up(&mut state)
        {
            tracing::error!(%error, "the audit log cannot be read");
        }
        state.head
    }

    /// Entries about data of `tenant` behind the `after`th of the log, oldest first.
    pub fn entries(&self, tenant: TenantId, after: u64) -> Result<Vec<AuditEntry>, VaultError> {
        let mut found = Vec::new();
        for file in self.files_behind(after)? {
            each_line(&self.path.join(name(file)), |_, bytes, _| {
                // What is damaged is for the verifier to say.
                let Ok((line, hash)) = Line::decode(bytes) else {
                    return;
                };
                if line.sequence > after && line.tenant == Some(tenant) && found.len() < PAGE {
                    found.push(AuditEntry {
                        sequence: line.sequence,
                        time: line.time,
                        who: line.who,
                        act: line.act,
                        on: line.on,
                        result: line.result,
                        hash,
                    });
                }
            })?;
            if found.len() >= PAGE {
                break;
            }
        }
        Ok(found)
    }

    /// What the newest entry of this act says came of it.
    pub fn last_result(&self, act: Act) -> Result<Option<String>, VaultError> {
        let word = act.word();
        for file in files(&self.path)?.into_iter().rev() {
            let mut last = None;
            each_line(&self.path.join(name(file)), |_, bytes, _| {
                if let Ok((line, _)) = Line::decode(bytes)
                    && line.act == word
                {
                    last = Some(line.result);
                }
            })?;
            if last.is_some() {
                return Ok(last);
            }
        }
        Ok(None)
    }

    /// Files from the one on that holds the entry behind `after`.
    fn files_behind(&self, after: u64) -> Result<Vec<u64>, VaultError> {
        let mut files = files(&self.path)?;
        let mut from = 0;
        for (at, file) in files.iter().enumerate().rev() {
            let mut first = None;
            let path = self.path.join(name(*file));
            let mut head = vec![0; 8192];
            let read = File::open(&path)
                .and_then(|mut file| file.read(&mut head))
                .map_err(|e| VaultError::io(&path, e))?;
            if let Some(line) = head[..read].split(|b| *b == b'\n').next() {
                first = Line::decode(line).ok().map(|(line, _)| line.sequence);
            }
            if first.is_some_and(|first| first <= after.saturating_add(1)) {
                from = at;
                break;
            }
        }
        Ok(files.split_off(from))
    }

    /// Knows what other processes wrote, and keeps them from writing while the answer lives.
    fn caught_up(&self, state: &mut State) -> Result<File, VaultError> {
        let caught_up = self.make_directory().and_then(|()| {
            let lock = self.lock()?;
            self.catch_up(state)?;
            Ok(lock)
        });
        caught_up.map_err(|error| self.unusable(&error))
    }

    fn unusable(&self, error: &VaultError) -> VaultError {
        VaultError::Directory {
            path: self.path.clone(),
            reason: format!("the audit log cannot be used: {error}"),
            remedy: "make the file usable, or bring audit/ back from a copy; when there is none, \
                     move the file away: a new one is begun, and 'relevo-vault audit --verify' \
                     says what is missing. Until then nothing is done that must be noted",
        }
    }

    /// Reads what other processes wrote since, and cuts off what one left unfinished.
    fn catch_up(&self, state: &mut State) -> Result<(), VaultError> {
        let newest = files(&self.path)?.last().copied().unwrap_or(0);
        let length = match newest {
            0 => 0,
            file => length(&self.path.join(name(file)))?,
        };
        if (newest, length) == (state.file, state.length) {
            return Ok(());
        }
        let (mut head, mut torn) = (self.first, 0);
        // The newest file may be empty yet.
        for file in files(&self.path)?.into_iter().rev() {
            let path = self.path.join(name(file));
            let mut lines = 0;
            each_line(&path, |_, bytes, whole| {
                match (Line::decode(bytes), whole) {
                    (Ok((line, hash)), true) => {
                        lines += 1;
                        head = Head {
                            entries: line.sequence,
                            hash,
                        };
                    }
                    (Err(reason), true) => {
                        lines += 1;
                        tracing::error!(path = %path.display(), reason, "a damaged entry");
                        head = Head {
                            entries: head.entries.saturating_add(1),
                            hash: *blake3::hash(bytes).as_bytes(),
                        };
                    }
                    (_, false) => torn = bytes.len() as u64,
                }
            })?;
            if lines > 0 || torn > 0 {
                break;
            }
        }
        *state = State {
            head,
            file: newest,
            length: length - torn,
        };
        if torn > 0 {
            let path = self.path.join(name(newest));
            tracing::warn!(path = %path.display(), bytes = torn, "an unfinished entry was cut off");
            let cut = OpenOptions::new().write(true).open(&path);
            cut.and_then(|file| {
                file.set_len(length - torn)?;
                file.sync_data()
            })
            .map_err(|e| VaultError::io(&path, e))?;
            let on = format!("{} bytes of {}", torn, name(newest));
            let event = Event::new("vault", Act::AuditRepaired, on)
                .result("cut off: a crash left them, nobody was answered");
            self.append(state, &event)?;
        }
        Ok(())
    }

    fn append(&self, state: &mut State, event: &Event) -> Result<Head, VaultError> {
        let line = Line::next(&state.head, event, Timestamp::now());
        let full = state.file == 0 || state.length >= self.roll_at;
        let (file, at) = match full {
            true => (state.file + 1, 0),
            false => (state.file, state.length),
        };
        let path = self.path.join(name(file));
        let failed = |e| VaultError::io(&path, e);
        let (bytes, hash) = line
            .encode()
            .map_err(|e| failed(io::Error::other(e.to_string())))?;
        // Until it is all there, nothing is known of the file's end.
        state.length = u64::MAX;
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(at))?;
                file.write_all(&bytes)?;
                file.sync_data()
            });
        written.map_err(failed)?;
        if full {
            sync_directory(&self.path)?;
        }
        *state = State {
            head: Head {
                entries: line.sequence,
                hash,
            },
            file,
            length: at + bytes.len() as u64,
        };
        Ok(state.head)
    }

    fn make_directory(&self) -> Result<(), VaultError> {
        if self.path.exists() {
            return Ok(());
        }
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(VaultError::io(&self.path, e));
            }
            _ => {}
        }
        match self.path.parent() {
            Some(above) => sync_directory(above),
            None => Ok(()),
        }
    }

    /// Keeps other processes from writing while it lives.
    fn lock(&self) -> Result<File, VaultError> {
        let file = File::open(&self.path).map_err(|e| VaultError::io(&self.path, e))?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|e| VaultError::io(&self.path, e.into()))?;
        Ok(file)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls `each` with every entry of the log of the vault in this directory that can be read.
pub fn each_entry(vault_directory: &Path, mut each: impl FnMut(Line)) -> Result<(), VaultError> {
    let path = vault_directory.join("audit");
    for file in files(&path)? {
        each_line(&path.join(name(file)), |_, bytes, _| {
            if let Ok((line, _)) = Line::decode(bytes) {
                each(line);
            }
        })?;
    }
    Ok(())
}

/// Where the chain of a vault begins.
fn first_head(vault: VaultId) -> Head {
    Head {
        entries: 0,
        hash: blake3::derive_key("relevo 1 audit log", vault.as_bytes()),
    }
}

fn name(file: u64) -> String {
    format!("{file:08}.jsonl")
}

/// Numbers of the log's files, in order.
fn files(path: &Path) -> Result<Vec<u64>, VaultError> {
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| VaultError::io(path, e))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let found = entry.map_err(|e| VaultError::io(path, e))?.file_name();
        let number = found
            .to_str()
            .and_then(|text| text.strip_suffix(".jsonl")?.parse::<u64>().ok())
            .filter(|number| *number > 0 && found.to_str() == Some(&name(*number)));
        files.extend(number);
    }
    files.sort_unstable();
    Ok(files)
}

fn length(path: &Path) -> Result<u64, VaultError> {
    let metadata = fs::metadata(path).map_err(|e| VaultError::io(path, e))?;
    Ok(metadata.len())
}

/// Calls `each` with number (from 1) and bytes of each line, and whether its line feed is there.
fn each_line(path: &Path, mut each: impl FnMut(usize, &[u8], bool)) -> Result<(), VaultError> {
    let text = fs::read(path).map_err(|e| VaultError::io(path, e))?;
    for (at, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        match line.strip_suffix(b"\n") {
            Some(line) => each(at + 1, line, true),
            None => each(at + 1, line, false),
        }
    }
    Ok(())
}
