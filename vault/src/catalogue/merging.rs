//! The thread that makes one segment of several, while others read and write.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::params;

use super::Catalogue;
use super::segments::OpenSegments;
use crate::error::StoreError;
use crate::index::{merge, run_to_merge};

/// The thread that merges. Dropped, it is told to stop, and waited for.
pub(super) struct Merger {
    stop: Arc<AtomicBool>,
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Merger {
    /// Starts it, for the catalogue in this file.
    pub(super) fn start(path: &Path, segments: &Arc<OpenSegments>) -> Result<Self, StoreError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (wake, woken) = sync_channel(1);
        let thread = std::thread::Builder::new().name("relevo-index".into());
        let (path, segments, told) = (path.to_path_buf(), segments.clone(), stop.clone());
        let thread = thread
            .spawn(move || merge_when_woken(&path, &segments, &told, &woken))
            .map_err(|e| StoreError::io("start merging the index", &e))?;
        Ok(Self {
            stop,
            wake: Some(wake),
            thread: Some(thread),
        })
    }

    /// Has it look what there is to merge.
    pub(super) fn wake(&self) {
        if let Some(wake) = &self.wake {
            // Full: it will look again anyway.
            let _ = wake.try_send(());
        }
    }
}

impl Drop for Merger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake.take();
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Catalogue {
    /// Merges one run of a tenant's segments; false when there is none.
    fn merge_some(&self, tenant: i64, abandon: &AtomicBool) -> Result<bool, StoreError> {
        let layers = self.consistently(|this| this.layers(tenant))?.0;
        let records: Vec<u64> = layers.iter().map(|segment| segment.records()).collect();
        let run = run_to_merge(&records);
        let Some(newest) = layers.first().filter(|_| run > 0) else {
            return Ok(false);
        };
        let merged = &layers[..run];
        let number = self.segments.next_number()?;
        let oldest = run == layers.len();
        let index = &self.segments.index;
        let made = merge(index, newest.tenant(), number, merged, oldest, abandon)?;
        let made = made.map(Arc::new);
        if let Some(made) = &made {
            self.segments.add(made.clone());
        }
        let swapped = self.in_one_transaction(|this| {
            let mut layer = 0;
            for segment in merged {
                let row: i64 = this
                    .db
                    .prepare_cached(
                        "DELETE FROM segments WHERE tenant = ?1 AND number = ?2 RETURNING layer",
                    )?
                    .query_row(params![tenant, segment.number() as i64], |row| row.get(0))?;
                layer = row.max(layer);
            }
            match &made {
                Some(made) => this.name_segment(tenant, made, layer),
                None => Ok(()),
            }
        });
        match swapped {
            Ok(()) => merged.iter().for_each(|old| self.segments.remove(old)),
            Err(_) => made.iter().for_each(|new| self.segments.remove(new)),
        }
        swapped.map(|()| true)
    }
}

fn merge_when_woken(
    path: &Path,
    segments: &Arc<OpenSegments>,
    stop: &AtomicBool,
    woken: &Receiver<()>,
) {
    while woken.recv().is_ok() && !stop.load(Ordering::Relaxed) {
        if let Err(error) = merge_all(path, segments, stop)
            && !stop.load(Ordering::Relaxed)
        {
            tracing::warn!(%error, "segments of the index could not be merged");
            note_damage(path, segments, &error);
        }
    }
}

/// Has damage that merging met mended at the next start.
fn note_damage(path: &Path, segments: &Arc<OpenSegments>, error: &StoreError) {
    if matches!(error, StoreError::Index(_)) {
        let opened = Catalogue::open_sharing(path, segments.clone());
        if let Err(error) = opened.and_then(|(catalogue, _)| catalogue.note_index_damage()) {
            tracing::error!(%error, "the damage could not be noted: run 'relevo-vault rebuild'");
        }
    }
}

fn merge_all(
    path: &Path,
    segments: &Arc<OpenSegments>,
    stop: &AtomicBool,
) -> Result<(), StoreError> {
    let (catalogue, _) = Catalogue::open_sharing(path, segments.clone())?;
    // What was merged is removed only when the catalogue cannot go back to before.
    catalogue.db.pragma_update(None, "synchronous", "FULL")?;
    let mut query = catalogue
        .db
        .prepare("SELECT DISTINCT tenant FROM segments")?;
    let tenants: Vec<i64> = query
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for tenant in tenants {
        while !stop.load(Ordering::Relaxed) && catalogue.merge_some(tenant, stop)? {}
    }
    Ok(())
}
