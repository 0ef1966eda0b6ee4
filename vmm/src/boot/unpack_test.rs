//! Guards that every packing Linux's build uses is found, unpacked, and its end known.
#![allow(clippy::unwrap_used)]

use super::*;
use std::io::Write;

fn sample() -> Vec<u8> {
    (0..100_000_u32)
        .flat_map(|n| (n / 7).to_le_bytes())
        .collect()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn xz(data: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn lz4(data: &[u8]) -> Vec<u8> {
    let mut out = LZ4_LEGACY.to_le_bytes().to_vec();
    for block in data.chunks(LZ4_BLOCK) {
        let packed = lz4_flex::block::compress(block);
        out.extend((packed.len() as u32).to_le_bytes());
        out.extend(packed);
    }
    out
}

#[test]
fn each_format_is_found_and_unpacked_and_its_end_is_known() {
    let data = sample();
    for packed in [
        gzip(&data),
        xz(&data),
        zstd::encode_all(&data[..], 1).unwrap(),
    ] {
        let packing = Packing::detect(&packed).unwrap();
        let mut followed = packed.clone();
        followed.extend_from_slice(&[0; 64]);
        let (out, used) = unpack(packing, &followed, u64::MAX).unwrap();
        assert_eq!(used, packed.len(), "{packing:?}: end of the stream");
        assert!(out == data, "{packing:?}: contents");
    }
}

#[test]
fn lz4_as_the_kernel_build_makes_it_ends_before_the_size() {
    let data = sample().repeat(30);
    let mut packed = lz4(&data);
    let end = packed.len();
    packed.extend((data.len() as u32).to_le_bytes());
    let (out, used) = unpack(Packing::detect(&packed).unwrap(), &packed, u64::MAX).unwrap();
    assert_eq!(used, end);
    assert!(out == data);
}

#[test]
fn damage_is_an_error_and_not_a_short_result() {
    let data = sample();
    for packed in [
        gzip(&data),
        xz(&data),
        zstd::encode_all(&data[..], 1).unwrap(),
    ] {
        let packing = Packing::detect(&packed).unwrap();
        let cut = &packed[..packed.len() / 2];
        assert!(
            unpack(packing, cut, u64::MAX).is_err(),
            "{packing:?} cut short"
        );
        let mut flipped = packed.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x55;
        let result = unpack(packing, &flipped, u64::MAX);
        // zstd frames made without a checksum may decode to something else, but not to this.
        assert!(result.is_err() || result.unwrap().0 != data);
    }
    assert!(matches!(
        unpack(Packing::Bzip2, b"BZh9", u64::MAX),
        Err(UnpackError::Unsupported(_))
    ));
    assert_eq!(Packing::detect(b"070701"), None);
}

/// Guards that no stream, however small, fills more of the host's memory than it may.
#[test]
fn a_stream_that_unpacks_to_too_much_is_refused() {
    let data = sample().repeat(30);
    let most = data.len() as u64;
    for packed in [
        gzip(&data),
        xz(&data),
        zstd::encode_all(&data[..], 1).unwrap(),
        lz4(&data),
    ] {
        let packing = Packing::detect(&packed).unwrap();
        assert!(unpack(packing, &packed, most).is_ok(), "{packing:?}");
        let error = unpack(packing, &packed, most - 1).err();
        assert!(
            matches!(error, Some(UnpackError::TooLarge { .. })),
            "{packing:?}: {error:?}"
        );
    }
}
