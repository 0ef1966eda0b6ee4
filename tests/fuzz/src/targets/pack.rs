//! A pack's header and entries.

use relevo_vault::pack::{
    ENTRY_HEADER, EntryKind, FIRST_ENTRY, PackHeader, entry_size, push_entry,
};
use relevo_vault::record::Record;
use relevo_vault::scan::{Scan, scan};

use crate::Input;

const SALT: [u8; 32] = [3; 32];

/// First byte even: a header of 128 bytes and the bytes behind it, as they stand. Odd: entries
/// (kind, length of two bytes, body) with right checksums, behind as many bits to flip as the
/// second byte says (place of three bytes each).
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    if input.byte().is_multiple_of(2) {
        let head = input.up_to(128);
        let mut first = vec![0; FIRST_ENTRY as usize];
        first[..head.len()].copy_from_slice(head);
        first[4096..4096 + head.len()].copy_from_slice(head);
        let salt = PackHeader::decode(&first).map_or(SALT, |(header, both)| {
            assert!(both, "its copies are the same");
            assert_eq!(PackHeader::decode(&header.encode()), Some((header, true)));
            header.salt
        });
        check(input.rest(), &salt);
        return;
    }
    let flips: Vec<usize> = (0..input.byte() % 8)
        .map(|_| input.short() | usize::from(input.byte()) << 16)
        .collect();
    let mut entries = Vec::new();
    while !input.is_empty() {
        let kind = EntryKind::from_number(input.byte() % 16).unwrap_or(EntryKind::Chunk);
        let length = input.short();
        let body = input.up_to(length);
        let id = match kind {
            EntryKind::Void => [0; 32],
            _ => *blake3::hash(body).as_bytes(),
        };
        push_entry(&mut entries, FIRST_ENTRY, &SALT, kind, id, body);
    }
    for flip in flips {
        let bits = entries.len() * 8;
        if bits > 0 {
            entries[flip % bits / 8] ^= 1 << (flip % 8);
        }
    }
    check(&entries, &SALT);
}

fn check(bytes: &[u8], salt: &[u8; 32]) {
    let end = FIRST_ENTRY + bytes.len() as u64;
    let found = scan(&bytes.to_vec().into(), FIRST_ENTRY, salt);
    accounts_for_all(&found, end);
    for entry in &found.entries {
        let record = entry.record.as_ref();
        if let Some(Record::Chunk(chunk)) = record {
            let body_at = (entry.offset - FIRST_ENTRY) as usize + ENTRY_HEADER;
            let body = &bytes[body_at..body_at + entry.length as usize];
            assert_eq!(chunk.id().as_bytes(), blake3::hash(body).as_bytes());
        } else if let Some(Ok((id, body))) = record.map(Record::encode) {
            let kind = record.map_or(EntryKind::Void, Record::kind);
            let again = Record::decode(kind, &id, body);
            assert_eq!(again.as_ref().ok(), record, "written, it reads differently");
        }
    }
}

/// Entries and gaps follow one another from the first byte to the last. The only overlap is of
/// an entry with a gap in its padding.
fn accounts_for_all(found: &Scan, end: u64) {
    let entries = found.entries.iter().map(|entry| {
        let size = entry_size(entry.length as usize);
        (entry.offset, entry.offset + size, true)
    });
    let gaps = found.gaps.iter();
    let gaps = gaps.map(|gap| (gap.offset, gap.offset + gap.length, false));
    let mut pieces: Vec<_> = entries.chain(gaps).collect();
    pieces.sort_unstable();
    let mut at = FIRST_ENTRY;
    for (from, to, is_entry) in pieces {
        let in_padding = !is_entry && to == at && to - from < 16;
        assert!(from == at || in_padding, "{from} follows {at}");
        at = to;
    }
    assert_eq!(at, end, "the last byte belongs to nothing");
    assert!(found.end <= end && found.tail() <= end - FIRST_ENTRY);
}
