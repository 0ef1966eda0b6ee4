//! Guards the ports: the address register, absent functions, and the reset register.
#![allow(clippy::unwrap_used)]

use super::super::events::test_double::Recorder;
use super::*;
use crate::memory;
use crate::virtio::Rng;

fn root() -> PciRoot {
    PciRoot::with_events(Arc::new(Recorder::default()))
}

fn read(ports: &Arc<Mutex<dyn BusDevice>>, offset: u64) -> u32 {
    let mut data = [0; 4];
    ports.lock().unwrap().read(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn mechanism_one_is_found_the_way_linux_looks_for_it() {
    let ports = root().config_ports();
    ports.lock().unwrap().write(3, &[1]);
    ports
        .lock()
        .unwrap()
        .write(0, &0x8000_0000_u32.to_le_bytes());
    assert_eq!(read(&ports, 0), 0x8000_0000);
    assert_eq!(read(&ports, 4), 0x0008_1B36);
    ports.lock().unwrap().write(0, &0_u32.to_le_bytes());
    assert_eq!(read(&ports, 4), 0xFFFF_FFFF, "disabled");
    // Bus 1, and function 1 of the bridge.
    for absent in [0x8001_0000_u32, 0x8000_0100] {
        ports.lock().unwrap().write(0, &absent.to_le_bytes());
        assert_eq!(read(&ports, 4), 0xFFFF_FFFF);
    }
}

#[test]
fn port_cf9_asks_for_a_reset() {
    let root = root();
    let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    root.set_reset_event(event.try_clone().unwrap());
    let ports = root.config_ports();
    ports.lock().unwrap().write(1, &[2]);
    assert!(event.read().is_err(), "only the kind of reset was chosen");
    ports.lock().unwrap().write(1, &[6]);
    assert_eq!(event.read().unwrap(), 1);
}

#[test]
fn the_bus_has_an_end() {
    let mut root = root();
    let ram = memory::create(memory::MIN_MIB).unwrap();
    for slot in 1..=MAX_FUNCTIONS {
        assert_eq!(
            root.add(Box::new(Rng::new()), ram.clone()).unwrap(),
            slot as u8
        );
    }
    let error = root.add(Box::new(Rng::new()), ram).err();
    assert!(matches!(error, Some(PciError::Full)));
}
