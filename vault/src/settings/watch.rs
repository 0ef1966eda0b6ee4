//! The settings in force, read anew when their file changes.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Settings;
use crate::error::VaultError;

/// What tells one version of a file from another: device, inode, size, time of change.
type Stamp = (u64, u64, u64, i64, i64);

/// Between two looks at a file that was changed: who writes it may not be done.
const SETTLING: Duration = Duration::from_millis(20);
/// So often it is read before that waits for the next use of the settings.
const READINGS: usize = 5;

/// The settings in force. Cheap to ask, shared by everybody.
pub struct SettingsWatch {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    settings: Arc<Settings>,
    stamp: Option<Stamp>,
    /// The error that was said last: the same one is said once.
    said: Option<String>,
}

impl State {
    fn new(settings: Settings, stamp: Option<Stamp>) -> Mutex<Self> {
        Mutex::new(Self {
            settings: Arc::new(settings),
            stamp,
            said: None,
        })
    }
}

impl SettingsWatch {
    /// Reads the settings of the vault in this directory.
    pub fn open(vault: &Path) -> Result<Self, VaultError> {
        let path = Settings::path_in(vault);
        let stamp = stamp(&path);
        let state = State::new(Settings::read(&path)?, stamp);
        Ok(Self { path, state })
    }

    /// These settings, and no file that could change them. For tests and for embedding.
    pub fn fixed(settings: Settings) -> Self {
        Self {
            path: PathBuf::new(),
            state: State::new(settings, None),
        }
    }

    /// The settings now. A changed file is read first, at the price of one `stat`; when it
    /// cannot be read, that is logged once and the earlier settings stay in force.
    pub fn now(&self) -> Arc<Settings> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp(&self.path) != state.stamp {
            self.take(&mut state, &mut || std::thread::sleep(SETTLING));
        }
        state.settings.clone()
    }

    /// Reads the file again, changed or not.
    pub fn reload(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.said = None;
        self.take(&mut state, &mut || std::thread::sleep(SETTLING));
    }

    /// Takes what the file says once nobody changes it: half of it may be good settings too,
    /// without the quota or the lock that the other half has. `pause` comes between two looks.
    fn take(&self, state: &mut State, pause: &mut dyn FnMut()) {
        for _ in 0..READINGS {
            let before = stamp(&self.path);
            let read = Settings::read(&self.path);
            pause();
            if stamp(&self.path) != before {
                continue;
            }
            state.stamp = before;
            match read {
                Ok(settings) => {
                    tracing::info!(path = %self.path.display(), "settings read");
                    state.settings = Arc::new(settings);
                    state.said = None;
                }
                Err(error) => {
                    let text = error.to_string();
                    if state.said.as_ref() != Some(&text) {
                        tracing::error!(%error, remedy = error.remedy(), "settings left as they were");
                        state.said = Some(text);
                    }
                }
            }
            return;
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((
        found.dev(),
        found.ino(),
        found.size(),
        found.mtime(),
        found.mtime_nsec(),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards quotas and locks against an editor that has written half a file, or removed the
    /// old one before it writes the new.
    #[test]
    fn a_file_that_is_being_written_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = Settings::path_in(dir.path());
        std::fs::write(&path, "[immutability]\ndays = 7\n").unwrap();
        let watch = SettingsWatch::open(dir.path()).unwrap();
        let mut state = watch.state.lock().unwrap();
        std::fs::write(&path, "[immutability]\n").unwrap();
        let mut seen = Vec::new();
        let mut steps = ["", "days = 14\n", "days = 14\n"].into_iter();
        watch.take(&mut state, &mut || {
            let Some(more) = steps.next() else { return };
            seen.push(more);
            match more.is_empty() {
                true => std::fs::remove_file(&path).unwrap(),
                false => std::fs::write(&path, format!("[immutability]\n{more}")).unwrap(),
            }
        });
        assert_eq!(state.settings.immutability.days, 14);
        // Never done: what was in force stays, and the next use looks again.
        let mut days = 20;
        watch.take(&mut state, &mut || {
            days *= 10;
            std::fs::write(&path, format!("[immutability]\ndays = {days}\n")).unwrap();
        });
        assert_eq!(state.settings.immutability.days, 14);
        assert_ne!(stamp(&path), state.stamp);
    }
}
