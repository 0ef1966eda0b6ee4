//! A partition of a disk, read through a small cache.
//!
//! A file system reader asks for a block here and an inode there. Over a vault each such read
//! costs at least a chunk, so whole windows are fetched and the latest ones kept.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::block::{BlockError, BlockRead, check_range};

const WINDOW: u64 = 256 * 1024;
const KEPT: usize = 32;

pub(super) struct PartitionReader {
    disk: Arc<dyn BlockRead>,
    start: u64,
    len: u64,
    /// Most recently used first.
    windows: VecDeque<(u64, Vec<u8>)>,
}

impl PartitionReader {
    pub(super) fn new(disk: Arc<dyn BlockRead>, start: u64, len: u64) -> Self {
        Self {
            disk,
            start,
            len,
            windows: VecDeque::new(),
        }
    }

    pub(super) fn read(&mut self, mut at: u64, mut buf: &mut [u8]) -> Result<(), BlockError> {
        check_range(at, buf.len() as u64, self.len)?;
        while !buf.is_empty() {
            let inside = (at % WINDOW) as usize;
            let window = self.window(at - inside as u64)?;
            let part = buf.len().min(window.len() - inside);
            let (now, later) = buf.split_at_mut(part);
            now.copy_from_slice(&window[inside..inside + part]);
            buf = later;
            at += part as u64;
        }
        Ok(())
    }

    fn window(&mut self, base: u64) -> Result<&[u8], BlockError> {
        let entry = match self.windows.iter().position(|(at, _)| *at == base) {
            Some(index) => self.windows.remove(index),
            None => None,
        };
        let entry = match entry {
            Some(entry) => entry,
            None => {
                let mut bytes = vec![0u8; WINDOW.min(self.len - base) as usize];
                self.disk.read_at(self.start + base, &mut bytes)?;
                self.windows.truncate(KEPT - 1);
                (base, bytes)
            }
        };
        self.windows.push_front(entry);
        Ok(&self.windows[0].1)
    }
}
