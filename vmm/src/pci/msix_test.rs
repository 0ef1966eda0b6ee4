//! Guards MSI-X: nothing is delivered while masked, nothing is lost by masking.
#![allow(clippy::unwrap_used)]

use super::super::events::test_double::Recorder;
use super::*;
use proptest::prelude::*;

const ENABLE: u16 = 0x8000;
const ENABLE_MASKED: u16 = 0xC000;

fn program(msix: &mut Msix, vector: u64, address: u64, data: u32, masked: bool) {
    msix.write_table(vector * 16, &address.to_le_bytes());
    msix.write_table(vector * 16 + 8, &data.to_le_bytes());
    msix.write_table(vector * 16 + 12, &u32::from(masked).to_le_bytes());
}

fn pending(msix: &Msix) -> u64 {
    let mut bits = [0; 8];
    msix.read_pending(0, &mut bits);
    u64::from_le_bytes(bits)
}

#[test]
fn a_vector_reaches_kvm_only_while_unmasked_and_enabled() {
    let events = Arc::new(Recorder::default());
    let mut msix = Msix::new(events.clone(), 3).unwrap();
    assert_eq!(msix.control(), 2);
    program(&mut msix, 1, 0xFEE0_1000, 0x41, false);
    assert!(events.state.lock().unwrap().irqfds.is_empty());
    msix.set_control(ENABLE_MASKED);
    assert!(events.state.lock().unwrap().irqfds.is_empty());
    msix.set_control(ENABLE);
    {
        let state = events.state.lock().unwrap();
        assert_eq!(state.irqfds.keys().copied().collect::<Vec<_>>(), [25]);
        let expected = MsiMessage {
            address: 0xFEE0_1000,
            data: 0x41,
        };
        assert_eq!(state.gsis[&25], Some(expected));
    }
    program(&mut msix, 1, 0xFEE0_2000, 0x42, true);
    assert!(events.state.lock().unwrap().irqfds.is_empty());
    drop(msix);
    assert!(events.state.lock().unwrap().gsis.is_empty());
}

#[test]
fn a_signal_behind_a_mask_is_pending_and_survives_the_unmasking() {
    let events = Arc::new(Recorder::default());
    let mut msix = Msix::new(events.clone(), 70).unwrap();
    let lines = msix.lines().unwrap();
    msix.set_control(ENABLE);
    lines[0].write(1).unwrap();
    lines[69].write(1).unwrap();
    assert_eq!(pending(&msix), 1);
    let mut high = [0; 1];
    msix.read_pending(8, &mut high);
    assert_eq!(high[0], 1 << 5);
    program(&mut msix, 0, 0xFEE0_0000, 0x30, false);
    assert_eq!(pending(&msix), 0, "delivered, no longer pending");
    let attached = events.state.lock().unwrap().irqfds[&24]
        .try_clone()
        .unwrap();
    assert_eq!(
        attached.read().unwrap(),
        1,
        "the count went along with the eventfd"
    );
    msix.clear_pending();
    msix.read_pending(8, &mut high);
    assert_eq!(high[0], 0);
}

proptest! {
    #[test]
    fn no_access_panics_and_the_table_reads_back(
        accesses in proptest::collection::vec(
            (any::<u16>(), proptest::collection::vec(any::<u8>(), 0..17), any::<Option<u16>>()), 0..64)
    ) {
        let events = Arc::new(Recorder::default());
        let mut msix = Msix::new(events.clone(), 5).unwrap();
        for (offset, data, control) in accesses {
            msix.write_table(u64::from(offset % 128), &data);
            let mut back = data.clone();
            msix.read_table(u64::from(offset), &mut back);
            msix.read_pending(u64::from(offset), &mut back);
            msix.read_table(u64::MAX - u64::from(offset), &mut back);
            msix.read_pending(u64::MAX - u64::from(offset), &mut back);
            if let Some(control) = control {
                msix.set_control(control);
            }
            for (index, vector) in msix.vectors.iter().enumerate() {
                let open = msix.enabled && !msix.mask_all && !vector.masked;
                prop_assert_eq!(vector.attached, open);
                if open {
                    prop_assert_eq!(events.state.lock().unwrap().gsis[&(24 + index as u32)], Some(vector.message));
                }
            }
        }
    }
}
