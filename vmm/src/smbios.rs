//! The SMBIOS tables, in which a guest finds the machine's maker, model and UUID
//! (DMTF DSP0134, version 3.2).

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::boot::layout;
use crate::memory::GuestMemory;

const MAKER: &str = "Relevo";
const PRODUCT: &str = "Recovered server";
/// Length of the 64-bit entry point (5.2.2).
const ENTRY_POINT: u64 = 24;

/// Writes entry point and structures for a machine named `uuid`.
pub fn write(memory: &GuestMemory, uuid: [u8; 16]) -> Result<(), GuestMemoryError> {
    let structures = structures(uuid);
    let at = layout::SMBIOS + ENTRY_POINT.next_multiple_of(16);
    let entry = entry_point(at, structures.len() as u32);
    memory.write_slice(&structures, GuestAddress(at))?;
    memory.write_slice(&entry, GuestAddress(layout::SMBIOS))
}

fn entry_point(structures_at: u64, len: u32) -> Vec<u8> {
    let mut out = b"_SM3_\0".to_vec();
    // Length, version 3.2.0, entry point revision 1, reserved.
    out.extend([ENTRY_POINT as u8, 3, 2, 0, 1, 0]);
    out.extend(len.to_le_bytes());
    out.extend(structures_at.to_le_bytes());
    out[5] = out.iter().fold(0, |sum: u8, b| sum.wrapping_sub(*b));
    out
}

fn structure(kind: u8, handle: u16, body: &[u8], strings: &[&str]) -> Vec<u8> {
    let mut out = vec![kind, 4 + body.len() as u8];
    out.extend(handle.to_le_bytes());
    out.extend_from_slice(body);
    for string in strings {
        out.extend(string.bytes().chain([0]));
    }
    if strings.is_empty() {
        out.push(0);
    }
    out.push(0);
    out
}

fn structures(uuid: [u8; 16]) -> Vec<u8> {
    // System information (7.2): strings 1 and 2, no version or serial number; the first
    // three fields of the UUID are little-endian; woken by the power switch.
    let mut system = vec![1, 2, 0, 0];
    let [a, b, c, d, e, f, g, h, ref rest @ ..] = uuid;
    system.extend([d, c, b, a, f, e, h, g]);
    system.extend(rest);
    system.extend([6, 0, 0]);
    // Enclosure (7.4): "other", so that no laptop or rack is assumed.
    let enclosure = [1, 1, 0, 0, 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0];
    [
        structure(1, 1, &system, &[MAKER, PRODUCT]),
        structure(3, 2, &enclosure, &[MAKER]),
        structure(127, 3, &[], &[]),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    //! Guards the entry point's sum and the byte order of the UUID.
    use super::*;

    #[test]
    fn the_entry_point_adds_up() {
        let entry = entry_point(0xf_0020, 200);
        assert_eq!(entry.len() as u64, ENTRY_POINT);
        assert_eq!(entry.iter().fold(0_u8, |s, b| s.wrapping_add(*b)), 0);
    }

    #[test]
    fn structures_end_in_two_zeros_and_lead_to_the_next() {
        let uuid = std::array::from_fn(|n| n as u8);
        let all = structures(uuid);
        assert_eq!(all[8..16], [3, 2, 1, 0, 5, 4, 7, 6]);
        let mut kinds = Vec::new();
        let mut rest = &all[..];
        while let [kind, len, ..] = *rest {
            kinds.push(kind);
            let strings = &rest[usize::from(len)..];
            let end = strings.windows(2).position(|w| w == [0, 0]);
            rest = &strings[end.map_or(strings.len(), |e| e + 2)..];
        }
        assert_eq!(kinds, [1, 3, 127]);
    }
}
