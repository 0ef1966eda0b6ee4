//! A server of a test's own: this machine's files with a layer of memory over them, a systemd of
//! its own as the first process, and nothing of this machine's that would be started.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::namespace::Namespace;
use crate::program::{Finished, Running, finish, wait_while};

/// Begins empty; `BOOT` sees to that.
const EMPTIED: &str = "/etc/systemd/system/";
/// Gives what follows a control group of its own, `$1`, in which `$2` runs with the arguments behind.
const GROUP: &str = r#"
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$1" && echo $$ >"/sys/fs/cgroup/$1/cgroup.procs"
shift
exec "$@"
"#;

/// Runs inside fresh namespaces; `$1` is an empty directory.
const BOOT: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
root=$1/root
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t bpf bpf "$root/sys/fs/bpf"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
ln -s /proc/self/fd "$root/dev/fd"
rm -rf "$root/etc/systemd/system"
mkdir "$root/etc/systemd/system"
# What they set is this machine's, too.
for unit in sysctl udevd udev-trigger modules-load binfmt tmpfiles-setup tmpfiles-setup-dev sysusers; do
    ln -s /dev/null "$root/etc/systemd/system/systemd-$unit.service"
done
echo ready
exec chroot "$root" env -i container=relevo-tests PATH="$PATH" \
    /lib/systemd/systemd --unit=basic.target --log-target=null --show-status=no >/dev/null 2>&1
"#;

/// The server; it ends with all that runs on it when dropped.
pub struct Server {
    boot: Running,
    dir: TempDir,
    init: u32,
    group: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.boot.kill();
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let groups = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let place = fields.next()?;
            (fields.next()? == "cgroup2").then(|| Path::new(place).join(&self.group))
        });
        if let Some(group) = groups {
            // Until the last process is gone.
            wait_while(|| group.exists() && !remove_group(&group));
        }
    }
}

/// Groups below go first. Whether all are gone.
fn remove_group(group: &Path) -> bool {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !remove_group(&entry.path()) {
            return false;
        }
    }
    std::fs::remove_dir(group).is_ok()
}

impl Server {
    /// Starts one in a network of its own, and waits until systemd says that it is up.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(network: &Namespace) -> Self {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("no directory for a test: {e}"));
        let place = dir.path().to_string_lossy().into_owned();
        let apart = "--pid --mount --uts --ipc --cgroup --fork --kill-child";
        let group = dir.path().file_name().unwrap_or_default().to_string_lossy();
        let group = format!("relevo-test{group}");
        let arguments = ["-c", GROUP, "sh", &group, "unshare"]
            .into_iter()
            .chain(apart.split(' '))
            .chain(["sh", "-c", BOOT, "sh", &place]);
        let mut command = network.command(Path::new("sh"), arguments);
        command.stdin(Stdio::null());
        let mut boot = Running::start(command);
        assert_eq!(boot.next_line().trim(), "ready");
        let children = format!("/proc/{0}/task/{0}/children", boot.pid());
        let children = std::fs::read_to_string(children).unwrap_or_default();
        let init = children.trim().parse();
        let init = init.unwrap_or_else(|e| panic!("no first process ({e}): {children}"));
        let server = Self {
            boot,
            dir,
            init,
            group,
        };
        wait_while(|| {
            let state = server.run(&["systemctl", "is-system-running"]);
            !["running", "degraded"].contains(&state.stdout.trim())
        });
        server
    }

    /// Runs a command on it.
    pub fn run(&self, command: &[&str]) -> Finished {
        let mut enter = Command::new("nsenter");
        enter
            .args(["--all", "--root", "--wd=/", "--target"])
            .arg(self.init.to_string())
            .args(command)
            .stdin(Stdio::null());
        finish(enter)
    }

    /// One of its files, seen from here.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Paths of all that was put on it below these directories since it was started.
    pub fn changed(&self, below: &[&str]) -> BTreeSet<String> {
        let layer = format!("/proc/{}/root", self.boot.pid());
        let upper = Path::new(&layer).join(
            self.dir
                .path()
                .join("upper")
                .strip_prefix("/")
                .unwrap_or(Path::new("")),
        );
        let mut found = BTreeSet::new();
        let mut left: Vec<PathBuf> = below.iter().map(|d| upper.join(d)).collect();
        while let Some(dir) = left.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if let Ok(name) = path.strip_prefix(&upper) {
                    let name = format!("/{}", name.display());
                    // A directory gets into the upper layer by what is put into it.
                    let is_old = is_dir && Path::new(&name).is_dir() && !name.starts_with(EMPTIED);
                    if !is_old {
                        found.insert(name);
                    }
                }
                if is_dir {
                    left.push(path);
                }
            }
        }
        found
    }
}
