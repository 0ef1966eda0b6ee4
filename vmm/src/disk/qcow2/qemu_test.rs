//! Guards the format against QEMU's own tools: what they write is read here, what is written
//! here they find sound and read the same.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tempfile::TempDir;

use super::model_test::pattern;
use super::testing::{content, has_qemu, qemu, qemu_check};
use super::{Image, Qcow2Error};

const SIZE: u64 = (3 << 20) + 512 * 7;

/// A raw image with data, compressible data, zeroes and a hole.
fn raw(directory: &Path, name: &str) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    bytes[..900_000].copy_from_slice(&pattern(0, 900_000, 1));
    bytes[1 << 20..(1 << 20) + 300_000].fill(0xC3);
    bytes[(5 << 19) + 1..].copy_from_slice(&pattern((5 << 19) + 1, SIZE - (5 << 19) - 1, 9));
    fs::write(directory.join(name), &bytes).unwrap();
    bytes
}

/// Does something of everything to an image and to what it should hold.
fn change(image: &Image, model: &mut [u8]) {
    for (at, length, fill) in [
        (0, 512, 3),
        (70_000, 200_000, 4),
        ((1 << 20) - 100, 5000, 5),
        (SIZE - 1000, 1000, 6),
        (2_000_000, 1, 7),
    ] {
        let data = pattern(at, length, fill);
        image.write_at(&data, at).unwrap();
        model[at as usize..(at + length) as usize].copy_from_slice(&data);
    }
    image.flush().unwrap();
    for (at, length, unmap) in [(400_000, 300_000, true), (1_100_000, 70_000, false)] {
        image.write_zeroes(at, length, unmap).unwrap();
        model[at as usize..(at + length) as usize].fill(0);
    }
    let data = pattern(450_000, 10_000, 8);
    image.write_at(&data, 450_000).unwrap();
    model[450_000..460_000].copy_from_slice(&data);
    image.discard(0, 300_000).unwrap();
    image.read_at(&mut model[..300_000], 0).unwrap();
}

fn open(directory: &TempDir, name: &str, read_only: bool) -> Image {
    Image::open(&directory.path().join(name), read_only).unwrap()
}

#[test]
fn images_of_qemu_are_read_and_changed_ones_are_sound() {
    if !has_qemu() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let dir = directory.path();
    let source = raw(dir, "source.raw");
    let mut kinds = Vec::new();
    for cluster in [512, 4096, 65_536, 2 << 20] {
        kinds.push(format!("-o compat=0.10,cluster_size={cluster}"));
        kinds.push(format!("-o compat=1.1,cluster_size={cluster}"));
        kinds.push(format!("-c -o compat=0.10,cluster_size={cluster}"));
        kinds.push(format!(
            "-c -o compat=1.1,cluster_size={cluster},compression_type=zstd"
        ));
    }
    for bits in [1, 2, 8, 64] {
        kinds.push(format!(
            "-o compat=1.1,cluster_size=1024,refcount_bits={bits}"
        ));
    }
    kinds.push("-o compat=1.1,preallocation=metadata".to_owned());
    kinds.push("-o compat=1.1,preallocation=full,lazy_refcounts=on".to_owned());
    for kind in kinds {
        let line = format!("qemu-img convert -f raw -O qcow2 {kind} source.raw image.qcow2");
        qemu(dir, &line);
        let image = open(&directory, "image.qcow2", false);
        assert!(image.size() == SIZE && content(&image) == source, "{kind}");
        let mut model = source.clone();
        change(&image, &mut model);
        assert!(content(&image) == model, "{kind}");
        drop(image);
        qemu_check(dir, "image.qcow2");
        fs::write(dir.join("model.raw"), &model).unwrap();
        qemu(
            dir,
            "qemu-img compare -q -f raw -F qcow2 model.raw image.qcow2",
        );
        assert!(
            content(&open(&directory, "image.qcow2", true)) == model,
            "{kind}"
        );
    }
}

/// Guards chains: names from the image's directory, formats as the images say, content through
/// all of it, and writes to the top alone.
#[test]
fn chains_show_what_the_top_does_not_have() {
    if !has_qemu() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let dir = directory.path();
    fs::create_dir(dir.join("sub")).unwrap();
    let mut model = raw(dir, "base.raw");
    model.resize(4 << 20, 0);
    for version in ["0.10", "1.1"] {
        qemu(
            dir,
            "qemu-img create -q -f qcow2 -b ../base.raw -F raw sub/middle.qcow2 4M",
        );
        qemu(
            dir,
            "qemu-io -f qcow2 -c write~-P~17~1M~100k sub/middle.qcow2",
        );
        let line = format!(
            "qemu-img create -q -f qcow2 -o compat={version},cluster_size=4k -b middle.qcow2 -F qcow2 sub/top.qcow2"
        );
        qemu(dir, &line);
        let before = fs::read(dir.join("base.raw")).unwrap();
        let mut model = model.clone();
        model[1 << 20..(1 << 20) + 102_400].fill(17);
        let image = open(&directory, "sub/top.qcow2", false);
        assert!(content(&image) == model);
        change(&image, &mut model);
        assert!(content(&image) == model);
        drop(image);
        qemu_check(dir, "sub/top.qcow2");
        fs::write(dir.join("model.raw"), &model).unwrap();
        qemu(
            dir,
            "qemu-img compare -q -f raw -F qcow2 model.raw sub/top.qcow2",
        );
        assert!(fs::read(dir.join("base.raw")).unwrap() == before);
    }
}

/// Guards internal snapshots: what the disk does afterwards does not show in them.
#[test]
fn snapshots_keep_their_content() {
    if !has_qemu() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let dir = directory.path();
    let source = raw(dir, "source.raw");
    for options in [
        "-o cluster_size=4k",
        "-c -o cluster_size=64k",
        "-o compat=0.10,cluster_size=512",
    ] {
        qemu(
            dir,
            &format!("qemu-img convert -f raw -O qcow2 {options} source.raw image.qcow2"),
        );
        qemu(dir, "qemu-img snapshot -c first image.qcow2");
        let mut model = source.clone();
        let image = open(&directory, "image.qcow2", false);
        change(&image, &mut model);
        assert!(content(&image) == model);
        drop(image);
        qemu_check(dir, "image.qcow2");
        fs::write(dir.join("model.raw"), &model).unwrap();
        qemu(
            dir,
            "qemu-img compare -q -f raw -F qcow2 model.raw image.qcow2",
        );
        qemu(dir, "qemu-img snapshot -a first image.qcow2");
        qemu(
            dir,
            "qemu-img compare -q -f raw -F qcow2 source.raw image.qcow2",
        );
        qemu(dir, "qemu-img snapshot -d first image.qcow2");
        qemu_check(dir, "image.qcow2");
    }
}

/// Guards the autoclear rule: bitmaps that are not kept up here do not count after a write.
#[test]
fn bitmaps_are_invalidated() {
    if !has_qemu() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let dir = directory.path();
    qemu(dir, "qemu-img create -q -f qcow2 image.qcow2 1M");
    qemu(dir, "qemu-img bitmap --add image.qcow2 seen");
    drop(open(&directory, "image.qcow2", true));
    assert!(qemu(dir, "qemu-img info image.qcow2").contains("seen"));
    let image = open(&directory, "image.qcow2", false);
    image.write_at(&[1; 512], 0).unwrap();
    drop(image);
    assert!(!qemu(dir, "qemu-img info image.qcow2").contains("seen"));
}

fn refusal(path: &Path, read_only: bool) -> Qcow2Error {
    match Image::open(path, read_only) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

/// Guards what is refused, and that the operator learns why.
#[test]
fn what_is_not_done_here_is_refused_by_name() {
    if !has_qemu() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let dir = directory.path();
    let path = dir.join("image.qcow2");
    for (options, feature) in [
        ("-o extended_l2=on", "extended L2"),
        ("-o data_file=data.raw", "external data file"),
    ] {
        qemu(
            dir,
            &format!("qemu-img create -q -f qcow2 {options} image.qcow2 1M"),
        );
        let error = refusal(&path, true);
        assert!(error.to_string().contains(feature), "{error}");
        assert!(error.remedy().contains("qemu-img convert"));
    }
    qemu(dir, "qemu-img create -q -f qcow2 image.qcow2 1M");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let features = |bits: u64| file.write_all_at(&bits.to_be_bytes(), 72).unwrap();
    features(1 << 45);
    assert!(refusal(&path, true).to_string().contains("bit 45"));
    features(1);
    let error = refusal(&path, false);
    assert!(matches!(error, Qcow2Error::Dirty { .. }), "{error}");
    assert!(error.remedy().contains("qemu-img check -r all"));
    Image::open(&path, true).unwrap();
    features(2);
    assert!(matches!(refusal(&path, false), Qcow2Error::Corrupt { .. }));
    Image::open(&path, true).unwrap();
    features(0);
    file.write_all_at(&1_u32.to_be_bytes(), 32).unwrap();
    assert!(refusal(&path, true).to_string().contains("AES"));
}

/// Guards the host's files: a chain ends, and leads only where an image says so outright.
#[test]
fn chains_that_lead_astray_are_refused() {
    if !has_qemu() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let dir = directory.path();
    qemu(dir, "qemu-img create -q -f qcow2 a.qcow2 1M");
    qemu(
        dir,
        "qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2 1M",
    );
    qemu(dir, "qemu-img rebase -u -b b.qcow2 -F qcow2 a.qcow2");
    let error = refusal(&dir.join("a.qcow2"), false);
    assert!(matches!(error, Qcow2Error::Cycle { .. }), "{error}");

    qemu(dir, "qemu-img create -q -f qcow2 0.qcow2 1M");
    for index in 1..40 {
        let base = index - 1;
        qemu(
            dir,
            &format!("qemu-img create -q -u -f qcow2 -b {base}.qcow2 -F qcow2 {index}.qcow2 1M"),
        );
    }
    drop(open(&directory, "31.qcow2", false));
    let error = refusal(&dir.join("39.qcow2"), false);
    assert!(matches!(error, Qcow2Error::Chain { .. }), "{error}");

    for (name, format) in [("json:{}", "raw"), ("nbd:localhost:1", "raw")] {
        qemu(
            dir,
            &format!("qemu-img create -q -u -f qcow2 -b {name} -F {format} c.qcow2 1M"),
        );
        let error = refusal(&dir.join("c.qcow2"), false);
        assert!(matches!(error, Qcow2Error::BackingName { .. }), "{error}");
    }
    qemu(
        dir,
        "qemu-img create -q -u -f qcow2 -b 0.qcow2 -F vmdk c.qcow2 1M",
    );
    assert!(
        refusal(&dir.join("c.qcow2"), false)
            .to_string()
            .contains("vmdk")
    );
    // No tool writes an image without the format any more.
    let path = dir.join("c.qcow2");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes
        .windows(4)
        .position(|w| w == 0xe279_2aca_u32.to_be_bytes())
        .unwrap();
    bytes[at] = 0x11;
    fs::write(&path, bytes).unwrap();
    let error = refusal(&path, false);
    assert!(matches!(error, Qcow2Error::BackingFormat { .. }), "{error}");
    qemu(dir, "mkfifo pipe");
    assert!(matches!(
        refusal(&dir.join("pipe"), true),
        Qcow2Error::NotAFile { .. }
    ));
}

/// Guards against two writers of an image, and a writer under a reader.
#[test]
fn an_image_has_one_writer() {
    if !has_qemu() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let dir = directory.path();
    qemu(dir, "qemu-img create -q -f qcow2 base.qcow2 1M");
    qemu(
        dir,
        "qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 1M",
    );
    let top = open(&directory, "top.qcow2", false);
    for name in ["top.qcow2", "base.qcow2"] {
        let error = refusal(&dir.join(name), false);
        assert!(matches!(error, Qcow2Error::InUse { .. }), "{error}");
    }
    open(&directory, "base.qcow2", true);
    drop(top);
    open(&directory, "base.qcow2", false);
}
