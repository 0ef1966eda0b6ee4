//! Kernel modules as distributions store them: plain, gzip, xz or zstd. Unpacked here because
//! neither the shim nor, before 5.17, the kernel can.

use std::io::Read;

/// Unpacks by content, not by name: the ending of a file proves nothing.
///
/// A stream of more than `limit` bytes is refused.
pub(super) fn unpack(path: &str, bytes: Vec<u8>, limit: u64) -> Result<Vec<u8>, String> {
    let unpacked = match bytes.as_slice() {
        [0x1f, 0x8b, ..] => drain(flate2::read::MultiGzDecoder::new(bytes.as_slice()), limit),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            drain(liblzma::read::XzDecoder::new(bytes.as_slice()), limit)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::stream::read::Decoder::new(bytes.as_slice())
            .and_then(|stream| drain(stream, limit)),
        _ => Ok(bytes),
    }
    .map_err(|e| format!("cannot be unpacked: {e}"))?;
    if !unpacked.starts_with(b"\x7fELF") {
        return Err(format!(
            "is no kernel module ({} bytes that are not ELF, from {path})",
            unpacked.len()
        ));
    }
    Ok(unpacked)
}

fn drain(stream: impl Read, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    stream.take(limit.saturating_add(1)).read_to_end(&mut out)?;
    if out.len() as u64 > limit {
        return Err(std::io::Error::other("it is larger than drivers are"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use super::*;

    #[test]
    fn every_compression_gives_the_same_module() {
        let module = b"\x7fELF and the rest of a module".to_vec();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&module).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&module).unwrap();
        let zstd = zstd::encode_all(module.as_slice(), 1).unwrap();
        for packed in [
            module.clone(),
            gzip.finish().unwrap(),
            xz.finish().unwrap(),
            zstd,
        ] {
            assert_eq!(unpack("m.ko", packed, 1 << 20).unwrap(), module);
        }
    }

    #[test]
    fn what_is_no_module_is_refused() {
        assert!(unpack("m.ko", b"<html>".to_vec(), 1 << 20).is_err());
        assert!(unpack("m.ko.xz", b"\xfd7zXZ\0garbage".to_vec(), 1 << 20).is_err());
        let bomb = zstd::encode_all([b"\x7fELF".as_slice(), &[0; 5000]].concat().as_slice(), 1);
        assert!(unpack("m.ko.zst", bomb.unwrap(), 4096).is_err());
    }
}
