//! Guards the whole transport: a driver as Linux has it, against a disk on the bus.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::bus::BusDevice;
use crate::pci::PciRoot;
use crate::pci::test_double::Recorder;
use crate::virtio::fake_driver::{FakeQueue, ram, wait};
use crate::virtio::{Rng, VIRTIO_F_VERSION_1, VirtioBlock};

struct Machine {
    root: PciRoot,
    events: Arc<Recorder>,
    memory: GuestMemory,
    ports: Arc<Mutex<dyn BusDevice>>,
    window: Arc<Mutex<dyn BusDevice>>,
}

impl Machine {
    fn new() -> Self {
        let events = Arc::new(Recorder::default());
        let root = PciRoot::with_events(events.clone());
        Self {
            ports: root.config_ports(),
            window: root.mmio_window(),
            root,
            events,
            memory: ram(),
        }
    }

    fn config(&self, slot: u32, register: u32, data: &mut [u8]) {
        let mut ports = self.ports.lock().unwrap();
        let address = 0x8000_0000 | slot << 11 | register & 0xFC;
        ports.write(0, &address.to_le_bytes());
        ports.read(4 + u64::from(register & 3), data);
    }

    fn config_u32(&self, slot: u32, register: u32) -> u32 {
        let mut data = [0; 4];
        self.config(slot, register, &mut data);
        u32::from_le_bytes(data)
    }

    fn set_config(&self, slot: u32, register: u32, data: &[u8]) {
        let mut ports = self.ports.lock().unwrap();
        let address = 0x8000_0000 | slot << 11 | register & 0xFC;
        ports.write(0, &address.to_le_bytes());
        ports.write(4 + u64::from(register & 3), data);
    }

    fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut data = [0; N];
        self.window
            .lock()
            .unwrap()
            .read(address - PCI_MMIO_START, &mut data);
        data
    }

    fn write(&self, address: u64, data: &[u8]) {
        self.window
            .lock()
            .unwrap()
            .write(address - PCI_MMIO_START, data);
    }

    /// Offsets of the capabilities: virtio's by type, MSI-X as type 0.
    fn capabilities(&self, slot: u32) -> BTreeMap<u8, u32> {
        let mut found = BTreeMap::new();
        let mut at = self.config_u32(slot, 0x34) & 0xFF;
        while at != 0 {
            let head = self.config_u32(slot, at).to_le_bytes();
            let kind = if head[0] == 0x11 { 0 } else { head[3] };
            assert!(found.insert(kind, at).is_none());
            at = u32::from(head[1]);
        }
        found
    }
}

fn image() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all_at(&[0x5A; 4096], 0).unwrap();
    file
}

fn with_disk() -> (Machine, tempfile::NamedTempFile) {
    let mut machine = Machine::new();
    let file = image();
    let disk = crate::disk::Disk::open_raw(file.path(), false).unwrap();
    let disk = VirtioBlock::new(disk, "", 1);
    let slot = machine
        .root
        .add(Box::new(disk), machine.memory.clone())
        .unwrap();
    assert_eq!(slot, 1);
    (machine, file)
}

#[test]
fn the_bus_shows_a_host_bridge_and_the_device_in_the_next_slot() {
    let (machine, _file) = with_disk();
    assert_eq!(machine.config_u32(0, 8) >> 8, 0x06_00_00);
    assert_eq!(machine.config_u32(1, 0), 0x1042_1AF4);
    assert_eq!(machine.config_u32(2, 0), 0xFFFF_FFFF);
    let capabilities = machine.capabilities(1);
    assert_eq!(
        capabilities.keys().copied().collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 5]
    );
    let control = machine.config_u32(1, capabilities[&0]) >> 16;
    assert_eq!(
        control, 1,
        "two vectors: the queue's and the configuration's"
    );
}

#[test]
fn the_bar_moves_with_its_doorbells_and_only_inside_the_window() {
    let (machine, _file) = with_disk();
    let base = u64::from(machine.config_u32(1, 0x10));
    assert_eq!(base, PCI_MMIO_START);
    assert_eq!(
        machine.read(base),
        [0xFF; 4],
        "not decoded before it is enabled"
    );
    let doorbells = || {
        let state = machine.events.state.lock().unwrap();
        state.doorbells.keys().copied().collect::<Vec<_>>()
    };
    assert!(doorbells().is_empty());
    machine.set_config(1, 4, &[2, 0]);
    assert_eq!(doorbells(), [base + NOTIFY]);
    assert_eq!(machine.read(base + 18), [1, 0], "one queue");

    let elsewhere = base + 0x123_8000;
    machine.set_config(1, 0x10, &(elsewhere as u32).to_le_bytes());
    assert_eq!(doorbells(), [elsewhere + NOTIFY]);
    assert_eq!(machine.read(elsewhere + 18), [1, 0]);
    assert_eq!(machine.read(base + 18), [0xFF, 0xFF]);

    for outside in [0x10_0000_u32, 0xFEE0_0000, 0xDFFF_C000 + 0x8000] {
        machine.set_config(1, 0x10, &outside.to_le_bytes());
        assert!(doorbells().is_empty(), "{outside:#x} is not the window's");
    }
    machine.set_config(1, 0x10, &0xFFFF_FFFF_u32.to_le_bytes());
    assert_eq!(machine.config_u32(1, 0x10), !(BAR_SIZE - 1));
}

#[test]
fn a_driver_negotiates_and_reads_the_disk_by_doorbell_and_interrupt() {
    let (machine, _file) = with_disk();
    let base = PCI_MMIO_START;
    machine.set_config(1, 4, &[6, 0]);
    let msix = machine.capabilities(1)[&0];
    machine.set_config(1, msix + 2, &0x8000_u16.to_le_bytes());
    for vector in 0..2_u64 {
        let entry = base + TABLE + 16 * vector;
        machine.write(entry, &0xFEE0_0000_u64.to_le_bytes());
        machine.write(entry + 8, &(0x40 + vector as u32).to_le_bytes());
        machine.write(entry + 12, &[0; 4]);
    }

    let status = |bits: u8| machine.write(base + 20, &[bits]);
    let mut ring = FakeQueue::new(&machine.memory, 0x1000, 16);
    let setup = |ring: &FakeQueue| {
        status(0);
        status(1);
        status(3);
        machine.write(base + 8, &1_u32.to_le_bytes());
        machine.write(
            base + 12,
            &((VIRTIO_F_VERSION_1 >> 32) as u32).to_le_bytes(),
        );
        status(11);
        assert_eq!(machine.read(base + 20), [11], "features agreed");
        machine.write(base + 22, &0_u16.to_le_bytes());
        machine.write(base + 24, &ring.size.to_le_bytes());
        machine.write(base + 26, &1_u16.to_le_bytes());
        machine.write(base + 32, &ring.base.to_le_bytes());
        machine.write(base + 40, &ring.avail().to_le_bytes());
        machine.write(base + 48, &ring.used().to_le_bytes());
        machine.write(base + 28, &1_u16.to_le_bytes());
        status(15);
    };
    setup(&ring);
    assert_eq!(machine.read(base + 20), [15]);

    let (doorbell, line) = {
        let state = machine.events.state.lock().unwrap();
        let doorbell = state.doorbells[&(base + NOTIFY)].try_clone().unwrap();
        (doorbell, state.irqfds[&25].try_clone().unwrap())
    };
    let mut read = |by_exit: bool| {
        let header = GuestAddress(0x8000);
        machine.memory.write_slice(&[0; 16], header).unwrap();
        ring.add(&[(0x8000, 16, false), (0x9000, 512, true), (0xA000, 1, true)]);
        if by_exit {
            machine.write(base + NOTIFY, &0_u16.to_le_bytes());
        } else {
            doorbell.write(1).unwrap();
        }
        while ring.take_used().is_none() {
            wait(&line);
        }
        machine.memory.read_obj::<u8>(GuestAddress(0x91FF)).unwrap()
    };
    assert_eq!(read(false), 0x5A);
    assert_eq!(read(true), 0x5A);

    // The window in the configuration space reads the same registers.
    let window = machine.capabilities(1)[&5];
    machine.set_config(1, window + 8, &20_u32.to_le_bytes());
    machine.set_config(1, window + 12, &1_u32.to_le_bytes());
    assert_eq!(machine.config_u32(1, window + 16), 15);
    machine.set_config(1, window + 16, &[0; 4]);
    assert_eq!(machine.read(base + 20), [0], "and writes them: a reset");

    let ring = FakeQueue::new(&machine.memory, 0x1000, 16);
    setup(&ring);
    assert_eq!(machine.read(base + 20), [15], "it starts again");

    machine.root.shut_down();
    let state = machine.events.state.lock().unwrap();
    assert!(state.doorbells.is_empty() && state.irqfds.is_empty() && state.gsis.is_empty());
}

#[test]
fn a_queue_outside_memory_is_refused_at_the_start() {
    let (machine, _file) = with_disk();
    let base = PCI_MMIO_START;
    machine.set_config(1, 4, &[6, 0]);
    for bits in [1, 3] {
        machine.write(base + 20, &[bits]);
    }
    machine.write(base + 8, &1_u32.to_le_bytes());
    machine.write(base + 12, &1_u32.to_le_bytes());
    machine.write(base + 20, &[11]);
    machine.write(base + 32, &(1_u64 << 40).to_le_bytes());
    machine.write(base + 28, &1_u16.to_le_bytes());
    machine.write(base + 20, &[15]);
    assert_eq!(
        machine.read(base + 20),
        [15 | 64],
        "the device needs a reset"
    );
    machine.write(base + 20, &[0]);
    assert_eq!(machine.read(base + 20), [0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn no_access_panics(
        accesses in proptest::collection::vec(
            (0_u8..5, any::<u32>(), proptest::collection::vec(any::<u8>(), 1..9)), 0..200)
    ) {
        let mut machine = Machine::new();
        machine.root.add(Box::new(Rng::new()), machine.memory.clone()).unwrap();
        machine.set_config(1, 4, &[6, 0]);
        for (kind, place, data) in accesses {
            let mut back = data.clone();
            match kind {
                0 => machine.set_config(place >> 8 & 3, place & 0xFF, &data),
                1 => machine.config(place >> 8 & 3, place & 0xFF, &mut back),
                2 => machine.window.lock().unwrap().write(u64::from(place % BAR_SIZE), &data),
                3 => machine.window.lock().unwrap().read(u64::from(place % BAR_SIZE), &mut back),
                _ => {
                    machine.ports.lock().unwrap().write(u64::from(place % 8), &data);
                }
            }
        }
        machine.root.shut_down();
        let state = machine.events.state.lock().unwrap();
        prop_assert!(state.doorbells.is_empty() && state.irqfds.is_empty() && state.gsis.is_empty());
    }
}
