//! What a recovered server writes, kept above an image that is never modified.
//!
//! ```text
//! DIR/map    header page, then for each stretch of the disk one page of grain states, twice
//! DIR/data   written grains at their own offsets; holes elsewhere
//! ```
//!
//! The disk is cut into grains of [`GRAIN`] bytes; each is the base's, ours, or zeros.
//!
//! Crash safety. A flush first makes the data durable, then writes each changed page of states
//! to the older of its two places, then makes those durable. A page carries a number and a
//! checksum; on opening, the newer whole one counts. So a page torn by a crash is noticed and
//! its predecessor, which the last completed flush wrote, is used: everything before the last
//! completed flush is there. A flush that failed once fails for good: what was lost by then may
//! be anything.

mod map;
mod medium;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

pub use map::Amounts;
use map::{GrainMap, GrainState};
use medium::Distrustful;
pub use medium::{FileMedium, Medium};

use crate::block::{BlockError, BlockRead, BlockWrite, check_range};

/// Bytes of disk whose state is kept as one: a file system's block.
pub const GRAIN: u64 = 4096;
/// Writers of different grains rarely wait for each other.
const LOCKS: usize = 64;

/// Why an overlay could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// It lies above another image.
    #[error("the overlay in {path} belongs to {found}, not to {expected}")]
    OtherBase {
        /// Its directory.
        path: PathBuf,
        /// What it was made over.
        found: String,
        /// What it was to be opened over.
        expected: String,
    },
    /// It cannot be trusted.
    #[error("the overlay in {path} is damaged: {reason}")]
    Damaged {
        /// Its directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another process writes it.
    #[error("the overlay in {path} is in use by another process")]
    InUse {
        /// Its directory.
        path: PathBuf,
    },
    /// Its files failed.
    #[error(transparent)]
    Block(#[from] BlockError),
}

impl From<OverlayError> for crate::failure::Failure {
    fn from(error: OverlayError) -> Self {
        let remedy = match &error {
            OverlayError::OtherBase { .. } => {
                "choose the recovery point it belongs to, or throw it away with 'relevo-recover stop SERVER --discard'"
            }
            OverlayError::Damaged { .. } => {
                "throw it away with 'relevo-recover stop SERVER --discard' and fail over again"
            }
            OverlayError::InUse { .. } => "stop the other process: see 'relevo-recover status'",
            OverlayError::Block(_) => "check the disk that holds the state directory",
        };
        match error {
            OverlayError::Block(inner) => inner.into(),
            other => Self::new(other.to_string(), remedy),
        }
    }
}

/// A disk that can be written: a base that stays as it is, and what was written since.
pub struct Overlay<M: Medium = FileMedium> {
    base: Box<dyn BlockRead>,
    data: Distrustful<M>,
    map: GrainMap<M>,
    states: RwLock<map::States>,
    grains: Vec<Mutex<()>>,
    flushing: Mutex<()>,
}

impl Overlay<FileMedium> {
    /// Opens the overlay in `dir`, or makes a new one, above `base`. `base_id` names what the
    /// base holds: it can only be opened again above the same.
    pub fn open(dir: &Path, base: Box<dyn BlockRead>, base_id: &str) -> Result<Self, OverlayError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| OverlayError::Block(BlockError::Io { path, source })
        };
        std::fs::create_dir_all(dir).map_err(io(dir))?;
        let data = FileMedium::open(&dir.join("data"))?;
        data.reserve(base.size())?;
        let map = FileMedium::open(&dir.join("map"))?;
        if !map.lock_exclusively()? {
            return Err(OverlayError::InUse {
                path: dir.to_path_buf(),
            });
        }
        let overlay = Self::over(base, base_id, data, map, dir)?;
        File::open(dir)
            .and_then(|d| d.sync_all())
            .map_err(io(dir))?;
        Ok(overlay)
    }
}

impl<M: Medium> Overlay<M> {
    /// Over any two media.
    pub fn over(
        base: Box<dyn BlockRead>,
        base_id: &str,
        data: M,
        map: M,
        dir: &Path,
    ) -> Result<Self, OverlayError> {
        let (map, states) = GrainMap::open(map, base.size(), base_id, dir)?;
        Ok(Self {
            base,
            data: Distrustful::new(data),
            map,
            states: RwLock::new(states),
            grains: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            flushing: Mutex::new(()),
        })
    }

    /// How much was written and discarded.
    pub fn amounts(&self) -> Amounts {
        self.read_states().amounts()
    }

    fn read_states(&self) -> std::sync::RwLockReadGuard<'_, map::States> {
        self.states.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self, grain: u64) -> GrainState {
        self.read_states().get(grain)
    }

    fn set(&self, grain: u64, count: u64, state: GrainState) {
        let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
        for grain in grain..grain + count {
            states.set(grain, state);
        }
    }

    fn lock_grain(&self, grain: u64) -> MutexGuard<'_, ()> {
        self.grains[(grain % LOCKS as u64) as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn grain_len(&self, grain: u64) -> u64 {
        GRAIN.min(self.base.size() - grain * GRAIN)
    }

    /// Writes less than a grain: what surrounds it has to move here with it.
    fn write_part(&self, offset: u64, part: &[u8]) -> Result<(), BlockError> {
        let grain = offset / GRAIN;
        let _guard = self.lock_grain(grain);
        let state = self.state(grain);
        if state == GrainState::Ours {
            return self.data.write_at(offset, part);
        }
        let start = grain * GRAIN;
        let mut whole = vec![0; self.grain_len(grain) as usize];
        if state == GrainState::Base {
            self.base.read_at(start, &mut whole)?;
        }
        let at = (offset - start) as usize;
        whole[at..at + part.len()].copy_from_slice(part);
        self.data.write_at(start, &whole)?;
        self.set(grain, 1, GrainState::Ours);
        Ok(())
    }

    fn write_whole(&self, offset: u64, grains: &[u8]) -> Result<(), BlockError> {
        // A partial writer of one of these grains, who saw it as the base's, must not put
        // the base's bytes over ours: whoever was before us has finished, whoever comes
        // later finds the new state.
        let (first, count) = (offset / GRAIN, (grains.len() as u64).div_ceil(GRAIN));
        let mut locks: Vec<usize> = (first..first + count.min(LOCKS as u64))
            .map(|grain| (grain % LOCKS as u64) as usize)
            .collect();
        locks.sort_unstable();
        let _guards: Vec<_> = locks
            .iter()
            .map(|at| {
                self.grains[*at]
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
            })
            .collect();
        self.data.write_at(offset, grains)?;
        self.set(first, count, GrainState::Ours);
        Ok(())
    }

    /// Splits a range into a head, whole grains and a tail; the disk's last grain is whole
    /// when all of it is covered.
    fn split(&self, offset: u64, length: u64) -> (u64, u64) {
        let end = offset + length;
        let first = offset.next_multiple_of(GRAIN).min(end);
        let last = if end == self.base.size() {
            end
        } else {
            (end / GRAIN * GRAIN).max(first)
        };
        (first, last)
    }
}

impl<M: Medium> BlockRead for Overlay<M> {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        check_range(offset, buf.len() as u64, self.size())?;
        let end = offset + buf.len() as u64;
        let mut at = offset;
        while at < end {
            // Neighbours in the same state are read in one piece.
            let (state, until) = {
                let states = self.read_states();
                let state = states.get(at / GRAIN);
                let mut grain = at / GRAIN + 1;
                while grain * GRAIN < end && states.get(grain) == state {
                    grain += 1;
                }
                (state, (grain * GRAIN).min(end))
            };
            let part = &mut buf[(at - offset) as usize..(until - offset) as usize];
            match state {
                GrainState::Base => self.base.read_at(at, part)?,
                GrainState::Ours => self.data.read_at(at, part)?,
                GrainState::Zero => part.fill(0),
            }
            at = until;
        }
        Ok(())
    }
}

impl<M: Medium> BlockWrite for Overlay<M> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        check_range(offset, data.len() as u64, self.size())?;
        let (first, last) = self.split(offset, data.len() as u64);
        let place = |at: u64| (at - offset) as usize;
        if first > offset {
            self.write_part(offset, &data[..place(first)])?;
        }
        if last > first {
            self.write_whole(first, &data[place(first)..place(last)])?;
        }
        let end = offset + data.len() as u64;
        if end > last.max(first) {
            self.write_part(last.max(first), &data[place(last.max(first))..])?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken before the data is made durable: it covers writes that had returned by then.
        let changed = {
            let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
            states.take_changed()
        };
        let result = self.data.sync().and_then(|()| self.map.write(&changed));
        if result.is_err() {
            let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
            states.mark_changed(&changed);
        }
        result
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        check_range(offset, len, self.size())?;
        let (first, last) = self.split(offset, len);
        let (end, last) = (offset + len, last.max(first));
        if first > offset {
            self.write_part(offset, &vec![0; (first - offset) as usize])?;
        }
        if last > first {
            let (grain, count) = (first / GRAIN, (last - first).div_ceil(GRAIN));
            self.set(grain, count, GrainState::Zero);
            self.data.discard(first, last - first)?;
        }
        if end > last {
            self.write_part(last, &vec![0; (end - last) as usize])?;
        }
        Ok(())
    }
}
