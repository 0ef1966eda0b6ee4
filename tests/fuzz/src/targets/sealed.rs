//! Nodes of an index and data chunks, sealed as one who knows the key can seal them.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use relevo_wire::chunk::{CheckedChunk, MAX_CHUNK};
use relevo_wire::index::{Extent, FANOUT, Node, NodeLinks, SPAN};
use relevo_wire::key::{ChunkKey, TenantSecret};

use crate::Input;

const KEY: ChunkKey = ChunkKey::from_bytes([7; 32]);

/// First byte even: the rest is a sealed node as it stands. Odd: level, number of children, then
/// their ids and the body, which is sealed.
pub fn node(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let as_it_stands = input.byte().is_multiple_of(2);
    let sealed = match as_it_stands {
        true => input.rest().to_vec(),
        false => {
            let (level, children) = (input.byte(), input.short());
            let mut clear = vec![2, level];
            clear.extend_from_slice(&(children as u16).to_le_bytes());
            for _ in 0..children.min(1100) {
                let id: [u8; 4] = input.array();
                clear.extend_from_slice(&id.repeat(8));
            }
            seal(clear, input.rest())
        }
    };
    let length = sealed.len();
    let chunk = CheckedChunk::of(sealed.into());
    let Ok(links) = NodeLinks::parse(&chunk) else {
        assert!(Node::open(&chunk, &KEY).is_err());
        return;
    };
    let ids: Vec<_> = links.ids().collect();
    assert_eq!(ids.len(), links.len());
    assert!(32 * ids.len() <= length, "more children than bytes");
    let Ok(node) = Node::open(&chunk, &KEY) else {
        return;
    };
    let inside: Vec<_> = match &node {
        Node::Leaf(extents) => {
            let total: u64 = extents.iter().map(|e| u64::from(e.length())).sum();
            assert!(total <= SPAN && links.level() == 0);
            let data = |extent: &Extent| match extent {
                Extent::Data { length, chunk } => {
                    assert!(*length as usize <= MAX_CHUNK);
                    Some(chunk.id)
                }
                Extent::Zero { .. } => None,
            };
            extents.iter().filter_map(data).collect()
        }
        Node::Inner { level, children } => {
            assert!(*level == links.level() && children.len() <= FANOUT);
            children.iter().flatten().map(|child| child.id).collect()
        }
    };
    assert_eq!(inside, ids, "the vault sees other children than the site");
    let again = node.seal(&TenantSecret::from_bytes([1; 32]));
    let read = Node::open(&CheckedChunk::from(&again), &again.key());
    assert_eq!(
        read.as_ref(),
        Ok(&node),
        "sealed again, it reads differently"
    );
}

/// First two bytes: the length that the index names. Third: bit 0 seals, the others are the codec.
pub fn chunk(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let length = input.short() * 5;
    let how = input.byte();
    let sealed = match how.is_multiple_of(2) {
        true => input.rest().to_vec(),
        false => {
            let codec = how >> 1 & 3;
            let body = match how & 8 != 0 {
                // Real compression of what repeats: bombs.
                true => compressed(&input.rest().repeat(1 + usize::from(how >> 4) * 64)),
                false => input.rest().to_vec(),
            };
            seal(vec![1, codec], &body)
        }
    };
    let chunk = CheckedChunk::of(sealed.into());
    if let Ok(plaintext) = chunk.open(&KEY, length) {
        assert_eq!(plaintext.len(), length);
        assert!(length <= MAX_CHUNK);
        assert!(plaintext.capacity() <= 2 * MAX_CHUNK, "it unfolded further");
    }
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).unwrap_or_default()
}

/// The clear part, then nonce, ciphertext and tag, under [`KEY`] (docs/format.md).
fn seal(clear: Vec<u8>, body: &[u8]) -> Vec<u8> {
    let key = blake3::derive_key("relevo 1 chunk sealing", KEY.as_bytes());
    let Ok(key) = UnboundKey::new(&AES_256_GCM, &key) else {
        unreachable!("any 32 bytes are a key")
    };
    let nonce = [5; 12];
    let mut ciphertext = body.to_vec();
    let sealing = LessSafeKey::new(key);
    let nonce_of = Nonce::assume_unique_for_key(nonce);
    let done = sealing.seal_in_place_append_tag(nonce_of, Aad::from(&clear), &mut ciphertext);
    assert!(done.is_ok(), "bodies are short enough for AES-GCM");
    [&clear[..], &nonce, &ciphertext].concat()
}
