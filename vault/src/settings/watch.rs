//! The settings in force, read anew when their file changes.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::Settings;
use crate::error::VaultError;

/// What tells one version of a file from another: device, inode, size, time of change.
type Stamp = (u64, u64, u64, i64, i64);

/// The settings in force. Cheap to ask, shared by everybody.
pub struct SettingsWatch {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    settings: Arc<Settings>,
    stamp: Option<Stamp>,
}

impl SettingsWatch {
    /// Reads the settings of the vault in this directory.
    pub fn open(vault: &Path) -> Result<Self, VaultError> {
        let path = Settings::path_in(vault);
        let stamp = stamp(&path);
        let settings = Arc::new(Settings::read(&path)?);
        Ok(Self {
            path,
            state: Mutex::new(State { settings, stamp }),
        })
    }

    /// These settings, and no file that could change them. For tests and for embedding.
    pub fn fixed(settings: Settings) -> Self {
        Self {
            path: PathBuf::new(),
            state: Mutex::new(State {
                settings: Arc::new(settings),
                stamp: None,
            }),
        }
    }

    /// The settings now. A changed file is read first, at the price of one `stat`; when it
    /// cannot be read, that is logged once and the earlier settings stay in force.
    pub fn now(&self) -> Arc<Settings> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.path);
        if stamp != state.stamp {
            state.stamp = stamp;
            self.take(&mut state);
        }
        state.settings.clone()
    }

    /// Reads the file again, changed or not.
    pub fn reload(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stamp = stamp(&self.path);
        self.take(&mut state);
    }

    fn take(&self, state: &mut State) {
        match Settings::read(&self.path) {
            Ok(settings) => {
                tracing::info!(path = %self.path.display(), "settings read");
                state.settings = Arc::new(settings);
            }
            Err(error) => {
                tracing::error!(%error, remedy = error.remedy(), "settings left as they were");
            }
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
