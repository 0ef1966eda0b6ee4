//! Guards the only way into guest memory: what a chain does not name is not touched.
#![allow(clippy::unwrap_used)]

use super::super::fake_driver::{FakeQueue, INDIRECT, NEXT, WRITE, ram};
use super::*;
use proptest::prelude::*;
use virtio_queue::QueueOwnedT;
use vm_memory::{Bytes, GuestAddress};

fn first_chain<R>(
    memory: &GuestMemory,
    ring: &FakeQueue,
    check: impl FnOnce(Result<(Buffers<'_>, Buffers<'_>), ChainError>) -> R,
) -> R {
    let mut queue = ring.queue();
    let chain = queue.iter(memory).unwrap().next().unwrap();
    check(split(memory, chain))
}

#[test]
fn a_chain_is_split_by_direction() {
    let memory = ram();
    let mut ring = FakeQueue::new(&memory, 0x1000, 8);
    memory.write_slice(b"header", GuestAddress(0x8000)).unwrap();
    ring.add(&[
        (0x8000, 3, false),
        (0x8003, 3, false),
        (0x9000, 4, true),
        (0xA000, 1, true),
    ]);
    first_chain(&memory, &ring, |sides| {
        let (mut readable, mut writable) = sides.unwrap();
        let mut header = [0; 6];
        assert!(readable.read_into(&mut header));
        assert_eq!(&header, b"header");
        assert!(
            !readable.read_into(&mut [0]),
            "no more than the chain names"
        );
        let mut status = writable.take_end(1);
        assert_eq!((writable.len(), status.len()), (4, 1));
        assert_eq!(writable.write_from(b"too long"), 4);
        assert_eq!(status.write_from(&[7]), 1);
    });
    let mut back = [0; 6];
    memory.read_slice(&mut back, GuestAddress(0x9000)).unwrap();
    assert_eq!(&back, b"too \0\0");
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0xA000)).unwrap(), 7);
}

#[test]
fn chains_that_lie_are_refused() {
    let memory = ram();
    let beyond = 64 << 20;
    type Descriptor = (u64, u32, u16, u16);
    let cases: [(&str, &[Descriptor], ChainError); 6] = [
        (
            "outside RAM",
            &[(beyond, 1, 0, 0)],
            ChainError::OutsideMemory,
        ),
        (
            "over the end of RAM",
            &[(beyond - 1, 2, WRITE, 0)],
            ChainError::OutsideMemory,
        ),
        (
            "wraps around",
            &[(u64::MAX, 2, WRITE, 0)],
            ChainError::OutsideMemory,
        ),
        (
            "readable after writable",
            &[(0x8000, 1, WRITE | NEXT, 1), (0x8000, 1, 0, 0)],
            ChainError::Order,
        ),
        ("loops", &[(0x8000, 1, NEXT, 0)], ChainError::Endless),
        (
            "beyond the table",
            &[(0x8000, 1, NEXT, 99)],
            ChainError::Endless,
        ),
    ];
    for (what, descriptors, expected) in cases {
        let mut ring = FakeQueue::new(&memory, 0x1000, 8);
        for (i, (address, len, flags, next)) in descriptors.iter().enumerate() {
            ring.put_descriptor(i as u16, *address, *len, *flags, *next);
        }
        ring.publish(0);
        let error = first_chain(&memory, &ring, |sides| sides.err());
        assert_eq!(error, Some(expected), "{what}");
    }
    let mut ring = FakeQueue::new(&memory, 0x1000, 8);
    ring.put_descriptor(0, 0x8000, 1, NEXT, 1);
    ring.put_descriptor(1, beyond, 16, INDIRECT, 0);
    ring.publish(0);
    let error = first_chain(&memory, &ring, |sides| sides.err());
    assert_eq!(
        error,
        Some(ChainError::Endless),
        "indirect table outside RAM"
    );
}

proptest! {
    #[test]
    fn taking_apart_loses_and_invents_no_byte(
        lengths in proptest::collection::vec(0u32..50, 1..7),
        cuts in proptest::collection::vec((0usize..80, any::<bool>()), 0..12),
    ) {
        let memory = ram();
        let mut ring = FakeQueue::new(&memory, 0x1000, 8);
        let mut expected = Vec::new();
        let mut parts = Vec::new();
        for (i, len) in lengths.iter().enumerate() {
            let at = 0x8000 + 0x100 * i as u64;
            let bytes: Vec<u8> = (0..*len).map(|b| (b + 50 * i as u32) as u8).collect();
            memory.write_slice(&bytes, GuestAddress(at)).unwrap();
            expected.extend_from_slice(&bytes);
            parts.push((at, *len, false));
        }
        ring.add(&parts);
        first_chain(&memory, &ring, |sides| {
            let (mut rest, _) = sides.unwrap();
            let mut expected = &expected[..];
            for (count, end) in cuts {
                let real = count.min(expected.len());
                let (mut piece, bytes) = if end {
                    let (head, tail) = expected.split_at(expected.len() - real);
                    expected = head;
                    (rest.take_end(count), tail)
                } else {
                    let (head, tail) = expected.split_at(real);
                    expected = tail;
                    (rest.take(count), head)
                };
                let mut got = vec![0; piece.len()];
                assert!(piece.read_into(&mut got));
                assert_eq!(got, bytes);
                assert_eq!(rest.len(), expected.len());
            }
        });
    }
}
