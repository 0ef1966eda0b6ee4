//! Which kernel boots: the image's, the newest that lies there, or the site's.

use std::fs;

use relevo_recover::adapt::adapt;
use relevo_recover::plan::{KernelChoice, KernelSource, PlanError, PlanInput, StaticAddress, plan};

use super::lab::*;
use super::{Test, has_finding, instructions, plan_of};

pub const TESTS: &[Test] = &[
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
];

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
