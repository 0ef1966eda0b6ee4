//! Guards the negotiation: nothing runs before features agree, nothing changes after.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use vmm_sys_util::eventfd::EventFd;

fn registers() -> CommonConfig {
    let lines = (0..3).map(|_| EventFd::new(libc::EFD_NONBLOCK).unwrap());
    CommonConfig::new(0x201, &[256, 128], Interrupt::new(lines.collect(), 2)).unwrap()
}

fn read_u16(registers: &CommonConfig, offset: u64) -> u16 {
    let mut data = [0; 2];
    registers.read(offset, &mut data);
    u16::from_le_bytes(data)
}

fn status(registers: &CommonConfig) -> u8 {
    let mut data = [0];
    registers.read(STATUS, &mut data);
    data[0]
}

fn accept(registers: &mut CommonConfig, features: u64) {
    for half in 0..2_u32 {
        registers.write(DRIVER_FEATURE_SELECT, &half.to_le_bytes());
        registers.write(
            DRIVER_FEATURE,
            &((features >> (32 * half)) as u32).to_le_bytes(),
        );
    }
}

#[test]
fn features_that_were_not_offered_are_refused() {
    for (features, agreed) in [
        (VIRTIO_F_VERSION_1 | 0x200, true),
        (VIRTIO_F_VERSION_1 | 0x400, false),
        (0x200, false),
    ] {
        let mut registers = registers();
        registers.write(STATUS, &[3]);
        accept(&mut registers, features);
        registers.write(STATUS, &[3 | FEATURES_OK]);
        assert_eq!(
            status(&registers) & FEATURES_OK != 0,
            agreed,
            "{features:#x}"
        );
        let effect = registers.write(STATUS, &[3 | FEATURES_OK | DRIVER_OK]);
        assert_eq!(effect == Effect::Activate, agreed);
        if agreed {
            accept(&mut registers, VIRTIO_F_VERSION_1);
            assert_eq!(
                registers.features(),
                features,
                "fixed once they are agreed on"
            );
            assert_eq!(
                registers.write(STATUS, &[0xF]),
                Effect::None,
                "started once"
            );
        }
    }
}

#[test]
fn a_queue_keeps_its_setup_once_enabled() {
    let mut registers = registers();
    registers.write(QUEUE_SELECT, &1_u16.to_le_bytes());
    registers.write(QUEUE_SIZE, &100_u16.to_le_bytes());
    assert_eq!(
        read_u16(&registers, QUEUE_SIZE),
        128,
        "not a power of two: ignored"
    );
    registers.write(QUEUE_SIZE, &64_u16.to_le_bytes());
    registers.write(QUEUE_DESC, &0x1_0000_2000_u64.to_le_bytes());
    registers.write(QUEUE_DRIVER, &0x3000_u32.to_le_bytes());
    registers.write(QUEUE_ENABLE, &1_u16.to_le_bytes());
    registers.write(QUEUE_SIZE, &32_u16.to_le_bytes());
    registers.write(QUEUE_DRIVER, &0x5000_u32.to_le_bytes());
    let queue = &registers.queues()[1];
    assert_eq!(
        (queue.size(), queue.desc_table(), queue.avail_ring()),
        (64, 0x1_0000_2000, 0x3000)
    );
    assert_eq!(read_u16(&registers, 30), 1, "notify offset");
    registers.write(QUEUE_VECTOR, &2_u16.to_le_bytes());
    assert_eq!(read_u16(&registers, QUEUE_VECTOR), 2);
    registers.write(QUEUE_VECTOR, &3_u16.to_le_bytes());
    assert_eq!(
        read_u16(&registers, QUEUE_VECTOR),
        0xFFFF,
        "no such vector is refused"
    );
    registers.write(QUEUE_SELECT, &2_u16.to_le_bytes());
    assert_eq!(read_u16(&registers, QUEUE_SIZE), 0, "no such queue");
}

proptest! {
    #[test]
    fn no_access_panics(
        accesses in proptest::collection::vec((0u64..80, proptest::collection::vec(any::<u8>(), 0..10)), 0..128)
    ) {
        let mut registers = registers();
        for (offset, data) in accesses {
            if registers.write(offset, &data) == Effect::Reset {
                registers.reset();
            }
            let mut back = data.clone();
            registers.read(offset, &mut back);
            registers.read(u64::MAX - offset, &mut back);
            prop_assert!(registers.queues().iter().all(|q| q.size().is_power_of_two()));
            prop_assert!(!registers.driver_ok() || registers.features_acceptable());
        }
    }
}
