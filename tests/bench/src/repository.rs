//! The peers that keep a repository: how each is found and called, as its manual advises, with
//! compression and encryption on.

use std::path::{Path, PathBuf};
use std::process::Command;

const PASSPHRASE: &str = "passphrase of the comparison";

/// A program that keeps a repository.
#[derive(Clone, Copy, PartialEq)]
pub enum Keeper {
    /// restic, with repositories of version 2.
    Restic,
    /// borg, its key in the repository.
    Borg,
    /// rustic, with its defaults.
    Rustic,
}

impl Keeper {
    /// What its program is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Restic => "restic",
            Self::Borg => "borg",
            Self::Rustic => "rustic",
        }
    }

    /// A call of `program` on the repository below `dir`.
    pub fn command(self, program: &Path, dir: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        let (repo, cache) = (dir.join("repo"), dir.join("cache"));
        match self {
            Self::Restic => command
                .env("RESTIC_REPOSITORY", repo)
                .env("RESTIC_PASSWORD", PASSPHRASE)
                .env("RESTIC_CACHE_DIR", cache)
                .env("RESTIC_COMPRESSION", "auto")
                .arg("--quiet"),
            Self::Borg => command
                .env("BORG_REPO", repo)
                .env("BORG_PASSPHRASE", PASSPHRASE)
                .env("BORG_BASE_DIR", cache)
                .env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes")
                .env("BORG_CHECK_I_KNOW_WHAT_I_AM_DOING", "YES"),
            Self::Rustic => command
                .env("RUSTIC_REPOSITORY", repo)
                .env("RUSTIC_PASSWORD", PASSPHRASE)
                .env("RUSTIC_CACHE_DIR", cache)
                .env("RUSTIC_NO_PROGRESS", "true")
                .env("RUSTIC_LOG_LEVEL", "warn"),
        };
        command.args(arguments);
        command
    }

    /// Arguments that make a new repository.
    pub fn init(self) -> &'static [&'static str] {
        match self {
            Self::Restic => &["init", "--repository-version", "2"],
            Self::Borg => &["init", "--encryption", "repokey-blake2"],
            Self::Rustic => &["init"],
        }
    }
}

/// Where a peer's program is: `RELEVO_BENCH_RUSTIC` and the like, or the path. The error says how
/// to come by it.
pub fn program(name: &str) -> Result<PathBuf, String> {
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

/// An empty directory in place of what was there.
pub fn renew(dir: &Path) {
    let _ = std::fs::remove_dir_all(dir);
    let made = std::fs::create_dir_all(dir);
    made.unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
}
