//! Guards power-off, reset and the button, as an ACPI driver uses them.
#![allow(clippy::unwrap_used)]

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

struct Line(Arc<AtomicBool>);

impl InterruptLine for Line {
    fn set(&self, active: bool) {
        self.0.store(active, Ordering::SeqCst);
    }
}

fn power() -> (Power, Arc<AtomicBool>, Receiver<Event>) {
    let level = Arc::new(AtomicBool::new(false));
    let (notifier, events) = Notifier::channel();
    let power = Power::new(Box::new(Line(level.clone())), notifier);
    (power, level, events)
}

fn write16(power: &mut Power, port: u16, value: u16) {
    power.write(u64::from(port - BASE), &value.to_le_bytes());
}

fn read16(power: &mut Power, port: u16) -> u16 {
    let mut data = [0; 2];
    power.read(u64::from(port - BASE), &mut data);
    u16::from_le_bytes(data)
}

#[test]
fn sleep_type_five_is_power_off_and_no_other() {
    let (mut power, _, events) = power();
    assert_eq!(read16(&mut power, PM1_CONTROL) & SCI_EN, SCI_EN);
    write16(&mut power, PM1_CONTROL, (5 << 10) | SCI_EN);
    write16(&mut power, PM1_CONTROL, (3 << 10) | SLP_EN);
    assert!(events.try_recv().is_err());
    write16(&mut power, PM1_CONTROL, (5 << 10) | SLP_EN);
    assert_eq!(events.try_recv().unwrap(), Event::PowerOff);
}

#[test]
fn only_the_reset_value_resets() {
    let (mut power, _, events) = power();
    power.write(8, &[1]);
    assert!(events.try_recv().is_err());
    power.write(8, &[RESET_VALUE]);
    assert_eq!(events.try_recv().unwrap(), Event::Reset);
}

#[test]
fn the_button_interrupts_until_the_guest_clears_it() {
    let (mut power, level, _events) = power();
    assert!(!power.press_button(), "nobody listens yet");
    assert!(!level.load(Ordering::SeqCst));
    write16(&mut power, PM1_EVENT + 2, POWER_BUTTON);
    assert!(level.load(Ordering::SeqCst), "a press is not lost");
    assert_eq!(read16(&mut power, PM1_EVENT), POWER_BUTTON);
    write16(&mut power, PM1_EVENT, POWER_BUTTON);
    assert!(!level.load(Ordering::SeqCst));
    assert_eq!(read16(&mut power, PM1_EVENT), 0);
    assert!(power.press_button());
}

/// Guards that a guest cannot fill the host's log.
#[test]
fn a_guest_that_asks_for_sleeps_without_end_is_soon_not_logged_any_more() {
    #[derive(Clone, Default)]
    struct Log(Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .finish();
    let (mut power, _, events) = power();
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..1000 {
            write16(&mut power, PM1_CONTROL, SLP_EN);
        }
    });
    assert!(events.try_recv().is_err());
    let lines = log
        .0
        .lock()
        .unwrap()
        .iter()
        .filter(|b| **b == b'\n')
        .count();
    assert!((1..=16).contains(&lines), "{lines} lines");
}
