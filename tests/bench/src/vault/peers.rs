//! restic, borg and rustic, each as its manual advises: compression on, encryption on.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::comparison::{Tool, sync_all};
use crate::measured::{Cost, bytes_below, run, run_all};

const PASSPHRASE: &str = "passphrase of the comparison";

/// A peer, or why it cannot be measured.
pub type Found = Result<Box<dyn Tool>, String>;

/// All peers by name.
pub fn all(dir: &Path) -> Vec<(&'static str, Found)> {
    let make = |name: &'static str, kind: Kind| {
        let found = program(name).map(|program| {
            Box::new(Peer {
                kind,
                program,
                name,
                dir: dir.join(name),
                log: dir.join(format!("{name}.log")),
                images: Vec::new(),
            }) as Box<dyn Tool>
        });
        (name, found)
    };
    vec![
        make("restic", Kind::Restic),
        make("borg", Kind::Borg),
        make("rustic", Kind::Rustic),
    ]
}

/// Where a peer is: `RELEVO_BENCH_RUSTIC` and the like, or the path.
fn program(name: &str) -> Result<PathBuf, String> {
    let variable = format!("RELEVO_BENCH_{}", name.to_uppercase());
    let program = std::env::var_os(&variable).map_or_else(|| name.into(), PathBuf::from);
    match Command::new(&program).arg("--version").output() {
        Ok(_) => Ok(program),
        Err(error) => Err(format!(
            "{} cannot be run ({error}): tests/install-bench-peers installs it",
            program.display()
        )),
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Restic,
    Borg,
    Rustic,
}

struct Peer {
    kind: Kind,
    program: PathBuf,
    name: &'static str,
    dir: PathBuf,
    log: PathBuf,
    /// Server, place of the disk, and the archive's name where archives have names.
    images: Vec<(String, PathBuf, String)>,
}

impl Peer {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        let (repo, cache) = (self.dir.join("repo"), self.dir.join("cache"));
        match self.kind {
            Kind::Restic => command
                .env("RESTIC_REPOSITORY", repo)
                .env("RESTIC_PASSWORD", PASSPHRASE)
                .env("RESTIC_CACHE_DIR", cache)
                .env("RESTIC_COMPRESSION", "auto")
                .arg("--quiet"),
            Kind::Borg => command
                .env("BORG_REPO", repo)
                .env("BORG_PASSPHRASE", PASSPHRASE)
                .env("BORG_BASE_DIR", cache)
                .env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes")
                .env("BORG_CHECK_I_KNOW_WHAT_I_AM_DOING", "YES"),
            Kind::Rustic => command
                .env("RUSTIC_REPOSITORY", repo)
                .env("RUSTIC_PASSWORD", PASSPHRASE)
                .env("RUSTIC_CACHE_DIR", cache)
                .env("RUSTIC_NO_PROGRESS", "true")
                .env("RUSTIC_LOG_LEVEL", "warn"),
        };
        command.args(arguments);
        command
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
        self.name
    }

    fn begin(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
        let made = std::fs::create_dir_all(&self.dir);
        made.unwrap_or_else(|e| panic!("{}: {e}", self.dir.display()));
        self.images.clear();
        match self.kind {
            Kind::Restic => self.run(&["init", "--repository-version", "2"]),
            Kind::Borg => self.run(&["init", "--encryption", "repokey-blake2"]),
            Kind::Rustic => self.run(&["init"]),
        };
    }

    fn ingest(&mut self, server: &str, disk: &Path) -> Cost {
        let archive = format!("{server}-{}", self.images.len());
        let path = disk.to_string_lossy();
        let cost = match self.kind {
            Kind::Restic => self.run(&["backup", "--host", server, &path]),
            Kind::Borg => {
                let archive = format!("::{archive}");
                self.run(&["create", "--compression", "zstd,3", &archive, &path])
            }
            Kind::Rustic => self.run(&["backup", "--host", server, &path]),
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
                Kind::Restic => {
                    self.command(&["restore", "latest", "--host", server, "--target", &target])
                }
                Kind::Borg => {
                    let archive = format!("::{archive}");
                    let mut command = self.command(&["extract", &archive]);
                    command.current_dir(&to);
                    command
                }
                Kind::Rustic => {
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
            Kind::Restic => self.run(&["check", "--read-data"]),
            Kind::Borg => self.run(&["check", "--verify-data"]),
            Kind::Rustic => self.run(&["check", "--read-data"]),
        }
    }

    fn collect(&mut self, thinned: &str, gone: &str) -> Option<Cost> {
        let cost = match self.kind {
            Kind::Restic => {
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
            Kind::Borg => {
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
            Kind::Rustic => {
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
