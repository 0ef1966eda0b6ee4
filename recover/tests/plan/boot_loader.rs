//! Where the boot loader of an image says its kernel and its root are.

use std::fs;
use std::process::Command;

use relevo_recover::adapt::adapt;
use relevo_recover::block::RawDisk;
use relevo_recover::disk_layout::read_layout;
use relevo_recover::plan::{BootPlan, KernelSource, PlanInput, RecordedNetwork, RecordedNic, plan};

use super::lab::*;
use super::{Test, has_finding, instructions, plan_of};

pub const TESTS: &[Test] = &[
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
];

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
