//! A file of the chunk index.

use std::path::Path;
use std::sync::Arc;

use relevo_vault::index::Segment;
use relevo_vault::index::layout::{
    BLOCK, BLOCK_RECORDS, Footer, RECORD, Shape, VERSION, seal_block,
};
use relevo_wire::{ChunkId, TenantId};

use crate::Input;

const SALT: [u8; 32] = [9; 32];

/// First byte even: the rest is a file as it stands. Odd: number of records (two bytes), length
/// of the tail's content (two bytes), it and the records, under right checksums.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let file = match input.byte().is_multiple_of(2) {
        true => input.rest().to_vec(),
        false => sealed(&mut input),
    };
    let length = file.len();
    let Ok(segment) = Segment::open_bytes(Path::new("a hostile segment"), file) else {
        return;
    };
    assert!(segment.bytes() == length as u64 && segment.memory() <= 2 * length + 4096);
    let segment = Arc::new(segment);
    let mut ids = vec![ChunkId::from_bytes([0; 32]), ChunkId::from_bytes([255; 32])];
    let mut count = 0;
    for change in segment.changes() {
        count += 1;
        match change {
            Ok(change) => ids.push(change.id),
            Err(_) => break,
        }
    }
    assert!(count <= segment.records());
    ids.sort_unstable();
    let found = &mut |at: usize, change: relevo_vault::index::Change| {
        assert_eq!(ids[at], change.id, "the answer is of another chunk");
    };
    let _ = segment.look_up(&ids, found);
}

fn sealed(input: &mut Input<'_>) -> Vec<u8> {
    let shape = Shape::new((input.short() % 2048) as u64);
    let tail_content = input.short();
    let mut tail = input.up_to(tail_content).to_vec();
    tail.resize(shape.tail() as usize, 0);
    let mut file = Vec::new();
    for number in 0..shape.blocks() {
        let mut block = [0; BLOCK];
        let content = input.up_to(BLOCK_RECORDS * RECORD);
        block[..content.len()].copy_from_slice(content);
        seal_block(&mut block, &SALT, number);
        file.extend_from_slice(&block);
    }
    let footer = Footer {
        version: VERSION,
        tenant: TenantId::from_bytes([4; 16]),
        number: 1,
        records: (shape.blocks() * BLOCK_RECORDS as u64).min(records_of(shape)),
        salt: SALT,
        tail: *blake3::hash(&tail).as_bytes(),
    };
    file.extend_from_slice(&tail);
    file.extend_from_slice(&footer.encode());
    file
}

fn records_of(shape: Shape) -> u64 {
    (0..shape.blocks())
        .map(|block| shape.records_of_block(block) as u64)
        .sum()
}
