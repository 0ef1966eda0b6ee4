//! The kernels that lie in the tree, for systems whose boot loader gave no answer.

use super::{BootEntry, FileOnVolume, version};
use crate::filesystem::tree::{Place, Tree};
use crate::filesystem::{FsError, Node};

/// Links that distributions keep at their default kernel, with the initramfs that belongs to it.
const LINKS: &[(&str, &[&str])] = &[
    ("/vmlinuz", &["/initrd.img"]),
    (
        "/boot/vmlinuz",
        &["/boot/initrd.img", "/boot/initrd", "/boot/initramfs"],
    ),
    ("/boot/vmlinuz-linux", &["/boot/initramfs-linux.img"]),
    ("/boot/vmlinuz-lts", &["/boot/initramfs-lts"]),
    ("/boot/vmlinuz-virt", &["/boot/initramfs-virt"]),
];

/// Finds the default kernel by its links, else the newest in `/boot`.
pub fn find(system: &Tree) -> Result<Option<BootEntry>, FsError> {
    for (link, initrds) in LINKS {
        if let Some(kernel) = file(system, link)? {
            // The kernel's own name finds its initramfs more surely than a second link does.
            let version = version_of(&kernel.path).map(str::to_owned);
            let mut found = version
                .as_deref()
                .map_or(Ok(None), |v| initramfs_for(system, v))?;
            for initrd in *initrds {
                if found.is_none() {
                    found = file(system, initrd)?;
                }
            }
            return Ok(Some(entry(
                system,
                kernel,
                found,
                format!("the link {link}"),
            )));
        }
    }
    let mut names: Vec<String> = system
        .list("/boot")
        .into_iter()
        .filter(|n| version_of(n).is_some() && !n.contains("rescue") && !n.ends_with(".old"))
        .collect();
    names
        .sort_by(|a, b| version::compare(version_of(b).unwrap_or(""), version_of(a).unwrap_or("")));
    for name in names {
        if let Some(kernel) = file(system, &format!("/boot/{name}"))? {
            let initramfs = initramfs_for(system, version_of(&name).unwrap_or(""))?;
            return Ok(Some(entry(
                system,
                kernel,
                initramfs,
                "the newest kernel in /boot".into(),
            )));
        }
    }
    Ok(None)
}

fn entry(
    system: &Tree,
    kernel: FileOnVolume,
    initrd: Option<FileOnVolume>,
    source: String,
) -> BootEntry {
    let arguments = system.text("/etc/kernel/cmdline").map_or_else(
        || default_grub(&system.text("/etc/default/grub").unwrap_or_default()),
        |text| text.split_whitespace().collect::<Vec<_>>().join(" "),
    );
    BootEntry {
        title: kernel
            .path
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned(),
        kernel,
        initrds: initrd.into_iter().collect(),
        arguments,
        source,
        notes: Vec::new(),
    }
}

/// What `/etc/default/grub` adds to every command line.
fn default_grub(text: &str) -> String {
    let mut arguments = Vec::new();
    for key in ["GRUB_CMDLINE_LINUX=", "GRUB_CMDLINE_LINUX_DEFAULT="] {
        if let Some(value) = text.lines().rev().find_map(|l| l.trim().strip_prefix(key)) {
            arguments.extend(value.trim_matches(['"', '\'']).split_whitespace());
        }
    }
    arguments.join(" ")
}

fn file(system: &Tree, path: &str) -> Result<Option<FileOnVolume>, FsError> {
    Ok(match system.find(path)? {
        Some(Place {
            volume,
            path,
            node: Node::File(_),
        }) => Some(FileOnVolume { volume, path }),
        _ => None,
    })
}

fn version_of(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    ["vmlinuz-", "vmlinux-", "bzImage-", "kernel-"]
        .iter()
        .find_map(|p| name.strip_prefix(p))
}

fn initramfs_for(system: &Tree, version: &str) -> Result<Option<FileOnVolume>, FsError> {
    for name in [
        format!("initrd.img-{version}"),
        format!("initramfs-{version}.img"),
        format!("initrd-{version}"),
        format!("initrd-{version}.img"),
        format!("initramfs-{version}"),
    ] {
        if let Some(found) = file(system, &format!("/boot/{name}"))? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
