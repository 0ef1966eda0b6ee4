//! Disks to plan from: trees of files, made into file systems and partitioned disks by the same
//! tools that make them on servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use relevo_recover::block::{BlockRead, RawDisk};
use relevo_recover::disk_layout::read_layout;
use relevo_recover::plan::NamedDisk;
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;
pub const ROOT_UUID: &str = "3bd1a4cf-0d60-4c5c-a5d7-7f0c0f0b8a11";
pub const BOOT_UUID: &str = "b5f4b7b2-9f5e-4d58-8dc6-9e3c9b7f3a01";
pub const RELEASE: &str = "6.1.0-18-amd64";
pub const GPT: &str = "label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\n\
    size=1MiB, type=21686148-6449-6E6F-744E-656564454649\n\
    type=linux, uuid=0FC63DAF-0000-4000-8000-00000000ABCD, name=root\n";

pub fn installed(tool: &str) -> bool {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .any(|d| Path::new(d).join(tool).exists())
}

pub fn run(program: &str, args: &[&str], input: &str) -> String {
    use std::io::Write;
    let mut child = Command::new(program)
        .args(args)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Files of a system to be, and the images made from them.
pub struct Lab {
    dir: TempDir,
}

impl Lab {
    pub fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn file(&self, tree: &str, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(tree).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn link(&self, tree: &str, path: &str, target: &str) {
        let path = self.path(tree).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    /// The parts of a Debian that planning looks at. `boot` is where /boot's files go.
    pub fn debian(&self, tree: &str, boot: (&str, &str)) {
        self.file(
            tree,
            "etc/os-release",
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
        );
        self.file(tree, "etc/hostname", "web1\n");
        self.file(
            tree,
            "etc/fstab",
            format!("UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\n"),
        );
        self.file(tree, "usr/sbin/init", "");
        self.link(tree, "lib", "usr/lib");
        self.link(tree, "sbin", "usr/sbin");
        let modules = format!("usr/lib/modules/{RELEASE}");
        self.file(
            tree,
            &format!("{modules}/modules.dep"),
            "kernel/virtio.ko:\nkernel/virtio_ring.ko: kernel/virtio.ko\n\
             kernel/virtio_pci_modern_dev.ko:\nkernel/virtio_pci_legacy_dev.ko:\n\
             kernel/virtio_pci.ko: kernel/virtio_pci_legacy_dev.ko kernel/virtio_pci_modern_dev.ko kernel/virtio_ring.ko kernel/virtio.ko\n\
             kernel/virtio_blk.ko.zst: kernel/virtio_ring.ko kernel/virtio.ko\n\
             kernel/failover.ko:\nkernel/net_failover.ko: kernel/failover.ko\n\
             kernel/virtio_net.ko: kernel/net_failover.ko kernel/failover.ko kernel/virtio_ring.ko kernel/virtio.ko\n",
        );
        self.file(
            tree,
            &format!("{modules}/modules.builtin"),
            "kernel/fs/ext4/ext4.ko\n",
        );
        for name in [
            "virtio",
            "virtio_ring",
            "virtio_pci_modern_dev",
            "virtio_pci_legacy_dev",
            "virtio_pci",
            "failover",
            "net_failover",
            "virtio_net",
        ] {
            self.file(
                tree,
                &format!("{modules}/kernel/{name}.ko"),
                format!("\x7fELF {name}"),
            );
        }
        let packed = zstd::encode_all(b"\x7fELF virtio_blk".as_slice(), 1).unwrap();
        self.file(tree, &format!("{modules}/kernel/virtio_blk.ko.zst"), packed);
        let (tree, prefix) = boot;
        self.file(tree, &format!("{prefix}vmlinuz-{RELEASE}"), kernel(RELEASE));
        self.file(
            tree,
            &format!("{prefix}initrd.img-{RELEASE}"),
            "the image's initramfs",
        );
    }

    /// An ext4 file system of a tree.
    pub fn ext4(&self, tree: &str, mib: u64, options: &[&str]) -> PathBuf {
        let out = self.path(&format!("{tree}.ext4"));
        fs::File::create(&out).unwrap().set_len(mib * MIB).unwrap();
        fs::create_dir_all(self.path(tree)).unwrap();
        let (source, target) = (self.path(tree), out.clone());
        let mut args = vec!["-q", "-F", "-d", source.to_str().unwrap()];
        args.extend(options);
        args.push(target.to_str().unwrap());
        run("mkfs.ext4", &args, "");
        out
    }

    /// A disk with a table in sfdisk's language and the given files in its partitions.
    pub fn disk(&self, mib: u64, table: &str, contents: &[(u32, &Path)]) -> PathBuf {
        let out = self.path("disk.raw");
        fs::File::create(&out).unwrap().set_len(mib * MIB).unwrap();
        run("sfdisk", &["-q", out.to_str().unwrap()], table);
        let layout = read_layout(&RawDisk::open(&out).unwrap()).unwrap();
        for (number, content) in contents {
            let partition = layout
                .partitions
                .iter()
                .find(|p| p.number == *number)
                .unwrap();
            let bytes = fs::read(content).unwrap();
            assert!(
                bytes.len() as u64 <= partition.len,
                "{content:?} does not fit into partition {number}"
            );
            put(&out, partition.start, &bytes);
        }
        out
    }

    pub fn gpt_debian(&self) -> PathBuf {
        self.debian("root", ("root", "boot/"));
        let grub = include_str!("../../src/boot_loader/grub/fixtures/debian12.cfg");
        self.file("root", "boot/grub/grub.cfg", grub);
        let root = self.ext4("root", 30, &["-U", ROOT_UUID]);
        self.disk(34, GPT, &[(2, &root)])
    }
}

pub fn put(path: &Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(bytes, at)
        .unwrap();
}

/// As much of a bzImage as a boot loader looks at.
pub fn kernel(release: &str) -> Vec<u8> {
    let mut image = vec![0u8; 4096];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x20e..0x210].copy_from_slice(&0x400u16.to_le_bytes());
    let text = format!("{release} (debian-kernel@lists.debian.org) #1 SMP\0");
    image[0x600..0x600 + text.len()].copy_from_slice(text.as_bytes());
    image
}

pub fn disks(paths: &[(&str, &Path)]) -> Vec<NamedDisk> {
    paths
        .iter()
        .map(|(name, path)| NamedDisk {
            name: (*name).into(),
            serial: Some("S1".into()),
            disk: Arc::new(RawDisk::open(path).unwrap()) as Arc<dyn BlockRead>,
        })
        .collect()
}
