//! Guards the disk: what a driver asks for happens to the file, what it may not ask for
//! happens to nothing.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt;

use super::*;
use crate::virtio::fake_driver::{Bench, FakeQueue, ram};
use proptest::prelude::*;
use tempfile::NamedTempFile;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

const HEADER: u64 = 0x10000;
const DATA: u64 = 0x20000;
const STATUS: u64 = 0x30000;
const FEATURES: u64 = F_FLUSH;

fn image(sectors: u64) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    for sector in 0..sectors {
        let bytes = [sector as u8 + 1; SECTOR as usize];
        file.as_file()
            .write_all_at(&bytes, sector * SECTOR)
            .unwrap();
    }
    file
}

fn open(file: &NamedTempFile, read_only: bool) -> VirtioBlock {
    let disk = Disk::open_raw(file.path(), read_only).unwrap();
    VirtioBlock::new(disk, "disk-with-a-long-serial-number", 1)
}

struct Guest {
    memory: GuestMemory,
    bench: Bench,
    ring: FakeQueue,
    disk: VirtioBlock,
}

impl Guest {
    fn new(disk: VirtioBlock) -> Self {
        let memory = ram();
        let bench = Bench::new(&memory, 1);
        let ring = FakeQueue::new(&memory, 0x1000, 16);
        let mut guest = Self {
            memory,
            bench,
            ring,
            disk,
        };
        guest
            .disk
            .activate(guest.bench.activation(FEATURES, &[&guest.ring]))
            .unwrap();
        guest
    }

    /// Sends a request with `data` (to the device) and `room` bytes (from it).
    fn request(&mut self, kind: u32, sector: u64, data: &[u8], room: u32) -> (u8, u32, Vec<u8>) {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&sector.to_le_bytes());
        self.memory
            .write_slice(&header, GuestAddress(HEADER))
            .unwrap();
        self.memory.write_slice(data, GuestAddress(DATA)).unwrap();
        self.memory
            .write_obj(0xEE_u8, GuestAddress(STATUS))
            .unwrap();
        let mut parts = vec![(HEADER, 16, false)];
        if !data.is_empty() {
            parts.push((DATA, data.len() as u32, false));
        }
        if room > 0 {
            // Two pieces, the second not aligned to anything.
            parts.push((DATA, room / 2, true));
            parts.push((DATA + u64::from(room / 2), room - room / 2, true));
        }
        parts.push((STATUS, 1, true));
        let head = self.ring.add(&parts);
        let (id, len) = self.bench.run(0, &mut self.ring);
        assert_eq!(id, u32::from(head));
        let mut back = vec![0; room as usize];
        self.memory
            .read_slice(&mut back, GuestAddress(DATA))
            .unwrap();
        let status = self.memory.read_obj(GuestAddress(STATUS)).unwrap();
        (status, len, back)
    }
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend_from_slice(&sectors.to_le_bytes());
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes
}

#[test]
fn reads_writes_and_names_itself() {
    let file = image(8);
    let mut guest = Guest::new(open(&file, false));
    let (status, len, back) = guest.request(0, 2, &[], 1024);
    assert_eq!((status, len), (0, 1025));
    assert_eq!(back[..512], [3; 512]);
    assert_eq!(back[512..], [4; 512]);

    assert_eq!(guest.request(1, 7, &[0xAB; 512], 0).0, 0);
    assert_eq!(guest.request(4, 0, &[], 0).0, 0, "flush");
    let mut written = [0; 512];
    file.as_file().read_exact_at(&mut written, 7 * 512).unwrap();
    assert_eq!(written, [0xAB; 512]);

    let (status, _, serial) = guest.request(8, 0, &[], 20);
    assert_eq!((status, &serial[..]), (0, &b"disk-with-a-long-ser"[..]));
    assert_eq!(guest.request(99, 0, &[], 0).0, 2, "unsupported");
}

#[test]
fn nothing_happens_beyond_the_end() {
    let file = image(4);
    let mut guest = Guest::new(open(&file, false));
    for (kind, sector) in [
        (0, 4),
        (0, u64::MAX),
        (0, u64::MAX / 512),
        (1, 4),
        (1, u64::MAX / 512 + 1),
    ] {
        let data: &[u8] = if kind == 1 { &[1; 512] } else { &[] };
        let room = if kind == 0 { 512 } else { 0 };
        let (status, len, _) = guest.request(kind, sector, data, room);
        assert_eq!((status, len), (1, 1), "{kind} at {sector:#x}");
    }
    assert_eq!(guest.request(1, 0, &[1; 100], 0).0, 1, "not a whole sector");
    assert_eq!(guest.request(13, 0, &range(3, 2, 0), 0).0, 1);
    assert_eq!(guest.request(11, 0, &range(u64::MAX, 1, 0), 0).0, 1);
    assert_eq!(guest.request(11, 0, &range(0, 1, 1), 0).0, 2, "unmap flag");
    assert_eq!(guest.request(13, 0, &[0; 15], 0).0, 1, "half a range");
    assert_eq!(file.as_file().metadata().unwrap().len(), 4 * 512);
}

#[test]
fn discarded_and_zeroed_sectors_read_as_zero() {
    let file = image(64);
    let mut guest = Guest::new(open(&file, false));
    let mut ranges = range(0, 2, 0);
    ranges.extend(range(5, 1, 1));
    assert_eq!(guest.request(13, 0, &ranges, 0).0, 0);
    assert_eq!(guest.request(11, 0, &range(8, 8, 0), 0).0, 0);
    let (_, _, back) = guest.request(0, 0, &[], 16 * 512);
    for (sector, bytes) in back.chunks(512).enumerate() {
        let expected = match sector {
            0 | 1 | 5 | 8..16 => 0,
            other => other as u8 + 1,
        };
        assert_eq!(bytes, [expected; 512], "sector {sector}");
    }
}

#[test]
fn a_read_only_disk_takes_no_write() {
    let file = image(4);
    let mut guest = Guest::new(open(&file, true));
    assert_ne!(guest.disk.features() & F_RO, 0);
    for kind in [1, 11, 13] {
        assert_eq!(guest.request(kind, 0, &[0; 512], 0).0, 1);
    }
    assert_eq!(guest.request(0, 0, &[], 512).2, [1; 512]);
}

#[test]
fn a_reset_stops_the_device_and_it_starts_again() {
    let file = image(4);
    let mut guest = Guest::new(open(&file, false));
    for _ in 0..3 {
        assert_eq!(guest.request(0, 0, &[], 512).0, 0);
        guest.disk.reset();
        let head = guest.ring.add(&[(HEADER, 16, false), (STATUS, 1, true)]);
        guest.bench.kicks[0].write(1).unwrap();
        assert_eq!(guest.ring.take_used(), None, "head {head} was worked on");
        guest.ring = FakeQueue::new(&guest.memory, 0x1000, 16);
        guest
            .disk
            .activate(guest.bench.activation(FEATURES, &[&guest.ring]))
            .unwrap();
    }
}

#[test]
fn a_driver_that_breaks_its_ring_is_asked_to_reset() {
    let file = image(4);
    let guest = Guest::new(open(&file, false));
    let index = GuestAddress(guest.ring.avail() + 2);
    guest.memory.write_obj(1000_u16, index).unwrap();
    guest.bench.kicks[0].write(1).unwrap();
    crate::virtio::fake_driver::wait(&guest.bench.lines[1]);
    assert!(guest.bench.interrupt.needs_reset());
}

#[derive(Debug, Clone)]
struct HostileDescriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// Readable memory lies at 0x10000–0x20000, writable at 0x20000–0x30000, indirect tables at
/// 0x4000; everything else is out of reach or outside RAM.
fn hostile() -> impl Strategy<Value = HostileDescriptor> {
    let len = prop_oneof![
        Just(16_u32),
        Just(512),
        Just(1),
        0_u32..5000,
        Just(u32::MAX)
    ];
    (0_u16..8, 0_u64..0x8000, len, any::<u16>(), 0_u16..20).prop_map(
        |(kind, at, len, flags, next)| {
            let next_flag = flags & 1;
            let (address, flags, len) = match kind {
                0..3 => (0x10000 + at, 0, len.min(0x8000)),
                3..6 => (0x20000 + at, 2, len.min(0x8000)),
                6 => (0x4000 + (at % 0x100), 4, len),
                _ => (
                    if at % 2 == 0 {
                        u64::MAX - at
                    } else {
                        (64 << 20) + at
                    },
                    flags & 3,
                    len,
                ),
            };
            HostileDescriptor {
                address,
                len,
                flags: flags | next_flag,
                next,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn hostile_chains_touch_only_what_they_name(
        table in proptest::collection::vec(hostile(), 16),
        indirect in proptest::collection::vec(hostile(), 16),
        heads in proptest::collection::vec(0_u16..16, 1..16),
        headers in proptest::collection::vec((0_u32..15, 0_u64..10), 8),
    ) {
        let file = image(8);
        let disk = open(&file, false);
        let memory = ram();
        let mut ring = FakeQueue::new(&memory, 0x1000, 16);
        let tables = FakeQueue::new(&memory, 0x4000, 16);
        for (queue, descriptors) in [(&ring, &table), (&tables, &indirect)] {
            for (i, d) in descriptors.iter().enumerate() {
                queue.put_descriptor(i as u16, d.address, d.len, d.flags, d.next);
            }
        }
        for (i, (kind, sector)) in headers.iter().enumerate() {
            let at = 0x10000 + i as u64 * 0x1000;
            memory.write_obj(*kind, GuestAddress(at)).unwrap();
            memory.write_obj(*sector, GuestAddress(at + 8)).unwrap();
        }
        for head in &heads {
            ring.publish(*head);
        }
        let snapshot = |from: u64, to: u64| {
            let mut bytes = vec![0; (to - from) as usize];
            memory.read_slice(&mut bytes, GuestAddress(from)).unwrap();
            bytes
        };
        let before = (snapshot(0, ring.used()), snapshot(ring.end(), 0x20000), snapshot(0x30000, 0x50000));
        let mut queue = ring.queue();
        let mut served = 0;
        while let Some(chain) = queue.iter(&memory).unwrap().next() {
            let head = chain.head_index();
            let len = request::serve(&disk.target, false, &memory, chain);
            queue.add_used(&memory, head, len).unwrap();
            served += 1;
        }
        prop_assert_eq!(served, heads.len());
        let after = (snapshot(0, ring.used()), snapshot(ring.end(), 0x20000), snapshot(0x30000, 0x50000));
        prop_assert!(before == after, "memory changed that no writable descriptor names");
        prop_assert_eq!(file.as_file().metadata().unwrap().len(), 8 * 512);
    }

    #[test]
    fn the_configuration_reads_at_any_offset(offset in any::<u64>(), near in 0_u64..100, len in 0_usize..70) {
        let file = image(8);
        let disk = open(&file, false);
        let mut data = vec![0; len];
        disk.read_config(offset, &mut data);
        disk.read_config(near, &mut data);
        let mut capacity = [0; 8];
        disk.read_config(0, &mut capacity);
        prop_assert_eq!(u64::from_le_bytes(capacity), 8);
    }
}
