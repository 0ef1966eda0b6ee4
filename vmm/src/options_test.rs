//! Guards the command line's small languages: what is accepted, and that nothing else is.
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn disks_are_files_or_vhost_user_servers() {
    let disk: DiskOption = "path=/srv/a.raw,readonly,serial=R1".parse().unwrap();
    assert_eq!(disk.serial.as_deref(), Some("R1"));
    assert_eq!(
        disk.source,
        DiskSource::File {
            path: "/srv/a.raw".into(),
            readonly: true,
            format: None,
        }
    );
    let disk: DiskOption = "vhost-user=/run/d.sock".parse().unwrap();
    assert_eq!(
        disk.source,
        DiskSource::VhostUser {
            socket: "/run/d.sock".into()
        }
    );
}

#[test]
fn disks_that_mean_nothing_are_refused() {
    for text in [
        "",
        "path=",
        "serial=x",
        "path=a,vhost-user=b",
        "path=a,write",
        "path=a,readonly=no",
        "path=a,format",
        "path=a,format=vmdk",
        "vhost-user=a,format=raw",
        "vhost-user=a,readonly",
        "path=a,serial=123456789012345678901",
    ] {
        assert!(text.parse::<DiskOption>().is_err(), "{text:?} was accepted");
    }
}

#[test]
fn cards_have_a_tap_and_perhaps_an_address() {
    let net: NetOption = "tap=tap0,mac=52:54:00:aB:cd:01".parse().unwrap();
    assert_eq!(net.tap, "tap0");
    let octets = net.mac.map(MacAddress::octets);
    assert_eq!(octets, Some([0x52, 0x54, 0, 0xab, 0xcd, 1]));
    for text in [
        "mac=52:54:00:00:00:01",
        "tap=",
        "tap=a,mac=52:54",
        "tap=a,mac=01:00:5e:00:00:01",
        "tap=a,up",
    ] {
        assert!(text.parse::<NetOption>().is_err(), "{text:?} was accepted");
    }
}

#[test]
fn consoles_and_ticks() {
    assert_eq!("stdio".parse(), Ok(ConsoleOption::Stdio));
    assert_eq!("file=/a=b".parse(), Ok(ConsoleOption::File("/a=b".into())));
    assert!("file=".parse::<ConsoleOption>().is_err());
    assert!("pty".parse::<ConsoleOption>().is_err());
    assert_eq!("20".parse(), Ok(TickOption::AtMost(20)));
    assert!("0".parse::<TickOption>().is_err());
}
