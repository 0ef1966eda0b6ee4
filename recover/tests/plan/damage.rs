//! Damaged tables, journals and file systems: read as far as it goes, or refused by name.

use std::fs;

use relevo_recover::block::RawDisk;
use relevo_recover::disk_layout::read_layout;

use super::lab::*;
use super::{Test, plan_of};

pub const TESTS: &[Test] = &[
    (
        "an_unreplayed_journal_is_reported",
        &["mkfs.ext4", "debugfs"],
        dirty_journal,
    ),
    (
        "what_only_the_journal_holds_is_seen",
        &["mkfs.ext4", "debugfs"],
        journal_content,
    ),
    (
        "either_gpt_header_is_enough",
        &["sfdisk", "mkfs.ext4"],
        damaged_gpt,
    ),
    (
        "a_damaged_file_system_never_panics",
        &["mkfs.ext4"],
        damaged_file_system,
    ),
];

fn dirty_journal() {
    // A journal that mkfs made and no kernel has opened has no checksums, as those of old systems.
    let lab = Lab::new();
    lab.debian("root", ("root", "boot/"));
    let root = lab.ext4("root", 30, &["-O", "^metadata_csum,^64bit"]);
    run(
        "debugfs",
        &[
            "-w",
            "-R",
            "feature +needs_recovery",
            root.to_str().unwrap(),
        ],
        "",
    );
    let plan = plan_of(&root).unwrap();
    assert!(
        plan.findings
            .iter()
            .any(|f| f.why.contains("as they stand without it")),
        "{plan}"
    );
}

fn journal_content() {
    let lab = Lab::new();
    lab.debian("root", ("root", "boot/"));
    lab.file(
        "root",
        "boot/extlinux/extlinux.conf",
        format!("DEFAULT a\nLABEL a\n LINUX ../vmlinuz-{RELEASE}\n APPEND before\n"),
    );
    let root = lab.ext4("root", 30, &["-b", "1024"]);
    let image = root.to_str().unwrap();
    let block: u64 = run(
        "debugfs",
        &["-R", "bmap /boot/extlinux/extlinux.conf 0", image],
        "",
    )
    .trim()
    .parse()
    .unwrap();
    let mut changed = fs::read(&root).unwrap()[block as usize * 1024..][..1024].to_vec();
    let at = changed.windows(6).position(|w| w == b"before").unwrap();
    changed[at..at + 6].copy_from_slice(b"after!");
    let new = lab.path("block");
    fs::write(&new, changed).unwrap();
    let commands = format!("jo -c\njw -b {block} {}\njc\nq\n", new.display());
    run("debugfs", &["-w", "-f", "-", image], &commands);
    let plan = plan_of(&root).unwrap();
    assert!(plan.command_line.contains("after!"), "{plan}");
    assert!(
        plan.findings
            .iter()
            .any(|f| f.why.contains("applied in memory")),
        "{plan}"
    );
}

fn damaged_gpt() {
    let lab = Lab::new();
    let disk = lab.gpt_debian();
    let size = fs::metadata(&disk).unwrap().len();
    let whole = fs::read(&disk).unwrap();
    let layout = read_layout(&RawDisk::open(&disk).unwrap()).unwrap();
    assert_eq!(
        layout.partitions[1].part_uuid.as_deref(),
        Some("0fc63daf-0000-4000-8000-00000000abcd")
    );
    assert_eq!(layout.partitions[1].name.as_deref(), Some("root"));
    assert_eq!(
        layout.disk_id.as_deref(),
        Some("11111111-2222-3333-4444-555555555555")
    );
    for at in [512 + 20, 1024 + 5, size - 512 + 20, 512] {
        let byte = whole[at as usize];
        put(&disk, at, &[byte ^ 0x55]);
        let damaged = read_layout(&RawDisk::open(&disk).unwrap()).unwrap();
        assert_eq!(damaged.partitions, layout.partitions, "damage at {at}");
        assert!(damaged.notes[0].contains("header"), "{:?}", damaged.notes);
        put(&disk, at, &[byte]);
    }
    put(&disk, 512 + 20, &[1]);
    put(&disk, size - 512 + 20, &[1]);
    let error = plan_of(&disk).unwrap_err();
    assert!(error.to_string().contains("GPT is damaged"), "{error}");
    assert!(error.remedy().contains("older recovery point"));
}

fn damaged_file_system() {
    let lab = Lab::new();
    lab.debian("root", ("root", "boot/"));
    let root = lab.ext4("root", 16, &["-U", ROOT_UUID]);
    let whole = fs::read(&root).unwrap();
    // A fixed sequence of places and values, so that a failure can be repeated.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state >> 33
    };
    let mut refused = 0;
    for _ in 0..150 {
        let mut bytes = whole.clone();
        for _ in 0..8 {
            // The first 256 KiB hold superblock, group descriptors, bitmaps and inodes.
            let at = 1024 + (next() as usize % (255 * 1024));
            bytes[at] = next() as u8;
        }
        fs::write(&root, &bytes).unwrap();
        refused += usize::from(plan_of(&root).is_err());
    }
    println!("{refused} of 150 damaged file systems were refused");
}
