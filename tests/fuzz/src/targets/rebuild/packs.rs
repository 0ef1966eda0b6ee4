//! Packs from the bytes of an input.

use relevo_vault::pack::{EntryKind, PackHeader, push_entry};
use relevo_vault::record::{Record, RetiredRecord, ServerRecord};
use relevo_vault::volume::PackId;
use relevo_wire::{TenantId, Timestamp, VaultId};

use super::material::Material;
use crate::Input;

/// What a byte of the input does.
pub mod commands {
    /// The next byte names one of the chunks.
    pub const CHUNK: u8 = 0;
    /// All chunks of an image, then its point; the next byte names it.
    pub const IMAGE: u8 = 1;
    /// A point alone.
    pub const POINT: u8 = 2;
    /// A body as it stands, under right checksums: kind, length, bytes.
    pub const RECORD: u8 = 3;
    /// A new pack: tenant (low bit) and number.
    pub const PACK: u8 = 4;
    /// Flips a bit of the pack: place of two bytes.
    pub const FLIP: u8 = 5;
    /// Cuts the pack short by so many bytes (two).
    pub const CUT: u8 = 6;
    /// Says that a pack is gone: its number.
    pub const RETIRE: u8 = 7;
    /// Spoils the header of the pack: what of it.
    pub const HEADER: u8 = 8;
    /// A node that names chunks: level, count, and a byte for each.
    pub const NODE: u8 = 9;
    /// How many there are.
    pub const COUNT: u8 = 10;
}

/// Packs by the names under which they stand.
pub type Packs = Vec<(PackId, Vec<u8>)>;

/// Does what an input says.
pub fn packs(material: &Material, vault: VaultId, bytes: &[u8]) -> Packs {
    let mut input = Input::new(bytes);
    let mut packs: Packs = Vec::new();
    let salt = [8; 32];
    let begin = |tenant: TenantId, number: u32| {
        let pack = PackId { tenant, number };
        let mut header = PackHeader::new(vault, pack);
        header.salt = salt;
        (pack, header.encode())
    };
    packs.push(begin(tenant(0), 1));
    while !input.is_empty() && packs.len() < 16 {
        let command = input.byte() % commands::COUNT;
        if command == commands::PACK {
            let (whose, number) = (input.byte(), input.byte());
            let new = begin(tenant(whose), u32::from(number));
            if packs.iter().all(|(pack, _)| *pack != new.0) {
                packs.push(new);
            }
            continue;
        }
        let Some((_, pack)) = packs.last_mut() else {
            continue;
        };
        let mut push = |kind, body: &[u8]| {
            let id = *blake3::hash(body).as_bytes();
            // Behind a cut, entries begin where a multiple of 16 does.
            pack.resize(pack.len().next_multiple_of(16), 0);
            let base = pack.len() as u64;
            let mut entry = Vec::new();
            push_entry(&mut entry, base, &salt, kind, id, body);
            pack.extend_from_slice(&entry);
        };
        let mut record = |record: &Record| {
            if let Ok((_, body)) = record.encode() {
                push(record.kind(), &body);
            }
        };
        match command {
            commands::CHUNK => {
                let which = usize::from(input.byte()) % material.chunks.len();
                push(EntryKind::Chunk, material.chunks[which].bytes());
            }
            commands::IMAGE => {
                let which = usize::from(input.byte()) % material.images.len();
                for chunk in &material.chunks[material.images[which].clone()] {
                    record(&Record::Chunk(chunk.clone()));
                }
                record(&Record::Point(Box::new(material.points[which].clone())));
            }
            commands::POINT => {
                let which = usize::from(input.byte()) % material.points.len();
                record(&Record::Point(Box::new(material.points[which].clone())));
                record(&Record::Server(ServerRecord {
                    id: material.server,
                    name: "web1".into(),
                    enrolled: Timestamp::from_millis(0),
                }));
            }
            commands::RECORD => {
                let kind = EntryKind::from_number(input.byte() % 12).unwrap_or(EntryKind::Chunk);
                let length = usize::from(input.byte());
                push(kind, input.up_to(length));
            }
            commands::NODE => {
                let (level, count) = (input.byte() % 8, input.byte() % 32);
                let mut node = vec![2, level, count, 0];
                for _ in 0..count {
                    let which = usize::from(input.byte()) % material.chunks.len();
                    node.extend_from_slice(material.chunks[which].id().as_bytes());
                }
                push(EntryKind::Chunk, &node);
            }
            commands::FLIP => {
                let at = input.short() % (pack.len() * 8);
                pack[at / 8] ^= 1 << (at % 8);
            }
            commands::CUT => {
                let left = pack.len().saturating_sub(input.short());
                pack.truncate(left.max(1));
            }
            commands::RETIRE => {
                let pack = u32::from(input.byte());
                let retired = Timestamp::from_millis(0);
                record(&Record::Retired(RetiredRecord { pack, retired }));
            }
            commands::HEADER => {
                let what = input.byte();
                if let Some((mut header, _)) = PackHeader::decode(pack) {
                    match what % 4 {
                        0 => header.vault = VaultId::from_bytes([what; 16]),
                        1 => header.pack.number += u32::from(what),
                        2 => header.version += u32::from(what),
                        _ => header.pack.tenant = TenantId::from_bytes([what; 16]),
                    }
                    let bytes = header.encode();
                    pack[..bytes.len()].copy_from_slice(&bytes);
                }
            }
            _ => unreachable!("there are {} commands", commands::COUNT),
        }
    }
    packs
}

fn tenant(number: u8) -> TenantId {
    TenantId::from_bytes([number % 2 + 1; 16])
}
