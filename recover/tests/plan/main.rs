//! Plans made from real partition tables and file systems, written by `sfdisk`, `sgdisk` and
//! `mkfs`. A test whose tools are missing says which and is counted as skipped.
#![allow(clippy::unwrap_used)]

mod lab;

use std::fs;
use std::path::Path;
use std::process::Command;

use libtest_mimic::{Arguments, Trial};
use relevo_recover::adapt::adapt;
use relevo_recover::block::RawDisk;
use relevo_recover::disk_layout::read_layout;
use relevo_recover::plan::{
    BootPlan, InitrdSegment, KernelChoice, KernelSource, PlanError, PlanInput, RecordedNetwork,
    RecordedNic, StaticAddress, plan,
};

use lab::*;

/// Name, tools that it needs, and what it does.
type Test = (&'static str, &'static [&'static str], fn());

fn main() {
    let arguments = Arguments::from_args();
    let tests: Vec<Test> = vec![
        (
            "debian_on_gpt_boots_its_own_kernel",
            &["mkfs.ext4", "sfdisk", "cpio"],
            debian_on_gpt,
        ),
        (
            "logical_root_by_device_name_gets_a_partuuid",
            &["mkfs.ext4", "sfdisk"],
            logical_root,
        ),
        (
            "separate_boot_with_boot_loader_entries",
            &["mkfs.ext4", "sfdisk"],
            separate_boot,
        ),
        ("extlinux_is_read", &["mkfs.ext4"], extlinux),
        (
            "bare_kernels_are_the_last_resort",
            &["mkfs.ext4"],
            bare_kernel,
        ),
        (
            "without_hardware_virtualization_the_site_kernel_mounts_the_root",
            &["mkfs.ext4", "sfdisk"],
            site_kernel,
        ),
        (
            "a_kernel_before_virtio_1_needs_a_site_kernel",
            &["mkfs.ext4"],
            old_kernel,
        ),
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
            "a_truncated_image_is_named",
            &["sfdisk", "mkfs.ext4"],
            truncated,
        ),
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
            "a_damaged_data_disk_does_not_stop_recovery",
            &["mkfs.ext4"],
            second_disk,
        ),
        (
            "a_damaged_file_system_never_panics",
            &["mkfs.ext4"],
            damaged_file_system,
        ),
    ];
    let trials = tests
        .into_iter()
        .map(|(name, tools, run)| {
            let missing: Vec<&str> = tools.iter().copied().filter(|t| !installed(t)).collect();
            if !missing.is_empty() {
                eprintln!("{name}: skipped, missing {}", missing.join(", "));
            }
            Trial::test(name, move || {
                run();
                Ok(())
            })
            .with_ignored_flag(!missing.is_empty())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn plan_of(path: &Path) -> Result<BootPlan, PlanError> {
    plan(&PlanInput::new(disks(&[("sda", path)]), true))
}

fn instructions(plan: &BootPlan) -> &str {
    match &plan.initrd[0] {
        InitrdSegment::Relevo { instructions, .. } => instructions,
        InitrdSegment::Image(file) => panic!("the first segment is {file:?}"),
    }
}

fn has_finding(plan: &BootPlan, text: &str) -> bool {
    plan.findings
        .iter()
        .any(|f| f.found.contains(text) || f.change.as_ref().is_some_and(|c| c.contains(text)))
}

fn debian_on_gpt() {
    let lab = Lab::new();
    let disk = lab.gpt_debian();
    let mut input = PlanInput::new(disks(&[("sda", &disk)]), true);
    input.recorded = Some(RecordedNetwork {
        hostname: Some("web1.example.org".into()),
        nics: vec![RecordedNic {
            name: "enp3s0".into(),
            mac: "52:54:00:AA:BB:01".into(),
            addresses: vec!["192.0.2.5/24".into()],
            ..RecordedNic::default()
        }],
        memory: 8 << 30,
        cpus: 4,
        ..RecordedNetwork::default()
    });
    let plan = plan(&input).unwrap();
    println!("{plan}");
    let KernelSource::Image { file, release } = &plan.kernel else {
        panic!("{:?}", plan.kernel)
    };
    assert_eq!(
        (file.path.as_str(), release.as_str()),
        ("/boot/vmlinuz-6.1.0-18-amd64", RELEASE)
    );
    assert_eq!(
        plan.command_line,
        format!("rdinit=/.relevo/init root=UUID={ROOT_UUID} ro quiet noresume console=ttyS0")
    );
    assert_eq!(plan.root.device, "/dev/vda2");
    assert_eq!(plan.nics[0].mac, "52:54:00:aa:bb:01");
    let text = instructions(&plan);
    let order = [
        "virtio.ko",
        "virtio_ring.ko",
        "virtio_pci.ko",
        "virtio_blk.ko",
        "net_failover.ko",
        "virtio_net.ko",
    ];
    let places: Vec<usize> = order
        .iter()
        .map(|m| text.find(&format!("/{m}")).unwrap())
        .collect();
    assert!(places.is_sorted(), "{text}");
    assert!(
        text.contains("rename 52:54:00:aa:bb:01 enp3s0\n") && text.ends_with("exec /init\n"),
        "{text}"
    );
    assert!(plan.findings.iter().any(|f| f.found.contains("8192 MiB")));

    let out = lab.path("run");
    let boot = adapt(&plan, &input.disks, &out).unwrap();
    assert_eq!(fs::read(&boot.kernel).unwrap(), kernel(RELEASE));
    assert_eq!(
        fs::read(&boot.initrds[1]).unwrap(),
        b"the image's initramfs"
    );
    let segment = fs::read(&boot.initrds[0]).unwrap();
    assert_eq!(segment.len() % 4, 0);
    let unpacked = lab.path("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let status = Command::new("sh")
        .args(["-c", "cpio -idm --quiet < \"$0\""])
        .arg(fs::canonicalize(&boot.initrds[0]).unwrap())
        .current_dir(&unpacked)
        .status()
        .unwrap();
    assert!(status.success());
    let top: Vec<_> = fs::read_dir(&unpacked)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(
        top,
        [".relevo"],
        "a directory entry such as lib/ would replace a link of the image's initramfs"
    );
    assert_eq!(
        fs::read(unpacked.join(".relevo/modules/virtio_blk.ko")).unwrap(),
        b"\x7fELF virtio_blk"
    );
    assert_eq!(
        fs::read_to_string(unpacked.join(".relevo/plan")).unwrap(),
        text
    );
    assert!(
        fs::read(unpacked.join(".relevo/init"))
            .unwrap()
            .starts_with(b"\x7fELF")
    );
    let again: BootPlan =
        serde_json::from_slice(&fs::read(out.join("plan.json")).unwrap()).unwrap();
    assert_eq!(again, plan);
}

fn logical_root() {
    let lab = Lab::new();
    lab.debian("root", ("root", "boot/"));
    lab.file(
        "root",
        "etc/fstab",
        "/dev/sda5 / ext4 defaults 0 1\n/dev/sdb1 /data ext4 defaults 0 2\n",
    );
    let grub = format!(
        "menuentry 'Linux' {{\n set root='hd0,msdos5'\n linux /boot/vmlinuz-{RELEASE} root=/dev/sda5 ro console=tty0 resume=/dev/sda6\n initrd /boot/initrd.img-{RELEASE}\n}}\n"
    );
    lab.file("root", "boot/grub/grub.cfg", grub);
    let root = lab.ext4("root", 30, &["-U", ROOT_UUID]);
    let table = "label: dos\nlabel-id: 0xdeadbeef\nsize=2MiB, type=83\nsize=1MiB, type=83\nsize=1MiB, type=83\ntype=5\nsize=32MiB, type=83, bootable\nsize=8MiB, type=82\n";
    let disk = lab.disk(64, table, &[(5, &root)]);
    let printed = run("sfdisk", &["--json", disk.to_str().unwrap()], "");
    let layout = read_layout(&RawDisk::open(&disk).unwrap()).unwrap();
    for partition in layout.partitions {
        assert!(
            printed.contains(&format!("\"start\": {}", partition.start / 512)),
            "{partition:?}: {printed}"
        );
    }
    let plan = plan_of(&disk).unwrap();
    assert_eq!(
        plan.command_line,
        "rdinit=/.relevo/init root=PARTUUID=deadbeef-05 ro console=tty0 noresume console=ttyS0"
    );
    assert!(instructions(&plan).contains("link sda5 vda5\n"));
    assert!(has_finding(&plan, "/dev/sdb1") && has_finding(&plan, "resume="));
}

fn separate_boot() {
    let lab = Lab::new();
    lab.debian("root", ("boot", ""));
    lab.file(
        "root",
        "etc/fstab",
        format!("UUID={ROOT_UUID} / ext4 defaults 0 1\nUUID={BOOT_UUID} /boot ext4 defaults 0 2\n"),
    );
    fs::create_dir_all(lab.path("root").join("boot")).unwrap();
    lab.file(
        "boot",
        "grub2/grub.cfg",
        include_str!("../../src/boot_loader/grub/fixtures/rhel9.cfg"),
    );
    let entry = |release: &str| {
        format!(
            "title Linux ({release})\nversion {release}\nlinux /vmlinuz-{release}\ninitrd /initrd.img-{release} $tuned_initrd\noptions root=UUID={ROOT_UUID} ro $kernelopts\n"
        )
    };
    lab.file(
        "boot",
        &format!("loader/entries/abc-{RELEASE}.conf"),
        entry(RELEASE),
    );
    lab.file("boot", "loader/entries/abc-6.9.0.conf", entry("6.9.0"));
    let mut env =
        format!("# GRUB Environment Block\nsaved_entry=abc-{RELEASE}\nkernelopts=audit=1\n");
    env.push_str(&"#".repeat(1024 - env.len()));
    lab.file("boot", "grub2/grubenv", env);
    let (root, boot) = (
        lab.ext4("root", 30, &["-U", ROOT_UUID]),
        lab.ext4("boot", 20, &["-U", BOOT_UUID]),
    );
    let table = "label: gpt\nsize=1MiB, type=21686148-6449-6E6F-744E-656564454649\nsize=20MiB, type=linux\ntype=linux\n";
    let disk = lab.disk(56, table, &[(2, &boot), (3, &root)]);
    let plan = plan_of(&disk).unwrap();
    let KernelSource::Image { file, .. } = &plan.kernel else {
        panic!()
    };
    assert_eq!(
        file.path,
        format!("/vmlinuz-{RELEASE}"),
        "the saved entry, not the newest kernel"
    );
    assert!(
        plan.command_line.contains("audit=1"),
        "{}",
        plan.command_line
    );
    assert_eq!(plan.root.device, "/dev/vda3");
    assert_eq!(plan.initrd.len(), 2);
}

fn extlinux() {
    let lab = Lab::new();
    lab.debian("root", ("root", "boot/"));
    lab.file(
        "root",
        "boot/extlinux/extlinux.conf",
        format!("DEFAULT two\nLABEL one\n KERNEL /boot/none\nLABEL two\n MENU LABEL ^Second\n LINUX ../vmlinuz-{RELEASE}\n APPEND initrd=../initrd.img-{RELEASE} root=LABEL=system rw\n"),
    );
    let root = lab.ext4("root", 30, &["-L", "system"]);
    let plan = plan_of(&root).unwrap();
    assert!(
        plan.command_line.contains("root=LABEL=system rw"),
        "{}",
        plan.command_line
    );
    assert_eq!(plan.initrd.len(), 2);
    assert_eq!(
        plan.root.device, "/dev/vda",
        "a file system on the whole disk"
    );
    assert!(has_finding(&plan, "\"Second\""));
}

fn bare_kernel() {
    let lab = Lab::new();
    lab.debian("root", ("root", "boot/"));
    lab.file(
        "root",
        "boot/grub/grub.cfg",
        "menuentry 'gone' { linux /boot/vmlinuz-9.9 root=/dev/sda1\n }\n",
    );
    lab.file(
        "root",
        "boot/vmlinuz-6.1.0-9-amd64",
        kernel("6.1.0-9-amd64"),
    );
    lab.file(
        "root",
        "etc/default/grub",
        "GRUB_CMDLINE_LINUX=\"audit=1\"\n",
    );
    let root = lab.ext4("root", 30, &["-U", ROOT_UUID]);
    let plan = plan_of(&root).unwrap();
    assert!(has_finding(&plan, "vmlinuz-9.9 does not exist"), "{plan}");
    assert!(has_finding(&plan, "the newest kernel in /boot"), "{plan}");
    assert!(
        plan.command_line
            .contains(&format!("root=UUID={ROOT_UUID} ro audit=1")),
        "{}",
        plan.command_line
    );
}

fn site_kernel() {
    let lab = Lab::new();
    let disk = lab.gpt_debian();
    let mut input = PlanInput::new(disks(&[("sda", &disk)]), false);
    let error = plan(&input).unwrap_err();
    assert!(
        matches!(
            error,
            PlanError::SiteKernelNeeded {
                can_be_forced: true,
                ..
            }
        ),
        "{error}"
    );
    input.site_kernel = Some(lab.path("absent"));
    assert!(matches!(
        plan(&input).unwrap_err(),
        PlanError::NoSiteKernel { .. }
    ));
    lab.file("site", "vmlinux", "kernel");
    input.site_kernel = Some(lab.path("site/vmlinux"));
    input.static_addresses = vec![StaticAddress {
        interface: "eth0".into(),
        address: "192.0.2.9/24".into(),
        gateway: Some("192.0.2.1".into()),
    }];
    let site = plan(&input).unwrap();
    let text = instructions(&site);
    assert!(
        text.contains("root /dev/vda2 ext4 ro -\n") && text.ends_with("exec /sbin/init\n"),
        "{text}"
    );
    assert!(
        text.contains("address eth0 192.0.2.9/24\ngateway eth0 192.0.2.1\n")
            && !text.contains("module"),
        "{text}"
    );
    assert_eq!(site.initrd.len(), 1);
    assert!(!site.command_line.contains("noresume"));
    let boot = adapt(&site, &input.disks, &lab.path("run")).unwrap();
    assert_eq!(fs::read(boot.kernel).unwrap(), b"kernel");
    input.kernel = KernelChoice::Image;
    assert!(matches!(
        plan(&input).unwrap().kernel,
        KernelSource::Image { .. }
    ));
}

fn old_kernel() {
    let lab = Lab::new();
    lab.debian("root", ("root", "boot/"));
    fs::remove_file(lab.path(&format!("root/boot/vmlinuz-{RELEASE}"))).unwrap();
    lab.file(
        "root",
        "boot/vmlinuz-2.6.32-5-amd64",
        kernel("2.6.32-5-amd64"),
    );
    let root = lab.ext4("root", 30, &[]);
    let error = plan_of(&root).unwrap_err();
    assert!(
        error.to_string().contains("older than virtio 1.0"),
        "{error}"
    );
    assert!(error.remedy().contains("site kernel"));
}

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
