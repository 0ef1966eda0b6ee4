//! Which grains are ours: states in memory, and the pages that keep them.
//!
//! ```text
//! map file    header page at 0; page i of the states at 4096·(1 + 2i) and 4096·(2 + 2i)
//! header      "RLVOVL01", u32 CRC of the rest, u64 disk size, u16 length of the id, the id
//! page        u32 CRC of the rest, u32 zero, u64 number, 4080 bytes: 4 grains in each
//! ```
//! Numbers are little endian; CRC is CRC-32 of IEEE 802.3. A page of zeros was never written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::medium::{Distrustful, Medium};
use super::{GRAIN, OverlayError};
use crate::block::BlockError;

const PAGE: usize = 4096;
const PREFIX: usize = 16;
const STATES: usize = PAGE - PREFIX;
/// Grains in one page.
const GRAINS: u64 = STATES as u64 * 4;
const MAGIC: &[u8; 8] = b"RLVOVL01";

/// Where a grain's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrainState {
    Base,
    Ours,
    Zero,
}

/// How much of a disk an overlay holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Amounts {
    /// Bytes written, in whole grains.
    pub written: u64,
    /// Bytes discarded, in whole grains.
    pub discarded: u64,
}

type StatePage = Box<[u8; STATES]>;

/// The states in memory: only pages in which something was ever written.
#[derive(Default)]
pub(super) struct States {
    pages: HashMap<u64, StatePage>,
    changed: BTreeSet<u64>,
    ours: u64,
    zero: u64,
}

/// Pages as they were at one moment.
pub(super) type ChangedPages = BTreeMap<u64, StatePage>;

impl States {
    pub(super) fn get(&self, grain: u64) -> GrainState {
        let Some(page) = self.pages.get(&(grain / GRAINS)) else {
            return GrainState::Base;
        };
        let within = grain % GRAINS;
        match page[(within / 4) as usize] >> (2 * (within % 4)) & 3 {
            1 => GrainState::Ours,
            2 => GrainState::Zero,
            _ => GrainState::Base,
        }
    }

    pub(super) fn set(&mut self, grain: u64, state: GrainState) {
        let old = self.get(grain);
        if old == state {
            return;
        }
        self.count(old, false);
        self.count(state, true);
        let page = grain / GRAINS;
        let bytes = self
            .pages
            .entry(page)
            .or_insert_with(|| Box::new([0; STATES]));
        let within = grain % GRAINS;
        let (at, shift) = ((within / 4) as usize, 2 * (within % 4));
        bytes[at] = bytes[at] & !(3 << shift) | (state as u8) << shift;
        self.changed.insert(page);
    }

    fn count(&mut self, state: GrainState, more: bool) {
        let counter = match state {
            GrainState::Base => return,
            GrainState::Ours => &mut self.ours,
            GrainState::Zero => &mut self.zero,
        };
        *counter = if more { *counter + 1 } else { *counter - 1 };
    }

    fn load(&mut self, page: u64, bytes: &[u8; STATES]) {
        for byte in bytes {
            for shift in [0, 2, 4, 6] {
                match byte >> shift & 3 {
                    1 => self.ours += 1,
                    2 => self.zero += 1,
                    _ => {}
                }
            }
        }
        self.pages.insert(page, Box::new(*bytes));
    }

    pub(super) fn amounts(&self) -> Amounts {
        Amounts {
            written: self.ours * GRAIN,
            discarded: self.zero * GRAIN,
        }
    }

    pub(super) fn take_changed(&mut self) -> ChangedPages {
        std::mem::take(&mut self.changed)
            .into_iter()
            .filter_map(|page| Some((page, self.pages.get(&page)?.clone())))
            .collect()
    }

    pub(super) fn mark_changed(&mut self, pages: &ChangedPages) {
        self.changed.extend(pages.keys());
    }
}

/// The pages on their medium.
pub(super) struct GrainMap<M> {
    medium: Distrustful<M>,
    /// For each page ever written: its newest number. Odd numbers are at its first place.
    numbers: Mutex<HashMap<u64, u64>>,
}

impl<M: Medium> GrainMap<M> {
    /// Opens the map, or makes it when the medium is blank.
    pub(super) fn open(
        medium: M,
        size: u64,
        base_id: &str,
        dir: &Path,
    ) -> Result<(Self, States), OverlayError> {
        let medium = Distrustful::new(medium);
        let header = encode_header(size, base_id);
        let mut found = vec![0; PAGE];
        medium.read_at(0, &mut found)?;
        let mut map = Self {
            medium,
            numbers: Mutex::new(HashMap::new()),
        };
        if found.iter().all(|b| *b == 0) {
            map.medium.write_at(0, &header)?;
            map.medium.sync()?;
            return Ok((map, States::default()));
        }
        if found != header {
            return Err(match decode_header(&found) {
                Some((found_size, found_id)) => OverlayError::OtherBase {
                    path: dir.to_path_buf(),
                    found: format!("{found_id} ({found_size} bytes)"),
                    expected: format!("{base_id} ({size} bytes)"),
                },
                None if map.medium.next_content(PAGE as u64)?.is_none() => {
                    // Torn while it was made: nothing was ever kept in it.
                    map.medium.write_at(0, &header)?;
                    map.medium.sync()?;
                    return Ok((map, States::default()));
                }
                None => damaged(dir, "its header does not match its checksum"),
            });
        }
        let states = map.load(size, dir)?;
        Ok((map, states))
    }

    fn load(&mut self, size: u64, dir: &Path) -> Result<States, OverlayError> {
        let mut states = States::default();
        let numbers = self
            .numbers
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let pages = size.div_ceil(GRAIN).div_ceil(GRAINS);
        let mut at = PAGE as u64;
        while let Some((start, end)) = self.medium.next_content(at)? {
            let first = (start / PAGE as u64).max(1).div_ceil(2).max(1) - 1;
            // A stretch of content may begin at a page's second place.
            let first = first.saturating_sub(1);
            let last = (end.div_ceil(PAGE as u64)).div_ceil(2).min(pages);
            for page in first..last {
                if numbers.contains_key(&page) {
                    continue;
                }
                let places = [
                    read_page(&self.medium, page, 1)?,
                    read_page(&self.medium, page, 0)?,
                ];
                let newest = places.iter().filter_map(|place| match place {
                    Place::Whole(number, bytes) => Some((*number, bytes)),
                    _ => None,
                });
                if let Some((number, bytes)) = newest.max_by_key(|(number, _)| *number) {
                    numbers.insert(page, number);
                    states.load(page, bytes);
                } else if places.iter().all(|p| matches!(p, Place::Torn)) {
                    return Err(damaged(
                        dir,
                        &format!("both copies of map page {page} are broken"),
                    ));
                }
                // One torn and one blank: the page's first write never completed.
            }
            at = end;
        }
        Ok(states)
    }

    /// Writes pages to the older of their places and makes them durable.
    pub(super) fn write(&self, pages: &ChangedPages) -> Result<(), BlockError> {
        if pages.is_empty() {
            return Ok(());
        }
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Vec::with_capacity(pages.len());
        for (page, bytes) in pages {
            let number = numbers.get(page).copied().unwrap_or(0) + 1;
            self.medium
                .write_at(place(*page, number), &encode_page(number, bytes))?;
            next.push((*page, number));
        }
        self.medium.sync()?;
        // Only now: were the sync to fail, the older copies must stay untouched.
        numbers.extend(next);
        Ok(())
    }
}

fn damaged(dir: &Path, reason: &str) -> OverlayError {
    OverlayError::Damaged {
        path: dir.to_path_buf(),
        reason: reason.into(),
    }
}

fn place(page: u64, number: u64) -> u64 {
    PAGE as u64 * (1 + 2 * page + (1 - number % 2))
}

enum Place {
    Blank,
    Whole(u64, Box<[u8; STATES]>),
    Torn,
}

fn read_page(medium: &impl Medium, page: u64, parity: u64) -> Result<Place, BlockError> {
    let mut bytes = vec![0; PAGE];
    medium.read_at(place(page, parity), &mut bytes)?;
    if bytes.iter().all(|b| *b == 0) {
        return Ok(Place::Blank);
    }
    let (crc, rest) = bytes.split_at(4);
    let mut number = [0; 8];
    number.copy_from_slice(&rest[4..12]);
    let number = u64::from_le_bytes(number);
    if crc != checksum(rest) || number % 2 != parity {
        return Ok(Place::Torn);
    }
    let mut states = Box::new([0; STATES]);
    states.copy_from_slice(&rest[12..]);
    Ok(Place::Whole(number, states))
}

fn encode_page(number: u64, states: &[u8; STATES]) -> Vec<u8> {
    let mut bytes = vec![0; PAGE];
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    bytes[PREFIX..].copy_from_slice(states);
    let crc = checksum(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc);
    bytes
}

fn encode_header(size: u64, base_id: &str) -> Vec<u8> {
    let id = &base_id.as_bytes()[..base_id.len().min(2048)];
    let mut bytes = vec![0; PAGE];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[12..20].copy_from_slice(&size.to_le_bytes());
    bytes[20..22].copy_from_slice(&(id.len() as u16).to_le_bytes());
    bytes[22..22 + id.len()].copy_from_slice(id);
    let crc = checksum(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc);
    bytes
}

fn decode_header(bytes: &[u8]) -> Option<(u64, String)> {
    if bytes[..8] != MAGIC[..] || bytes[8..12] != checksum(&bytes[12..]) {
        return None;
    }
    let size = u64::from_le_bytes(bytes[12..20].try_into().ok()?);
    let length = usize::from(u16::from_le_bytes(bytes[20..22].try_into().ok()?));
    let id = bytes.get(22..22 + length)?;
    Some((size, String::from_utf8_lossy(id).into_owned()))
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}
