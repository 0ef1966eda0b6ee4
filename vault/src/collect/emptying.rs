//! Rewrites packs that are dead enough, and takes away what is empty.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use relevo_wire::{ChunkId, TenantId};

use super::report::Report;
use super::{Rule, ends_all};
use crate::catalogue::PackUse;
use crate::error::StoreError;
use crate::ledger::{open_pack_header, take_away};
use crate::pack::{ENTRY_HEADER, EntryHeader, EntryKind, FIRST_ENTRY, MAX_BODY, entry_size};
use crate::record::Record;
use crate::store::Store;
use crate::volume::{PackId, Volume, read_exact};

/// Bytes of live entries that one job of the writer appends.
const PIECE: usize = 4 * 1024 * 1024;
/// Entries whose place is looked up together.
const ENTRIES: usize = 256;
/// Bytes read for a header: small entries come with it.
const WINDOW: usize = 4096;

/// Rewrites the tenant's packs for which the rule says so.
pub(super) fn empty<V: Volume>(
    store: &Store<V>,
    tenant: TenantId,
    rule: &Rule,
    stop: &AtomicBool,
    report: &mut Report,
) -> Result<(), StoreError> {
    let mut left_alone = HashSet::new();
    // Looked at anew each time: the newest pack is soon another one. It ends, since no pack that
    // is copied to has anything dead.
    while !stop.load(Ordering::Relaxed) {
        let packs = store.read(|c| c.pack_use(tenant))?;
        let mut next = candidates(&packs, rule).into_iter();
        let Some(used) = next.find(|used| !left_alone.contains(&used.number)) else {
            break;
        };
        let number = used.number;
        let pack = PackId { tenant, number };
        match empty_one(store, pack, used.length, report).and_then(|emptied| {
            if let Emptied::Whole = emptied {
                store.in_writer(move |ledger| ledger.retire(pack))?;
            }
            Ok(emptied)
        }) {
            Ok(Emptied::Whole) => {
                report.packs_retired += 1;
                match take_away(&**store.volume(), store.vault(), pack) {
                    Ok(()) => report.bytes_freed += used.length,
                    Err(error) => report.fail(format_args!("pack {pack}"), &error),
                }
            }
            Ok(Emptied::LeftAlone(reason)) => {
                left_alone.insert(number);
                report.damage.push(format!("pack {pack}: {reason}"));
            }
            Err(error) if ends_all(&error) => return Err(error),
            Err(error) => {
                left_alone.insert(number);
                report.fail(format_args!("pack {pack}"), &error);
            }
        }
    }
    Ok(())
}

/// Takes files away that an earlier collection could not, though their packs are retired.
pub(super) fn take_away_retired<V: Volume>(
    store: &Store<V>,
    report: &mut Report,
) -> Result<(), StoreError> {
    let retired: HashSet<PackId> = store.read(|c| c.retired())?.into_iter().collect();
    let mut there = match store.volume().list() {
        Ok(there) => there,
        Err(error) => {
            let error = StoreError::io("list the packs", &error);
            report.fail("retired packs", &error);
            return Ok(());
        }
    };
    there.retain(|pack| retired.contains(pack));
    there.sort_unstable();
    for pack in there {
        let length = store.volume().length(pack).unwrap_or(0);
        match take_away(&**store.volume(), store.vault(), pack) {
            Ok(()) => report.bytes_freed += length,
            Err(error) => report.fail(format_args!("pack {pack}"), &error),
        }
    }
    Ok(())
}

/// The packs that are dead enough: never the newest, into which the others are emptied.
pub(super) fn candidates(packs: &[PackUse], rule: &Rule) -> Vec<PackUse> {
    let newest = packs.iter().map(|used| used.number).max();
    let enough = |used: &&PackUse| {
        let entries = used.length.saturating_sub(FIRST_ENTRY);
        Some(used.number) != newest
            && used.dead > 0
            && used.dead as f64 >= entries as f64 * rule.rewrite_at
    };
    packs.iter().filter(enough).copied().collect()
}

enum Emptied {
    /// Everything of use was carried over.
    Whole,
    /// It holds something that cannot be judged: why.
    LeftAlone(String),
}

/// An entry that may have to be carried over.
struct Entry {
    offset: u64,
    header: EntryHeader,
    kind: EntryKind,
    /// Its bytes when they came with the header.
    body: Option<Bytes>,
}

/// Carries over all that is of use in a pack. What is damaged there keeps it as it is: perhaps it
/// can be healed.
fn empty_one<V: Volume>(
    store: &Store<V>,
    pack: PackId,
    length: u64,
    report: &mut Report,
) -> Result<Emptied, StoreError> {
    let header = match open_pack_header(&**store.volume(), store.vault(), pack)? {
        Ok(header) => header,
        Err(reason) => return Ok(Emptied::LeftAlone(reason)),
    };
    let mut offset = FIRST_ENTRY;
    let mut piece = Piece::default();
    while offset < length {
        let (entries, next) = match entries(store, pack, &header.salt, offset, length) {
            Ok(read) => read,
            Err(reason) => return Ok(Emptied::LeftAlone(reason)),
        };
        offset = next;
        for (entry, needed) in judged(store, pack, entries)? {
            if !needed {
                continue;
            }
            let record = match record_of(store, pack, &entry) {
                Ok(record) => record,
                Err(reason) => return Ok(Emptied::LeftAlone(reason)),
            };
            piece.bytes += entry.header.length as usize;
            piece.entries.push((entry.offset, record));
            if piece.bytes >= PIECE {
                piece.write(store, pack, report)?;
            }
        }
    }
    let copied = piece.copied || !piece.entries.is_empty();
    piece.write(store, pack, report)?;
    report.packs_rewritten += u64::from(copied);
    Ok(Emptied::Whole)
}

#[derive(Default)]
struct Piece {
    entries: Vec<(u64, Record)>,
    bytes: usize,
    copied: bool,
}

impl Piece {
    fn write<V: Volume>(
        &mut self,
        store: &Store<V>,
        pack: PackId,
        report: &mut Report,
    ) -> Result<(), StoreError> {
        let entries = std::mem::take(&mut self.entries);
        self.bytes = 0;
        if !entries.is_empty() {
            let copied = store.in_writer(move |ledger| ledger.carry_over(pack, &entries))?;
            self.copied |= copied > 0;
            report.bytes_copied += copied;
        }
        Ok(())
    }
}

/// The next entries, and where those behind them begin. The error says what is wrong.
fn entries<V: Volume>(
    store: &Store<V>,
    pack: PackId,
    salt: &[u8; 32],
    mut offset: u64,
    length: u64,
) -> Result<(Vec<Entry>, u64), String> {
    let mut found = Vec::new();
    let (mut window, mut from) = (Bytes::new(), offset);
    while offset < length && found.len() < ENTRIES {
        let ahead = (length - offset) as usize;
        if (offset - from) as usize + ENTRY_HEADER.min(ahead) > window.len() {
            from = offset;
            window = read_exact(&**store.volume(), pack, from, WINDOW.min(ahead))
                .map_err(|e| format!("it cannot be read at {offset}: {e}"))?;
        }
        let at = (offset - from) as usize;
        let header = EntryHeader::decode(&window[at..], salt, offset)
            .ok_or_else(|| format!("no entry begins at {offset}"))?;
        let size = entry_size(header.length as usize);
        let kind = EntryKind::from_number(header.kind)
            .ok_or_else(|| format!("the entry at {offset} is of a newer release"))?;
        let absurd = header.length as usize > MAX_BODY && kind != EntryKind::Void;
        if absurd || size > length - offset {
            return Err(format!("the entry at {offset} is cut short"));
        }
        if kind != EntryKind::Void {
            let body = at + ENTRY_HEADER..at + ENTRY_HEADER + header.length as usize;
            found.push(Entry {
                offset,
                header,
                kind,
                body: (body.end <= window.len()).then(|| window.slice(body)),
            });
        }
        offset += size;
        // A window is not kept for what was skipped.
        if (offset - from) as usize > window.len() {
            (window, from) = (Bytes::new(), offset);
        }
    }
    Ok((found, offset))
}

/// Which of the entries may be needed. Dead chunks are not even read.
fn judged<V: Volume>(
    store: &Store<V>,
    pack: PackId,
    entries: Vec<Entry>,
) -> Result<Vec<(Entry, bool)>, StoreError> {
    let chunk = |entry: &&Entry| entry.kind == EntryKind::Chunk;
    let chunks = entries.iter().filter(chunk);
    let ids: Vec<ChunkId> = chunks.map(|e| ChunkId::from_bytes(e.header.id)).collect();
    let mut states = store.read(|c| c.states(pack.tenant, &ids))?.into_iter();
    let mut judged = Vec::with_capacity(entries.len());
    for entry in entries {
        let needed = match entry.kind {
            EntryKind::Chunk => match states.next().unwrap_or_default() {
                state if state.place.is_none() => state.refs > 0,
                state => state
                    .place
                    .is_some_and(|at| (at.pack, at.offset) == (pack.number, entry.offset)),
            },
            _ => true,
        };
        judged.push((entry, needed));
    }
    Ok(judged)
}

fn record_of<V: Volume>(store: &Store<V>, pack: PackId, entry: &Entry) -> Result<Record, String> {
    let at = entry.offset;
    let body = match &entry.body {
        Some(body) => Bytes::copy_from_slice(body),
        None => {
            let length = entry.header.length as usize;
            read_exact(&**store.volume(), pack, at + ENTRY_HEADER as u64, length)
                .map_err(|e| format!("the entry at {at} cannot be read: {e}"))?
        }
    };
    Record::decode(entry.kind, &entry.header.id, body)
        .map_err(|reason| format!("the entry at {at} is damaged: {reason}"))
}
