//! A disk of the run as the readers see it.

use std::sync::{Mutex, PoisonError};

use super::volume::{Source, Volume};
use super::whole::{Seen, Whole, demand};
use crate::disk::Disk;
use crate::stop::Stop;

/// Bytes that are read at once: structures lie near each other.
const WINDOW: usize = 64 << 10;

/// Reads structures of a disk.
pub struct DiskSource<'a> {
    disk: &'a Disk,
    /// Where it begins, and bytes.
    window: Mutex<(u64, Vec<u8>)>,
    halt: Option<&'a Stop>,
}

impl<'a> DiskSource<'a> {
    /// Over a disk.
    pub fn new(disk: &'a Disk) -> Self {
        let (window, halt) = (Mutex::default(), None);
        Self { disk, window, halt }
    }

    /// Fails once `halt` is set, so that a long survey ends.
    pub fn until(self, halt: &'a Stop) -> Self {
        let halt = Some(halt);
        Self { halt, ..self }
    }

    /// The disk as a volume, under this number.
    pub fn volume(&self, number: usize) -> Volume<'_> {
        Volume::Disk(self, number)
    }
}

impl Source for DiskSource<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn sector(&self) -> u32 {
        self.disk.sector()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Seen<()> {
        let interrupted = self.halt.is_some_and(Stop::is_set);
        demand(!interrupted, "the run is being interrupted")?;
        let left = self.disk.size().checked_sub(offset);
        let left = left.filter(|left| *left >= buffer.len() as u64);
        let left = left.ok_or(Whole::new("a structure points beyond the disk's end"))?;
        if buffer.len() >= WINDOW {
            return Ok(self.disk.read_at(offset, buffer)?);
        }
        // Each use leaves it whole, or empty.
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let within = |window: &(u64, Vec<u8>)| {
            let at = usize::try_from(offset.checked_sub(window.0)?).ok()?;
            let end = at.checked_add(buffer.len())?;
            (end <= window.1.len()).then_some(at..end)
        };
        if within(&window).is_none() {
            let mut bytes = std::mem::take(&mut window.1);
            bytes.resize(left.min(WINDOW as u64) as usize, 0);
            if self.disk.read_at(offset, &mut bytes).is_err() {
                // What is asked for may still be readable.
                return Ok(self.disk.read_at(offset, buffer)?);
            }
            *window = (offset, bytes);
        }
        if let Some(found) = within(&window) {
            buffer.copy_from_slice(&window.1[found]);
        }
        Ok(())
    }

    fn forget(&self) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.1.clear();
    }
}
