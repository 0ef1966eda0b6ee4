//! The hooks that come with the agent: plain scripts, to be read and changed by whoever uses them.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Hooks;

/// A hook that comes with the agent.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    text: &'static str,
}

/// All of them.
pub const ALL: [Ready; 3] = [
    Ready {
        name: "postgresql",
        about: "a checkpoint right before, so that recovery is short",
        text: include_str!("ready/postgresql.sh"),
    },
    Ready {
        name: "mysql",
        about: "MySQL and MariaDB: tables flushed, writers wait until the instant is over",
        text: include_str!("ready/mysql.sh"),
    },
    Ready {
        name: "service",
        about: "a service of systemd is stopped or stands still until the instant is over",
        text: include_str!("ready/service.sh"),
    },
];

/// How a service is made ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum How {
    /// Stopped before, started after.
    Stop,
    /// Its processes stand still.
    Pause,
}

/// What cannot be enabled.
#[derive(Debug, thiserror::Error)]
pub enum ReadyError {
    /// There is no such hook.
    #[error("no hook named '{0}' comes with the agent")]
    Unknown(String),
    /// The service hook needs to know the service.
    #[error("the service hook needs the name of a unit")]
    NoUnit,
    /// Not the name of a unit.
    #[error("'{0}' is not the name of a systemd unit")]
    NotAUnit(String),
    /// Somebody put it there, or changed it.
    #[error("{0} is there already, and is another one")]
    Another(PathBuf),
    /// It cannot be written.
    #[error("{path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Ready {
    /// The one of this name.
    pub fn named(name: &str) -> Result<Self, ReadyError> {
        let found = ALL.into_iter().find(|one| one.name == name);
        found.ok_or_else(|| ReadyError::Unknown(name.into()))
    }

    /// The name of its files, and what is in them.
    fn files(self, unit: Option<&str>, how: How) -> Result<(String, String), ReadyError> {
        if self.name != "service" {
            return Ok((format!("50-{}", self.name), self.text.into()));
        }
        let unit = unit.ok_or(ReadyError::NoUnit)?;
        let sound = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if unit.is_empty() || unit.starts_with(['-', '.']) || !unit.chars().all(sound) {
            return Err(ReadyError::NotAUnit(unit.into()));
        }
        let how = match how {
            How::Stop => "stop",
            How::Pause => "pause",
        };
        let text = self.text.replace("@UNIT@", unit).replace("@HOW@", how);
        Ok((format!("50-service-{unit}"), text))
    }

    /// Puts it into both directories below `dir`. Says where.
    pub fn enable(
        self,
        dir: &Path,
        unit: Option<&str>,
        how: How,
    ) -> Result<Vec<PathBuf>, ReadyError> {
        let (name, text) = self.files(unit, how)?;
        let mut paths = Vec::new();
        for phase in [Hooks::BEFORE, Hooks::AFTER] {
            let dir = dir.join(phase);
            let path = dir.join(&name);
            let made = DirBuilder::new().recursive(true).mode(0o755).create(&dir);
            made.and_then(|()| place(&path, &text))
                .map_err(|source| match source.kind() {
                    io::ErrorKind::AlreadyExists => ReadyError::Another(path.clone()),
                    _ => ReadyError::Write {
                        path: path.clone(),
                        source,
                    },
                })?;
            paths.push(path);
        }
        Ok(paths)
    }

    /// Takes it away from both. Says what was there.
    pub fn disable(self, dir: &Path, unit: Option<&str>) -> Result<Vec<PathBuf>, ReadyError> {
        let (name, _) = self.files(unit, How::Stop)?;
        let mut paths = Vec::new();
        for phase in [Hooks::BEFORE, Hooks::AFTER] {
            let path = dir.join(phase).join(&name);
            match std::fs::remove_file(&path) {
                Ok(()) => paths.push(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(ReadyError::Write { path, source }),
            }
        }
        Ok(paths)
    }
}

/// Leaves what is there already, if it is the same.
fn place(path: &Path, text: &str) -> io::Result<()> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(path);
    match made {
        Ok(mut file) => file.write_all(text.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match std::fs::read(path)? == text.as_bytes() {
                true => Ok(()),
                false => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards what an administrator changed, and a shell against the name of a unit.
    #[test]
    fn hooks_are_put_there_once_and_leave_others_alone() {
        let dir = tempfile::tempdir().unwrap();
        let enable = |name, unit| Ready::named(name)?.enable(dir.path(), unit, How::Pause);
        assert_eq!(enable("postgresql", None).unwrap().len(), 2);
        assert_eq!(enable("postgresql", None).unwrap().len(), 2);
        let path = dir.path().join("pre.d/50-postgresql");
        std::fs::write(&path, "changed").unwrap();
        assert!(matches!(enable("postgresql", None), Err(ReadyError::Another(p)) if p == path));
        let unit = Some("getty@tty1.service");
        let paths = enable("service", unit).unwrap();
        let text = std::fs::read_to_string(&paths[0]).unwrap();
        assert!(text.contains("unit='getty@tty1.service'\nhow='pause'\n"));
        for unit in [
            None,
            Some(""),
            Some("a'b"),
            Some("../x"),
            Some("-rf"),
            Some("a b"),
        ] {
            assert!(enable("service", unit).is_err(), "{unit:?}");
        }
        assert!(enable("oracle", None).is_err());
        let gone = Ready::named("service").unwrap().disable(dir.path(), unit);
        assert_eq!(gone.unwrap(), paths);
    }

    /// Guards against a hook that no shell reads.
    #[test]
    fn hooks_are_sound_shell() {
        for one in ALL {
            let mut shell = std::process::Command::new("sh");
            shell.arg("-n").stdin(std::process::Stdio::piped());
            let mut shell = shell.spawn().unwrap();
            let mut input = shell.stdin.take().unwrap();
            input.write_all(one.text.as_bytes()).unwrap();
            drop(input);
            assert!(shell.wait().unwrap().success(), "{}", one.name);
        }
    }
}
