//! Removing what a drill has made, without its help: processes, namespaces, files.
//!
//! Everything of a drill bears its random id: processes have its directory in their arguments or
//! live in its namespaces, and the namespaces have the id in their names. Taps are made inside
//! the namespaces and vanish with them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Where `ip netns` keeps its namespaces.
const NAMESPACES: &str = "/run/netns";
/// A killed process is waited for this long; one in uninterruptible sleep may take it.
const DEATH: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};
/// A process may have started another while it was being killed.
const ROUNDS: usize = 5;

/// What became of leftovers, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Gone.
    pub removed: Vec<String>,
    /// Still there.
    pub left: Vec<String>,
}

/// Kills the processes, deletes the namespaces whose names begin with `prefix`, removes `dir`.
pub fn remove(dir: &Path, prefix: &str) -> Removed {
    let mut out = stop(dir, prefix);
    remove_dir(dir, &mut out);
    out
}

/// The first half of [`remove`]: everything but the directory.
pub fn stop(dir: &Path, prefix: &str) -> Removed {
    let mut out = Removed::default();
    let namespaces = namespaces(prefix);
    kill_all(dir, &namespaces, &mut out);
    for path in namespaces {
        let name = format!("network namespace {}", file_name(&path));
        match delete_namespace(&path) {
            Ok(()) => out.removed.push(name),
            Err(error) => out.left.push(format!("{name}: {error}")),
        }
    }
    out
}

/// The second half of [`remove`].
pub fn remove_dir(dir: &Path, out: &mut Removed) {
    match fs::remove_dir_all(dir) {
        Ok(()) => out.removed.push(format!("directory {}", dir.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => out
            .left
            .push(format!("directory {}: {error}", dir.display())),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn namespaces(prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| file_name(path).starts_with(prefix))
        .collect();
    found.sort();
    found
}

fn delete_namespace(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // A name whose namespace was never mounted, by a drill that died just then.
        Ok(()) | Err(nix::Error::EINVAL) => fs::remove_file(path),
        Err(error) => Err(error.into()),
    }
}

fn kill_all(dir: &Path, namespaces: &[PathBuf], out: &mut Removed) {
    let inside: BTreeSet<_> = namespaces
        .iter()
        .filter_map(|path| identity(path))
        .collect();
    for _ in 0..ROUNDS {
        let found = processes(dir, &inside);
        if found.is_empty() {
            return;
        }
        for pid in found {
            // The process is held by a descriptor before it is looked at again, so that a number
            // that has passed to a stranger meanwhile is never killed.
            let Some(raw) = Pid::from_raw(pid) else {
                continue;
            };
            let Ok(held) = pidfd_open(raw, PidfdFlags::empty()) else {
                continue;
            };
            if !belongs(pid, dir, &inside) {
                continue;
            }
            let name = format!("process {pid} ({})", command_name(pid));
            if let Err(error) = pidfd_send_signal(&held, Signal::KILL) {
                out.left.push(format!("{name}: {error}"));
                continue;
            }
            let mut waiting = [PollFd::new(&held, PollFlags::IN)];
            match poll(&mut waiting, Some(&DEATH)) {
                Ok(1) => out.removed.push(name),
                _ => out.left.push(format!("{name} does not end")),
            }
        }
    }
}

/// A namespace's device and inode, which all its files share.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

fn processes(dir: &Path, inside: &BTreeSet<(u64, u64)>) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| belongs(*pid, dir, inside))
        .collect()
}

fn belongs(pid: i32, dir: &Path, inside: &BTreeSet<(u64, u64)>) -> bool {
    if u32::try_from(pid) == Ok(std::process::id()) || is_zombie(pid) {
        return false;
    }
    let proc = PathBuf::from(format!("/proc/{pid}"));
    if identity(&proc.join("ns/net")).is_some_and(|id| inside.contains(&id)) {
        return true;
    }
    let mut wanted = dir.as_os_str().as_bytes().to_vec();
    // The slash keeps a directory from being taken for another that begins with its name.
    wanted.push(b'/');
    fs::read(proc.join("cmdline")).is_ok_and(|line| {
        line.split(|byte| *byte == 0).any(|argument| {
            argument.windows(wanted.len()).any(|part| part == wanted)
                || argument == dir.as_os_str().as_bytes()
        })
    })
}

/// Zombies hold nothing any more; their parent will collect them.
fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('Z'))
    })
}

fn command_name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::{Command, Stdio};

    /// Guards: exactly the processes of the drill's directory die, and the directory goes.
    #[test]
    fn processes_that_name_the_directory_are_killed_and_no_others() {
        let base = tempfile::tempdir().unwrap();
        let (mine, other) = (base.path().join("run"), base.path().join("run2"));
        fs::create_dir(&mine).unwrap();
        fs::create_dir(&other).unwrap();
        let sleeper = |dir: &Path| {
            let argument = dir.join("console");
            let mut child = Command::new("sh")
                .args(["-c", "echo up; read forever", "sh"])
                .arg(argument)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut up = [0; 3];
            io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut up).unwrap();
            child
        };
        let (mut dies, mut lives) = (sleeper(&mine), sleeper(&other));
        let out = remove(&mine, "relevo-drill-none");
        assert!(out.left.is_empty(), "{out:?}");
        assert_eq!(out.removed.len(), 2, "{out:?}");
        assert!(!dies.wait().unwrap().success());
        assert!(lives.try_wait().unwrap().is_none());
        assert!(!mine.exists() && other.exists());
        lives.kill().unwrap();
        lives.wait().unwrap();
        assert_eq!(remove(&mine, "relevo-drill-none"), Removed::default());
    }

    /// Guards: a namespace goes with the processes inside of it.
    #[test]
    fn a_namespace_goes_with_its_processes() {
        let name = format!("relevo-drill-test-{}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        if !made.is_ok_and(|out| out.status.success()) {
            eprintln!("skipped: no network namespaces here");
            return;
        }
        let mut inside = Command::new("ip")
            .args(["netns", "exec", &name, "sh", "-c", "echo up; read forever"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut up = [0; 3];
        io::Read::read_exact(inside.stdout.as_mut().unwrap(), &mut up).unwrap();
        let out = remove(Path::new("/nonexistent/drill"), &name);
        assert!(out.left.is_empty(), "{out:?}");
        assert!(!inside.wait().unwrap().success());
        assert!(!Path::new(NAMESPACES).join(&name).exists());
    }
}
