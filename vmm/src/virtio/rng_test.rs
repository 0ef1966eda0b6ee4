//! Guards the entropy source: bytes come, and only into the driver's buffer.
#![allow(clippy::unwrap_used)]

use super::super::fake_driver::{Bench, FakeQueue, ram};
use super::*;
use vm_memory::{Bytes, GuestAddress};

#[test]
fn random_bytes_fill_the_buffer_and_no_more() {
    let memory = ram();
    let bench = Bench::new(&memory, 1);
    let mut ring = FakeQueue::new(&memory, 0x1000, 8);
    let mut rng = Rng::new();
    rng.activate(bench.activation(VIRTIO_F_EVENT_IDX, &[&ring]))
        .unwrap();
    ring.add(&[(0x8000, 64, true)]);
    assert_eq!(bench.run(0, &mut ring).1, 64);
    let mut bytes = [0; 80];
    memory.read_slice(&mut bytes, GuestAddress(0x8000)).unwrap();
    assert_ne!(bytes[..64], [0; 64]);
    assert_eq!(bytes[64..], [0; 16]);
    ring.add(&[(0x8000, 64, false)]);
    assert_eq!(bench.run(0, &mut ring).1, 0, "nothing to write to");
    rng.reset();
    drop(rng);
    bench.kicks[0].write(1).unwrap();
    assert_eq!(ring.take_used(), None);
}
