//! A network namespace under a name in `/run/netns`, where `ip netns` finds it too.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::NetworkError;
use super::tap;

const DIRECTORY: &str = "/run/netns";

/// A network namespace of our own. Dropped, it is removed, unless [`persist`](Self::persist)
/// was called.
#[derive(Debug)]
pub struct NetworkNamespace {
    name: String,
    path: PathBuf,
    persistent: bool,
}

impl NetworkNamespace {
    /// Makes a namespace with nothing in it but its loopback, which is up.
    pub fn create(name: &str) -> Result<Self, NetworkError> {
        let path = path_of(name)?;
        let failed = |step: &str| {
            let step = format!("network namespace {name}: {step}");
            move |source: io::Error| NetworkError::kernel(step, source)
        };
        fs::create_dir_all(DIRECTORY).map_err(failed("directory"))?;
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(NetworkError::Name {
                    name: name.into(),
                    reason: "it exists already",
                    remedy: "choose another name, or stop what uses it (see 'relevo-recover status'); \
                             'ip netns delete' removes one that nothing uses",
                });
            }
            Err(e) => return Err(failed("its file")(e)),
        }
        // From here on dropping it removes what there is.
        let namespace = Self {
            name: name.into(),
            path: path.clone(),
            persistent: false,
        };
        // A namespace belongs to a thread: this one makes it, pins it to the file and ends.
        let made = std::thread::spawn(move || -> Result<(), NetworkError> {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|e| NetworkError::kernel("a new network namespace", e))?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .map_err(|e| NetworkError::kernel("pinning the network namespace", e))?;
            tap::set_up("lo")
        });
        match made.join() {
            Ok(result) => result?,
            Err(_) => return Err(failed("thread")(io::Error::other("it panicked"))),
        }
        Ok(namespace)
    }

    /// A namespace that exists, which stays when this is dropped.
    pub fn open(name: &str) -> Result<Self, NetworkError> {
        let path = path_of(name)?;
        if !path.exists() {
            return Err(NetworkError::Name {
                name: name.into(),
                reason: "it does not exist",
                remedy: "see 'ip netns list'",
            });
        }
        Ok(Self {
            name: name.into(),
            path,
            persistent: true,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps it when this is dropped; [`remove`] removes it.
    pub fn persist(&mut self) {
        self.persistent = true;
    }

    /// Runs `work` inside, on a thread of its own, and waits for it. Sockets and taps that it
    /// makes stay inside for good.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetworkError> {
        run_in(&self.path, work)
    }

    /// Makes a process start inside.
    pub fn enter(&self, command: &mut Command) -> Result<(), NetworkError> {
        enter(&self.path, command)
    }

    /// Removes it and every device in it.
    pub fn remove(mut self) -> Result<(), NetworkError> {
        self.persistent = true;
        remove(&self.name)
    }
}

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        if !self.persistent
            && let Err(error) = remove(&self.name)
        {
            tracing::warn!(%error, "a network namespace was left behind");
        }
    }
}

/// Removes a namespace by name; one that is not there is removed already.
pub fn remove(name: &str) -> Result<(), NetworkError> {
    let path = path_of(name)?;
    let failed =
        |e: io::Error| NetworkError::kernel(format!("removing network namespace {name}"), e);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // Not mounted: what a failed attempt left.
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(e) => return Err(failed(e.into())),
    }
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(e)),
        _ => Ok(()),
    }
}

/// Whether a namespace of this name exists.
pub fn exists(name: &str) -> bool {
    path_of(name).is_ok_and(|path| path.exists())
}

/// Runs `work` inside the namespace at `path`, on a thread of its own.
pub fn run_in<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, NetworkError> {
    let failed = |e: io::Error| {
        NetworkError::kernel(format!("entering network namespace {}", path.display()), e)
    };
    let file = File::open(path).map_err(failed)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        match thread.join() {
            Ok(result) => result.map_err(|e: nix::errno::Errno| failed(e.into())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Makes a process start inside the namespace at `path`.
pub fn enter(path: &Path, command: &mut Command) -> Result<(), NetworkError> {
    let file = File::open(path).map_err(|e| {
        NetworkError::kernel(format!("opening network namespace {}", path.display()), e)
    })?;
    // SAFETY: between fork and exec the closure makes one system call on a descriptor that it
    // owns, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        });
    }
    Ok(())
}

fn path_of(name: &str) -> Result<PathBuf, NetworkError> {
    let fits = !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if !fits {
        return Err(NetworkError::Name {
            name: name.into(),
            reason: "a name has letters, digits, '-', '_' and '.' only",
            remedy: "choose such a name",
        });
    }
    Ok(Path::new(DIRECTORY).join(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::network::Cidr;
    use std::net::{TcpListener, TcpStream};

    fn may_make_namespaces() -> bool {
        let may = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok());
        let may = may.join().unwrap() && Path::new("/dev/net/tun").exists();
        if !may {
            eprintln!("skipped: this user makes no network namespaces here");
        }
        may
    }

    /// Guards isolation and clean-up: what is inside is only inside, and gone afterwards.
    #[test]
    fn a_namespace_is_apart_and_leaves_nothing() {
        if !may_make_namespaces() {
            return;
        }
        let name = format!("relevo-test-{}", std::process::id());
        let namespace = NetworkNamespace::create(&name).unwrap();
        assert!(
            NetworkNamespace::create(&name)
                .unwrap_err()
                .to_string()
                .contains("already")
        );
        assert!(
            exists(&name),
            "a failed second attempt must not remove the first"
        );
        let address: Cidr = "10.99.0.1/24".parse().unwrap();
        namespace
            .run(|| {
                tap::create("t0").unwrap();
                tap::set_address("t0", &address).unwrap();
                tap::set_up("t0").unwrap();
            })
            .unwrap();
        let listener = namespace
            .run(|| TcpListener::bind("10.99.0.1:0"))
            .unwrap()
            .unwrap();
        let at = listener.local_addr().unwrap();
        assert!(namespace.run(|| TcpStream::connect(at)).unwrap().is_ok());
        assert!(
            !Path::new("/sys/class/net/t0").exists(),
            "the tap is in the host's network"
        );
        let status = {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "grep -q t0 /proc/net/dev"]);
            namespace.enter(&mut command).unwrap();
            command.status().unwrap()
        };
        assert!(
            status.success(),
            "a process started inside does not see the tap"
        );
        drop(listener);
        drop(namespace);
        assert!(!exists(&name));
        remove(&name).unwrap();
    }

    #[test]
    fn names_cannot_leave_the_directory() {
        for name in ["", "../x", "a/b", ".", "a b"] {
            assert!(NetworkNamespace::create(name).is_err(), "{name}");
        }
    }
}
