//! What cannot be recovered is refused by its name, with what to do instead; the rest goes on.

use std::fs;

use relevo_recover::plan::{PlanError, PlanInput, plan};

use super::lab::*;
use super::{Test, has_finding, plan_of};

pub const TESTS: &[Test] = &[
    (
        "xfs_and_btrfs_are_refused_by_name",
        &["mkfs.xfs", "mkfs.btrfs", "sfdisk"],
        foreign_file_systems,
    ),
    (
        "encrypted_and_managed_volumes_are_refused_by_name",
        &["sfdisk"],
        signatures,
    ),
    (
        "a_truncated_image_is_named",
        &["sfdisk", "mkfs.ext4"],
        truncated,
    ),
    (
        "a_damaged_data_disk_does_not_stop_recovery",
        &["mkfs.ext4"],
        second_disk,
    ),
];

fn foreign_file_systems() {
    let lab = Lab::new();
    for (tool, name) in [("mkfs.xfs", "XFS"), ("mkfs.btrfs", "btrfs")] {
        let fs = lab.path(name);
        fs::File::create(&fs).unwrap().set_len(320 * MIB).unwrap();
        run(tool, &["-q", "-f", fs.to_str().unwrap()], "");
        let disk = lab.disk(328, GPT, &[(2, &fs)]);
        let error = plan_of(&disk).unwrap_err();
        assert!(
            error.to_string().contains(&format!(
                "partition 2 of disk sda ({} {name}",
                if name == "XFS" { "an" } else { "a" }
            )),
            "{error}"
        );
        assert!(
            error.remedy().contains("relevo-recover restore"),
            "{}",
            error.remedy()
        );
    }
}

fn signatures() {
    let lab = Lab::new();
    for (at, magic, name, remedy) in [
        (0, b"LUKS\xba\xbe\0\x02".as_slice(), "LUKS", "key"),
        (
            512,
            b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001",
            "LVM2",
            "boot loader",
        ),
        (4096, &[0xfc, 0x4e, 0x2b, 0xa9], "RAID", "boot loader"),
        (3, b"NTFS    ", "NTFS", "Windows"),
    ] {
        let content = lab.path("content");
        let mut bytes = vec![0; MIB as usize];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        fs::write(&content, bytes).unwrap();
        let disk = lab.disk(34, GPT, &[(2, &content)]);
        let error = plan_of(&disk).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert!(error.remedy().contains(remedy), "{}", error.remedy());
    }
}

fn truncated() {
    let lab = Lab::new();
    let disk = lab.gpt_debian();
    fs::OpenOptions::new()
        .write(true)
        .open(&disk)
        .unwrap()
        .set_len(20 * MIB)
        .unwrap();
    let error = plan_of(&disk).unwrap_err();
    assert!(error.to_string().contains("truncated"), "{error}");

    let root = lab.path("root.ext4");
    fs::OpenOptions::new()
        .write(true)
        .open(&root)
        .unwrap()
        .set_len(20 * MIB)
        .unwrap();
    let error = plan_of(&root).unwrap_err();
    assert!(error.to_string().contains("truncated"), "{error}");
}

fn second_disk() {
    let lab = Lab::new();
    lab.debian("root", ("root", "boot/"));
    let root = lab.ext4("root", 30, &["-U", ROOT_UUID]);
    let garbage = lab.path("garbage");
    fs::write(&garbage, vec![0x5a; MIB as usize]).unwrap();
    let plan = plan(&PlanInput::new(
        disks(&[("sdb", &garbage), ("sda", &root)]),
        true,
    ))
    .unwrap();
    assert_eq!(plan.root.device, "/dev/vdb");
    assert!(has_finding(&plan, "disk sdb cannot be read"));
    let error = plan_of(&garbage).unwrap_err();
    assert!(matches!(error, PlanError::Layout { .. }), "{error}");
}
