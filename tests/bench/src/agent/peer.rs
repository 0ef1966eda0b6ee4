//! What else images block devices, each as its manual advises: compression on, and encryption
//! where there is any.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Imaged, Imager};
use crate::measured::{Cost, bytes_below, run, run_reading};

const PASSPHRASE: &str = "passphrase of the comparison";

/// A peer, or why it cannot be measured.
pub type Found = Result<Box<dyn Imager>, String>;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Reads standard input: of a device's name it would keep the device node.
    Restic,
    Borg,
    /// With chunks of one size, as it advises for images of disks.
    BorgFixed,
    Rustic,
    Qemu,
    Casync,
}

/// All peers by name.
pub fn all(dir: &Path) -> Vec<(&'static str, Found)> {
    let kinds = [
        ("restic", "restic", Kind::Restic),
        ("borg", "borg", Kind::Borg),
        ("borg-fixed", "borg", Kind::BorgFixed),
        ("rustic", "rustic", Kind::Rustic),
        ("qemu-img", "qemu-img", Kind::Qemu),
        ("casync", "casync", Kind::Casync),
    ];
    let found = kinds.map(|(name, program, kind)| {
        let peer = match Command::new(program).arg("--version").output() {
            Ok(_) => Ok(Box::new(Peer {
                kind,
                program,
                name,
                dir: dir.join(name),
                log: dir.join(format!("{name}.log")),
                images: 0,
            }) as Box<dyn Imager>),
            Err(error) => Err(format!(
                "{program} cannot be run ({error}): tests/install-bench-peers installs it"
            )),
        };
        (name, peer)
    });
    found.into()
}

struct Peer {
    kind: Kind,
    program: &'static str,
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
        let mut command = Command::new(self.program);
        let (repo, cache) = (self.repository(), self.dir.join("cache"));
        match self.kind {
            Kind::Restic => command
                .env("RESTIC_REPOSITORY", repo)
                .env("RESTIC_PASSWORD", PASSPHRASE)
                .env("RESTIC_CACHE_DIR", cache)
                .env("RESTIC_COMPRESSION", "auto")
                .arg("--quiet"),
            Kind::Borg | Kind::BorgFixed => command
                .env("BORG_REPO", repo)
                .env("BORG_PASSPHRASE", PASSPHRASE)
                .env("BORG_BASE_DIR", cache)
                .env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes"),
            Kind::Rustic => command
                .env("RUSTIC_REPOSITORY", repo)
                .env("RUSTIC_PASSWORD", PASSPHRASE)
                .env("RUSTIC_CACHE_DIR", cache)
                .env("RUSTIC_NO_PROGRESS", "true")
                .env("RUSTIC_LOG_LEVEL", "warn"),
            Kind::Qemu | Kind::Casync => &mut command,
        };
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
        let _ = std::fs::remove_dir_all(&self.dir);
        let made = std::fs::create_dir_all(self.repository());
        made.unwrap_or_else(|e| panic!("{}: {e}", self.dir.display()));
        self.images = 0;
        let init: &[&str] = match self.kind {
            Kind::Restic => &["init", "--repository-version", "2"],
            Kind::Borg | Kind::BorgFixed => &["init", "--encryption", "repokey-blake2"],
            Kind::Rustic => &["init"],
            Kind::Qemu | Kind::Casync => return,
        };
        self.run(init);
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
            Kind::Restic => self.feed(disk, &[&stdin[..], &["--stdin"]].concat()),
            Kind::Rustic => self.feed(disk, &[&stdin[..], &["-"]].concat()),
            Kind::Borg => borg(&[]),
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
