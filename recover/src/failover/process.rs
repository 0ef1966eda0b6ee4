//! Processes that outlive the command that started them, and are found again for certain.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::failure::Failure;

/// A process that was killed is gone at once, unless it hangs in the kernel.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// A process by its number and the moment it started, so that another one which got the same
/// number later is never taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// Clock ticks from the system's start to its own (`proc_pid_stat(5)`, field 22).
    pub started: u64,
}

impl ProcessId {
    /// A process that exists now.
    pub fn of(pid: u32) -> Option<Self> {
        stat(pid).map(|(started, _)| Self { pid, started })
    }

    /// This process.
    pub fn own() -> Self {
        let pid = std::process::id();
        Self::of(pid).unwrap_or(Self { pid, started: 0 })
    }

    /// Whether it runs. One that has ended and was not waited for does not.
    pub fn is_alive(&self) -> bool {
        stat(self.pid)
            .is_some_and(|(started, state)| started == self.started && state != 'Z' && state != 'X')
    }

    /// Sends a signal to it and to nobody else; false when it is gone.
    fn signal(&self, signal: Signal) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let Some(handle) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
            return false;
        };
        // The handle is for whoever has the number now; only then it is checked who that is.
        self.is_alive() && pidfd_send_signal(handle, signal).is_ok()
    }

    /// Waits for its end; false when it still runs after `limit`.
    pub fn wait_gone(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let handle = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        while self.is_alive() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            let Some(handle) = &handle else {
                std::thread::sleep(left.min(Duration::from_millis(50)));
                continue;
            };
            let timeout = rustix::event::Timespec {
                tv_sec: i64::try_from(left.as_secs().min(1)).unwrap_or(1),
                tv_nsec: if left.as_secs() >= 1 {
                    0
                } else {
                    left.subsec_nanos().into()
                },
            };
            // Readable once the process has ended.
            let _ = poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout));
        }
        true
    }

    /// Asks it to end, then makes it end; false when even that failed.
    pub fn end(&self, patience: Duration) -> bool {
        if self.signal(Signal::TERM) && self.wait_gone(patience) {
            return true;
        }
        self.kill()
    }

    /// Makes it end at once; false when that failed.
    pub fn kill(&self) -> bool {
        // Not sent: gone already, or not ours to end.
        let sent = self.signal(Signal::KILL);
        self.wait_gone(if sent { KILL_PATIENCE } else { Duration::ZERO })
    }
}

/// Start time and state.
fn stat(pid: u32) -> Option<(u64, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let rest = text.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((started, state))
}

/// Programs of ours, other than this process, that have a path inside `dir` on their command
/// line: whatever a killed command did not come to write down.
pub fn strays(dir: &Path) -> Vec<ProcessId> {
    let inside = format!("{}/", dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        let Ok(line) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&line);
        let mut arguments = line.split('\0');
        let program = arguments.next().unwrap_or_default();
        let is_ours = Path::new(program)
            .file_name()
            .is_some_and(|name| name == "relevo-vmm" || name == "relevo-recover");
        // Only daemons of a run: somebody may well restore to a file in that directory.
        let is_daemon = matches!(arguments.next(), Some("run" | "serve-disk" | "publish"));
        if is_ours
            && is_daemon
            && line.contains(&inside)
            && let Some(process) = ProcessId::of(pid)
        {
            found.push(process);
        }
    }
    found
}

/// One of our programs: beside this one, else in PATH.
pub fn program(name: &str) -> Result<PathBuf, Failure> {
    let mut places: Vec<PathBuf> = Vec::new();
    if let Ok(own) = std::env::current_exe() {
        places.extend(own.parent().map(Path::to_path_buf));
    }
    places.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    places
        .iter()
        .map(|place| place.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Failure::new(
                format!("the program {name} was not found"),
                "install it beside relevo-recover, or in a directory of PATH",
            )
        })
}

/// Makes a command a session of its own, so that Ctrl-C and the end of the terminal do not
/// reach it.
pub fn detach(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_too() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        assert!(process.is_alive());
        let earlier = ProcessId {
            started: process.started - 1,
            ..process
        };
        assert!(!earlier.is_alive());
        assert!(earlier.end(Duration::ZERO), "nothing to end");
        assert!(
            process.is_alive(),
            "another process with this number was ended"
        );
        assert!(!process.wait_gone(Duration::ZERO));
        assert!(process.end(Duration::from_secs(10)));
        assert!(!process.is_alive());
        child.wait().unwrap();
    }

    /// Guards the word of `stop`: what this user may not end still runs.
    #[test]
    fn what_may_not_be_ended_is_not_said_to_have_ended() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root to have a process that others may not end");
            return;
        }
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        let ended = std::thread::spawn(move || {
            // SAFETY: by the plain system call it changes this thread only, which then ends.
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
            assert_eq!(changed, 0);
            process.end(Duration::ZERO)
        });
        assert!(
            !ended.join().unwrap(),
            "it was left running and said to be gone"
        );
        assert!(process.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
