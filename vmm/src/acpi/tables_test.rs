//! Guards that every table is found from the RSDP and adds up.
#![allow(clippy::unwrap_used)]

use super::*;

const BASE: u64 = 0xe_0000;

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(data[at..at + 4].try_into().unwrap())
}

fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(data[at..at + 8].try_into().unwrap())
}

fn sum(data: &[u8]) -> u8 {
    data.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at `address`, after its length and checksum were verified.
fn table<'a>(all: &'a [u8], address: u64, signature: &[u8; 4]) -> &'a [u8] {
    let from = &all[(address - BASE) as usize..];
    assert_eq!(&from[..4], signature);
    let table = &from[..u32_at(from, 4) as usize];
    if signature != b"FACS" {
        assert_eq!(sum(table), 0, "checksum of {signature:?}");
    }
    table
}

#[test]
fn all_tables_are_reachable_and_add_up() {
    let all = tables(BASE, 3);
    assert_eq!(&all[..8], b"RSD PTR ");
    assert_eq!(sum(&all[..20]), 0);
    assert_eq!(sum(&all[..36]), 0);
    let xsdt = table(&all, u64_at(&all, 24), b"XSDT");
    assert_eq!(xsdt.len(), 36 + 2 * 8);
    let fadt = table(&all, u64_at(xsdt, 36), b"FACP");
    let dsdt = u64_at(fadt, 140);
    table(&all, dsdt, b"DSDT");
    let facs = u64::from(u32_at(fadt, 36));
    assert_eq!(facs % 64, 0, "the FACS must be aligned");
    table(&all, facs, b"FACS");
    assert_eq!(u32_at(fadt, 56), u32::from(power::PM1_EVENT));
    assert_eq!(u32_at(fadt, 64), u32::from(power::PM1_CONTROL));
}

#[test]
fn the_madt_names_every_processor_once() {
    let madt = madt(5);
    let mut rest = &madt.as_slice()[44..];
    let (mut ids, mut kinds) = (Vec::new(), Vec::new());
    while !rest.is_empty() {
        let (entry, tail) = rest.split_at(usize::from(rest[1]));
        match entry[0] {
            0 => ids.push(entry[3]),
            kind => kinds.push(kind),
        }
        rest = tail;
    }
    assert_eq!(ids, [0, 1, 2, 3, 4]);
    assert_eq!(kinds, [1, 2, 4], "I/O APIC, SCI override, NMI");
}

#[test]
fn the_most_processors_still_fit_below_the_smbios_tables() {
    assert!(BASE + (tables(BASE, 254).len() as u64) < crate::boot::layout::SMBIOS);
}
