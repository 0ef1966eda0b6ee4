//! What else images block devices, each as its manual advises: compression on, and encryption
//! where there is any.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Imaged, Imager};
use crate::measured::{Cost, bytes_below, run, run_reading};
use crate::repository::{self, Keeper, program};

/// A peer, or why it cannot be measured.
pub type Found = Result<Box<dyn Imager>, String>;

#[derive(Clone, Copy)]
enum Kind {
    /// Of a device's name restic and rustic would keep the device node: they read standard input.
    Keeper(Keeper),
    /// borg with chunks of one size, as it advises for images of disks.
    BorgFixed,
    Qemu,
    Casync,
}

impl Kind {
    fn keeper(self) -> Option<Keeper> {
        match self {
            Self::Keeper(keeper) => Some(keeper),
            Self::BorgFixed => Some(Keeper::Borg),
            Self::Qemu | Self::Casync => None,
        }
    }
}

/// All peers by name.
pub fn all(dir: &Path) -> Vec<(&'static str, Found)> {
    let kinds = [
        ("restic", "restic", Kind::Keeper(Keeper::Restic)),
        ("borg", "borg", Kind::Keeper(Keeper::Borg)),
        ("borg-fixed", "borg", Kind::BorgFixed),
        ("rustic", "rustic", Kind::Keeper(Keeper::Rustic)),
        ("qemu-img", "qemu-img", Kind::Qemu),
        ("casync", "casync", Kind::Casync),
    ];
    let found = kinds.map(|(name, called, kind)| {
        let peer = program(called).map(|program| {
            Box::new(Peer {
                kind,
                program,
                name,
                dir: dir.join(name),
                log: dir.join(format!("{name}.log")),
                images: 0,
            }) as Box<dyn Imager>
        });
        (name, peer)
    });
    found.into()
}

struct Peer {
    kind: Kind,
    program: PathBuf,
    name: &'static str,
    dir: PathBuf,
    log: PathBuf,
    images: u32,
}

impl Peer {
    fn repository(&self) -> PathBuf {
        self.dir.join("repo")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        if let Some(keeper) = self.kind.keeper() {
            return keeper.command(&self.program, &self.dir, arguments);
        }
        let mut command = Command::new(&self.program);
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Cost {
        run(self.command(arguments), &self.log)
    }

    /// Runs it with the disk as its standard input.
    fn feed(&self, disk: &Path, arguments: &[&str]) -> Cost {
        let input = File::open(disk).unwrap_or_else(|e| panic!("{}: {e}", disk.display()));
        run_reading(self.command(arguments), input, &self.log)
    }
}

impl Imager for Peer {
    fn name(&self) -> &'static str {
        self.name
    }

    fn begin(&mut self) {
        repository::renew(&self.repository());
        repository::renew(&self.dir.join("cache"));
        self.images = 0;
        if let Some(keeper) = self.kind.keeper() {
            self.run(keeper.init());
        }
    }

    fn image(&mut self, server: &str, disk: &Path) -> Imaged {
        self.images += 1;
        let path = disk.to_string_lossy();
        let archive = format!("{server}-{}", self.images);
        let file = |name: String| self.repository().join(name).to_string_lossy().into_owned();
        let before = bytes_below(&self.repository());
        let stdin = ["backup", "--host", server, "--stdin-filename", "disk.raw"];
        let borg = |more: &[&str]| {
            let create = ["create", "--compression", "zstd,3", "--read-special"];
            self.run(&[&create, more, &[&format!("::{archive}"), &path]].concat())
        };
        let cost = match self.kind {
            Kind::Keeper(Keeper::Restic) => self.feed(disk, &[&stdin[..], &["--stdin"]].concat()),
            Kind::Keeper(Keeper::Rustic) => self.feed(disk, &[&stdin[..], &["-"]].concat()),
            Kind::Keeper(Keeper::Borg) => borg(&[]),
            Kind::BorgFixed => borg(&["--chunker-params", "fixed,4194304"]),
            Kind::Qemu => {
                let to = file(format!("{archive}.qcow2"));
                let threads = ["-m", "16", "-W"];
                let compressed = ["-c", "-o", "compression_type=zstd"];
                let convert = ["convert", "-f", "raw", "-O", "qcow2"];
                let files = [&*path, &to];
                self.run(&[&convert[..], &threads, &compressed, &files].concat())
            }
            Kind::Casync => {
                let store = format!("--store={}", file("store.castr".into()));
                let to = file(format!("{archive}.caibx"));
                self.run(&["make", "--compression=zstd", &store, &to, &path])
            }
        };
        Imaged {
            cost,
            vault: Cost::default(),
            sent: bytes_below(&self.repository()) - before,
        }
    }

    fn stored(&mut self) -> u64 {
        bytes_below(&self.repository())
    }
}
