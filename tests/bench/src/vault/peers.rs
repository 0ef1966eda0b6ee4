//! restic, borg and rustic, each as its manual advises: compression on, encryption on.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::comparison::{Tool, sync_all};
use crate::measured::{Cost, bytes_below, run, run_all};
use crate::repository::{self, Keeper, program};

/// A peer, or why it cannot be measured.
pub type Found = Result<Box<dyn Tool>, String>;

/// All peers by name.
pub fn all(dir: &Path) -> Vec<(&'static str, Found)> {
    let make = |kind: Keeper| {
        let name = kind.name();
        let found = program(name).map(|program| {
            Box::new(Peer {
                kind,
                program,
                dir: dir.join(name),
                log: dir.join(format!("{name}.log")),
                images: Vec::new(),
            }) as Box<dyn Tool>
        });
        (name, found)
    };
    [Keeper::Restic, Keeper::Borg, Keeper::Rustic]
        .map(make)
        .into()
}

struct Peer {
    kind: Keeper,
    program: PathBuf,
    dir: PathBuf,
    log: PathBuf,
    /// Server, place of the disk, and the archive's name where archives have names.
    images: Vec<(String, PathBuf, String)>,
}

impl Peer {
    fn command(&self, arguments: &[&str]) -> Command {
        self.kind.command(&self.program, &self.dir, arguments)
    }

    fn run(&self, arguments: &[&str]) -> Cost {
        run(self.command(arguments), &self.log)
    }

    fn newest(&self, server: &str) -> (&Path, &str) {
        let found = self.images.iter().rev().find(|(s, ..)| s == server);
        let (_, disk, archive) = found.unwrap_or_else(|| panic!("no image of {server}"));
        (disk, archive)
    }
}

impl Tool for Peer {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn begin(&mut self) {
        repository::renew(&self.dir);
        self.images.clear();
        self.run(self.kind.init());
    }

    fn ingest(&mut self, server: &str, disk: &Path) -> Cost {
        let archive = format!("{server}-{}", self.images.len());
        let path = disk.to_string_lossy();
        let cost = match self.kind {
            Keeper::Restic => self.run(&["backup", "--host", server, &path]),
            Keeper::Borg => {
                let archive = format!("::{archive}");
                self.run(&["create", "--compression", "zstd,3", &archive, &path])
            }
            Keeper::Rustic => self.run(&["backup", "--host", server, &path]),
        };
        self.images.push((server.into(), disk.into(), archive));
        cost
    }

    fn stored(&mut self) -> u64 {
        bytes_below(&self.dir.join("repo"))
    }

    fn restore(&mut self, servers: &[&str], into: &Path) -> (Cost, Vec<PathBuf>) {
        let (mut commands, mut disks) = (Vec::new(), Vec::new());
        for server in servers {
            let (disk, archive) = self.newest(server);
            let to = into.join(server);
            let made = std::fs::create_dir(&to);
            made.unwrap_or_else(|e| panic!("{}: {e}", to.display()));
            let target = to.to_string_lossy();
            let inside = disk.strip_prefix("/").unwrap_or(disk);
            commands.push(match self.kind {
                Keeper::Restic => {
                    self.command(&["restore", "latest", "--host", server, "--target", &target])
                }
                Keeper::Borg => {
                    let archive = format!("::{archive}");
                    let mut command = self.command(&["extract", &archive]);
                    command.current_dir(&to);
                    command
                }
                Keeper::Rustic => {
                    self.command(&["restore", "--filter-host", server, "latest", &target])
                }
            });
            disks.push(to.join(inside));
        }
        let cost = run_all(commands, &self.log, || sync_all(&disks));
        (cost, disks)
    }

    fn verify(&mut self) -> Cost {
        match self.kind {
            Keeper::Restic => self.run(&["check", "--read-data"]),
            Keeper::Borg => self.run(&["check", "--verify-data"]),
            Keeper::Rustic => self.run(&["check", "--read-data"]),
        }
    }

    fn collect(&mut self, thinned: &str, gone: &str) -> Option<Cost> {
        let cost = match self.kind {
            Keeper::Restic => {
                let all = [
                    "forget",
                    "--host",
                    gone,
                    "--keep-tag",
                    "none",
                    "--group-by",
                    "host",
                ];
                let thin = [
                    "forget",
                    "--host",
                    thinned,
                    "--keep-last",
                    "1",
                    "--group-by",
                    "host",
                ];
                let forgotten = self.run(&all).then(self.run(&thin));
                forgotten.then(self.run(&["prune"]))
            }
            Keeper::Borg => {
                let newest = self.newest(thinned).1.to_string();
                let old = |(server, _, archive): &&(String, PathBuf, String)| {
                    server == gone || (server == thinned && *archive != newest)
                };
                let mut cost = Cost::default();
                for (_, _, archive) in self.images.iter().filter(old) {
                    cost = cost.then(self.run(&["delete", &format!("::{archive}")]));
                }
                cost.then(self.run(&["compact"]))
            }
            Keeper::Rustic => {
                let thin = ["forget", "--filter-host", thinned, "--keep-last", "1"];
                let all = ["forget", "--filter-host", gone, "--keep-none"];
                let forgotten = self.run(&all).then(self.run(&thin));
                // Without these it waits a day before it gives room back.
                let prune = ["prune", "--instant-delete", "--keep-delete", "0s"];
                forgotten.then(self.run(&prune))
            }
        };
        Some(cost)
    }
}
