//! Guards the choice of the timer and the timer's protocol.
#![allow(clippy::unwrap_used)]

use super::*;
use std::io::Write;
use std::path::Path;

fn chosen(image: &[u8]) -> Tick {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernel");
    std::fs::write(&path, image).unwrap();
    Tick::choose(TickOption::Auto, &ImageFile::open(&path).unwrap())
}

fn with_config(hz: u32) -> Vec<u8> {
    let mut image = b"\x7fELF and code IKCFG_ST".to_vec();
    let mut gzip = flate2::write::GzEncoder::new(&mut image, flate2::Compression::fast());
    writeln!(
        gzip,
        "# CONFIG_HZ_PERIODIC\nCONFIG_HZ_{hz}=y\nCONFIG_HZ={hz}"
    )
    .unwrap();
    gzip.finish().unwrap();
    image.extend(b"IKCFG_ED and data");
    image
}

#[test]
fn a_kernels_own_configuration_decides() {
    assert_eq!(chosen(&with_config(100)), Tick::Kvm);
    assert_eq!(chosen(&with_config(250)), Tick::AtMost(SLOW));
}

#[test]
fn without_it_the_kind_of_file_decides() {
    assert_eq!(chosen(b"\x7fELF"), Tick::Kvm);
    assert_eq!(chosen(b"MZ bzImage"), Tick::AtMost(SLOW));
    let any = &ImageFile::open(Path::new("/dev/null")).unwrap();
    assert_eq!(Tick::choose(TickOption::AtMost(7), any), Tick::AtMost(7));
}

#[test]
fn the_timer_ticks_from_the_complete_count_on_until_it_is_reprogrammed() {
    let line = EventFd::new(0).unwrap();
    let mut pit = Pit::start(line.try_clone().unwrap(), 1000).unwrap();
    pit.write(3, &[0x34]);
    pit.write(0, &[0x9c]);
    assert_eq!(pit.rate.divisor.load(Ordering::Relaxed), 0);
    pit.write(0, &[0x2e]);
    assert_eq!(pit.rate.divisor.load(Ordering::Relaxed), 0x2e9c);
    assert!(line.read().unwrap() >= 1, "waits for a tick");
    pit.write(3, &[0x30]);
    assert_eq!(pit.rate.divisor.load(Ordering::Relaxed), 0);
}

#[test]
fn a_latched_count_stays_while_it_is_read() {
    let line = EventFd::new(0).unwrap();
    let mut pit = Pit::start(line, 20).unwrap();
    pit.write(3, &[0xb0]);
    pit.write(2, &[0xff]);
    pit.write(2, &[0xff]);
    pit.write(3, &[0x80]);
    let latched = pit.counters[2].latched.unwrap();
    let mut bytes = [0; 2];
    for byte in &mut bytes {
        pit.read(2, std::slice::from_mut(byte));
    }
    assert_eq!(u16::from_le_bytes(bytes), latched);
    assert_eq!(pit.counters[2].latched, None);
}
