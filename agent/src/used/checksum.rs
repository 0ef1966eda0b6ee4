//! The checksums that guard structures on disks.

/// Tables for eight bytes at a time, of a polynomial in reversed notation.
const fn tables(polynomial: u32) -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (polynomial & (crc & 1).wrapping_neg());
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

static CASTAGNOLI: [[u32; 256]; 8] = tables(0x82f6_3b78);
static ETHERNET: [[u32; 256]; 8] = tables(0xedb8_8320);

fn crc(tables: &[[u32; 256]; 8], mut crc: u32, bytes: &[u8]) -> u32 {
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let eight = u64::from_le_bytes(*eight) ^ u64::from(crc);
        crc = 0;
        for (at, byte) in eight.to_le_bytes().into_iter().enumerate() {
            crc ^= tables[7 - at][usize::from(byte)];
        }
    }
    for byte in rest {
        crc = (crc >> 8) ^ tables[0][((crc ^ u32::from(*byte)) & 0xff) as usize];
    }
    crc
}

/// CRC-32C (ext4, XFS, btrfs) from `seed`, without an inversion before or after.
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    crc(&CASTAGNOLI, seed, bytes)
}

/// The CRC-32 of Ethernet (GPT, LVM2) from `seed`, without an inversion before or after.
pub fn crc32(seed: u32, bytes: &[u8]) -> u32 {
    crc(&ETHERNET, seed, bytes)
}

/// CRC-16 with the reversed polynomial 0xa001 (ext4 group descriptors without `metadata_csum`).
pub fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xa001 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the catalogue of parametrised CRC algorithms.
    #[test]
    fn checksums_have_their_known_values() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(!crc32(!0, b"123456789"), 0xcbf4_3926);
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
        let parts = crc32c(crc32c(!0, b"1234567"), b"89");
        assert_eq!(!parts, 0xe306_9283);
    }
}
