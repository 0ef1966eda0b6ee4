//! The drivers for virtual hardware, from the image's own `/lib/modules`.
//!
//! What is built in or already loaded by the image's initramfs does no harm to list; what is
//! missing from it is the usual reason why a server does not start as a virtual machine.

use std::collections::{BTreeMap, BTreeSet};

use super::system::System;
use super::{Finding, step};
use crate::boot_loader::FileOnVolume;
use crate::filesystem::Node;
use crate::filesystem::tree::Place;

/// Modules that one module can need: real ones need a dozen.
const MAX_NEEDS: usize = 256;
/// Without these nothing starts.
const NEEDED: &[&str] = &["virtio_pci", "virtio_blk"];
/// Without this the server starts, but alone.
const NETWORK: &str = "virtio_net";
/// For images without an initramfs: the root's file system, and the checksum that ext4 asks the
/// crypto layer for by name, which no dependency shows.
const ROOT: &[&str] = &["crc32c_generic", "ext4"];

/// What has to be loaded.
#[derive(Debug, Default)]
pub struct Drivers {
    /// Modules in the order of loading.
    pub files: Vec<FileOnVolume>,
    /// Remarks.
    pub findings: Vec<Finding>,
}

/// Resolves drivers and what they depend on; the error says what the kernel lacks.
pub fn resolve(system: &System, release: &str, mounts_root: bool) -> Result<Drivers, String> {
    let directory = format!("/lib/modules/{release}");
    let tree = &system.tree;
    let dependencies = parse_dependencies(
        &tree
            .text(&format!("{directory}/modules.dep"))
            .unwrap_or_default(),
    );
    let mut built_in: BTreeSet<String> = tree
        .text(&format!("{directory}/modules.builtin"))
        .unwrap_or_default()
        .lines()
        .map(name_of)
        .collect();
    // A kernel without a module tree may still have all it needs; its configuration tells.
    let config = tree
        .text(&format!("/boot/config-{release}"))
        .unwrap_or_default();
    for (name, option) in [
        ("virtio_pci", "CONFIG_VIRTIO_PCI=y"),
        ("virtio_blk", "CONFIG_VIRTIO_BLK=y"),
        ("virtio_net", "CONFIG_VIRTIO_NET=y"),
        ("ext4", "CONFIG_EXT4_FS=y"),
        ("crc32c_generic", "CONFIG_CRYPTO_CRC32C=y"),
    ] {
        if config.lines().any(|l| l == option) {
            built_in.insert(name.into());
        }
    }
    let mut order = Vec::new();
    for name in NEEDED {
        collect(name, &dependencies, &built_in, &mut order).map_err(|missing| {
            format!(
                "Linux {release} has no driver {missing}, neither built in nor below {directory}"
            )
        })?;
    }
    let mut findings = Vec::new();
    if let Err(missing) = collect(NETWORK, &dependencies, &built_in, &mut order) {
        findings.push(Finding::seen(
            step::MODULES,
            format!("Linux {release} has no driver {missing}"),
            "the server starts without a network; use a site kernel if it needs one",
        ));
    }
    if mounts_root {
        for name in ROOT {
            // Kernels since 6.16 have the checksum built in under no module's name.
            let _ = collect(name, &dependencies, &built_in, &mut order);
        }
    }
    let mut files = Vec::new();
    for path in &order {
        let path = if path.starts_with('/') {
            path.clone()
        } else {
            format!("{directory}/{path}")
        };
        match tree.find(&path).map_err(|e| e.to_string())? {
            Some(Place {
                volume,
                path,
                node: Node::File(_),
            }) => files.push(FileOnVolume { volume, path }),
            _ => return Err(format!("{path} is listed in modules.dep but is not there")),
        }
    }
    findings.push(if files.is_empty() {
        Finding::seen(step::MODULES, "the drivers for virtual disks and cards are built in", "nothing has to be added")
    } else {
        let names: Vec<String> = files.iter().map(|f| name_of(&f.path)).collect();
        Finding::changed(
            step::MODULES,
            format!("{} in {directory}", names.join(", ")),
            "loaded before anything else runs, from an initramfs segment of our own",
            "an initramfs made for the server's own hardware often lacks them; loaded twice they do no harm",
        )
    });
    Ok(Drivers { files, findings })
}

/// Adds a module after what it needs; the error is the name that is nowhere.
fn collect(
    name: &str,
    dependencies: &BTreeMap<String, (String, Vec<String>)>,
    built_in: &BTreeSet<String>,
    order: &mut Vec<String>,
) -> Result<(), String> {
    if built_in.contains(name) {
        return Ok(());
    }
    let (path, needs) = dependencies.get(name).ok_or_else(|| name.to_owned())?;
    if order.contains(path) {
        return Ok(());
    }
    // modules.dep lists everything that is needed, also indirectly: last first is a right order.
    for path in needs.iter().rev().chain([path]) {
        if !order.contains(path) {
            order.push(path.clone());
        }
    }
    Ok(())
}

/// `kernel/a/b.ko.xz: kernel/c.ko.xz kernel/d.ko.xz` by the module's name.
fn parse_dependencies(text: &str) -> BTreeMap<String, (String, Vec<String>)> {
    text.lines()
        .filter_map(|line| {
            let (path, needs) = line.split_once(':')?;
            let needs = needs
                .split_whitespace()
                .take(MAX_NEEDS)
                .map(str::to_owned)
                .collect();
            Some((name_of(path), (path.trim().to_owned(), needs)))
        })
        .collect()
}

/// Name of a module as the kernel spells it: `virtio-rng.ko.xz` is `virtio_rng`.
fn name_of(path: &str) -> String {
    let file = path.trim().rsplit('/').next().unwrap_or_default();
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// Where a module lies in our segment; unpacked, so without the ending of its compression.
pub fn path_in_initramfs(path: &str) -> String {
    format!("/.relevo/modules/{}.ko", name_of(path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_module_needs_is_loaded_before_it_and_once() {
        let dependencies = parse_dependencies(
            "kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio_pci_modern_dev.ko.xz kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko.xz\n\
             kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko.xz\n\
             kernel/net/core/failover.ko.xz:\n",
        );
        let built_in = BTreeSet::from(["virtio_net".to_owned()]);
        let mut order = Vec::new();
        for name in ["virtio_pci", "virtio_blk", "virtio_net"] {
            collect(name, &dependencies, &built_in, &mut order).unwrap();
        }
        let names: Vec<String> = order.iter().map(|p| name_of(p)).collect();
        assert_eq!(
            names,
            [
                "virtio",
                "virtio_ring",
                "virtio_pci_modern_dev",
                "virtio_pci",
                "virtio_blk"
            ]
        );
        assert_eq!(
            collect("nvme", &dependencies, &built_in, &mut order),
            Err("nvme".into())
        );
    }
}
