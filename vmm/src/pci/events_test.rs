//! Guards what KVM itself takes: routes, interrupts and doorbells of a real machine.
#![allow(clippy::unwrap_used)]

use super::*;
use kvm_ioctls::Kvm;

#[test]
fn kvm_takes_routes_interrupts_and_doorbells() {
    let Ok(vm) = Kvm::new().and_then(|kvm| kvm.create_vm()) else {
        eprintln!("skipped: no usable /dev/kvm");
        return;
    };
    vm.create_irq_chip().unwrap();
    let vm = Arc::new(vm);
    let events = KvmEvents::new(vm.clone());
    let first = events.allocate_gsi().unwrap();
    let second = events.allocate_gsi().unwrap();
    assert_eq!((first, second), (24, 25));
    let message = MsiMessage {
        address: 0xFEE0_0000,
        data: 0x41,
    };
    let fd = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    for gsi in [first, second] {
        events.route(gsi, message).unwrap();
    }
    events.attach_irqfd(&fd, first).unwrap();
    fd.write(1).unwrap();
    events.detach_irqfd(&fd, first).unwrap();
    events.attach_doorbell(&fd, 0xC000_3000).unwrap();
    assert!(events.attach_doorbell(&fd, 0xC000_3000).is_err());
    events.detach_doorbell(&fd, 0xC000_3000).unwrap();
    // The pins are still routed: KVM takes their lines.
    for pin in [0, 4, 9, 23] {
        vm.set_irq_line(pin, true).unwrap();
        vm.set_irq_line(pin, false).unwrap();
    }
    events.release_gsi(first);
    assert_eq!(
        events.allocate_gsi().unwrap(),
        first,
        "numbers are used again"
    );
}

#[test]
fn every_pin_has_its_default_route() {
    let pins = pins();
    assert_eq!(pins.len(), 24 + 16);
    assert!(
        pins.iter()
            .all(|p| p.gsi < FIRST_MSI_GSI && p.type_ == KVM_IRQ_ROUTING_IRQCHIP)
    );
}
