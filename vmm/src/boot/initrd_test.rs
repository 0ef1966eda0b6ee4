//! Guards the walk over an initramfs of several segments.
#![allow(clippy::unwrap_used)]

use super::*;

fn entry(name: &str, body: &[u8]) -> Vec<u8> {
    let mut out = b"070701".to_vec();
    let fields = [
        1,
        0o100644,
        0,
        0,
        1,
        0,
        body.len(),
        0,
        0,
        0,
        0,
        name.len() + 1,
        0,
    ];
    for field in fields {
        out.extend(format!("{field:08X}").bytes());
    }
    out.extend(name.bytes().chain([0]));
    pad(&mut out);
    out.extend(body);
    pad(&mut out);
    out
}

fn archive(name: &str) -> Vec<u8> {
    [entry(name, b"contents"), entry("TRAILER!!!", b"")].concat()
}

fn joined(segments: &[&[u8]]) -> Result<Vec<u8>, InitrdError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("initrd");
    std::fs::write(&path, segments.concat()).unwrap();
    join(&[ImageFile::open(&path).unwrap()], true, 1 << 30)
}

#[test]
fn a_plain_segment_then_padding_then_a_packed_one() {
    let (early, main) = (archive("early"), archive("main"));
    let packed = zstd::encode_all(&main[..], 1).unwrap();
    let out = joined(&[&early, &[0; 512], &packed]).unwrap();
    assert_eq!(out, [early, main].concat());
}

#[test]
fn two_packed_segments_without_padding() {
    let (one, two) = (archive("one"), archive("two"));
    let packed = [&one, &two].map(|a| zstd::encode_all(&a[..], 1).unwrap());
    assert_eq!(
        joined(&[&packed[0], &packed[1]]).unwrap(),
        [one, two].concat()
    );
}

#[test]
fn a_damaged_segment_is_named_by_its_place() {
    let early = archive("early");
    let packed = zstd::encode_all(&archive("main")[..], 1).unwrap();
    let error = joined(&[&early, &packed[..packed.len() - 9]]).unwrap_err();
    assert!(
        matches!(error, InitrdError::Segment { offset, .. } if offset == early.len()),
        "{error:?}"
    );
}

#[test]
fn what_is_not_understood_is_left_to_the_guest() {
    assert_eq!(joined(&[b"BZh9 and so on.."]).unwrap(), b"BZh9 and so on..");
    assert_eq!(joined(&[b"something!!!"]).unwrap(), b"something!!!");
}

#[test]
fn files_follow_each_other_on_four_byte_borders() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|n| dir.path().join(n));
    for path in &paths {
        std::fs::write(path, b"12345").unwrap();
    }
    assert_eq!(
        join(
            &paths.map(|path| ImageFile::open(&path).unwrap()),
            false,
            16
        )
        .unwrap(),
        b"12345\0\0\x0012345\0\0\0"
    );
}

/// Guards that the parts together stay within the guest's memory, however small they look.
#[test]
fn an_initramfs_larger_than_the_guest_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("initrd");
    let packed = zstd::encode_all(&[0x55; 4096][..], 1).unwrap();
    std::fs::write(&path, [&packed[..], &packed].concat()).unwrap();
    let file = ImageFile::open(&path).unwrap();
    let files = [file.clone(), file];
    assert_eq!(join(&files, true, 4 * 4096).unwrap().len(), 4 * 4096);
    for (unpack, most) in [(true, 4 * 4096 - 1), (true, 4096), (false, 8)] {
        let error = join(&files, unpack, most).unwrap_err();
        assert!(
            matches!(error, InitrdError::TooLarge { .. }),
            "{most}: {error:?}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn no_content_panics(
        magic in proptest::sample::select(vec![
            &b"070701"[..], b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd",
            b"\x02\x21\x4c\x18", b"\x5d\0\0", b"",
        ]),
        rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
    ) {
        let _ = joined(&[magic, &rest]);
    }

    #[test]
    fn no_cpio_header_panics(digits in "[0-9a-fA-F]{104}", rest in "[ -~]{0,64}") {
        let _ = joined(&[b"070701", digits.as_bytes(), rest.as_bytes()]);
    }
}
