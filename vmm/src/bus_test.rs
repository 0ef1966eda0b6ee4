//! Guards that an access reaches exactly the device whose range contains it.
#![allow(clippy::unwrap_used)]

use super::*;

/// Remembers writes as (offset, first byte) and answers reads with its id plus the offset.
struct Recorder {
    id: u8,
    writes: Vec<(u64, u8)>,
}

impl BusDevice for Recorder {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(self.id + offset as u8);
    }
    fn write(&mut self, offset: u64, data: &[u8]) {
        self.writes.push((offset, data[0]));
    }
}

fn recorder(id: u8) -> Arc<Mutex<Recorder>> {
    Arc::new(Mutex::new(Recorder {
        id,
        writes: Vec::new(),
    }))
}

#[test]
fn accesses_reach_the_device_with_its_own_offset() {
    let mut bus = Bus::new();
    let (low, high) = (recorder(0x10), recorder(0x80));
    bus.insert(0x3f8, 8, low.clone()).unwrap();
    bus.insert(0x400, 4, high.clone()).unwrap();
    let mut data = [0];
    assert!(bus.read(0x3ff, &mut data));
    assert_eq!(data, [0x17]);
    assert!(bus.write(0x400, &[5]));
    assert_eq!(high.lock().unwrap().writes, [(0, 5)]);
    assert!(low.lock().unwrap().writes.is_empty());
}

#[test]
fn gaps_and_accesses_over_the_end_are_not_answered() {
    let mut bus = Bus::new();
    bus.insert(0x100, 4, recorder(0)).unwrap();
    let mut data = [0xaa; 4];
    assert!(!bus.read(0xff, &mut data));
    assert!(!bus.read(0x104, &mut data));
    assert!(!bus.read(0x102, &mut data), "crosses the end");
    assert_eq!(
        data, [0xaa; 4],
        "an unanswered read must not change the data"
    );
    assert!(!bus.write(u64::MAX, &data));
}

#[test]
fn overlapping_and_empty_ranges_are_refused() {
    let mut bus = Bus::new();
    bus.insert(0x100, 0x10, recorder(0)).unwrap();
    for (base, len) in [(0x100, 1), (0xf8, 9), (0x10f, 4), (0, 0x1000)] {
        let refused = bus.insert(base, len, recorder(1));
        assert_eq!(
            refused,
            Err(BusError::Overlap {
                base,
                len,
                other: 0x100
            })
        );
    }
    assert!(bus.insert(0x110, 1, recorder(1)).is_ok());
    assert!(bus.insert(0xff, 1, recorder(1)).is_ok());
    assert!(bus.insert(0, 0, recorder(1)).is_err());
    assert!(bus.insert(u64::MAX, 2, recorder(1)).is_err());
}
