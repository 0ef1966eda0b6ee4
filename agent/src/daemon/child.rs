//! Runs and questions are programs of their own: the daemon stays small, and an upgrade takes
//! effect with the next one while one that is under way keeps what it was started as.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::SigSet;
use rustix::process::{Pid, Signal, kill_process};

use super::clock::Now;
use crate::AgentError;

/// Where the program is that is started; not what runs now, which an upgrade may have replaced.
pub fn program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    // So the kernel calls one whose file was replaced since it was started.
    let text = path.to_string_lossy();
    Ok(match text.strip_suffix(" (deleted)") {
        Some(path) => path.into(),
        None => path,
    })
}

/// A program that the daemon started.
pub struct Started {
    child: Child,
    /// When.
    pub since: Now,
    asked_to_end: bool,
}

impl Started {
    /// Starts this program with a command. It ends when the daemon does, however that ends.
    pub fn start(
        program: &Path,
        command: &str,
        arguments: &[OsString],
        quiet: bool,
    ) -> io::Result<Self> {
        let me = std::process::id().to_string();
        let child = Command::new(program)
            .arg(command)
            .args(["--started-by", &me])
            .args(arguments)
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(if quiet {
                Stdio::null()
            } else {
                Stdio::inherit()
            })
            .spawn()?;
        Ok(Self {
            child,
            since: Now::read(),
            asked_to_end: false,
        })
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Asks it to end, once.
    pub fn end(&mut self) {
        if !std::mem::replace(&mut self.asked_to_end, true) {
            self.signal();
        }
    }

    /// Whether it was asked to end.
    pub fn is_ending(&self) -> bool {
        self.asked_to_end
    }

    /// Sends SIGTERM; a second one ends a run at once.
    pub fn signal(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // It was not waited for yet: its number is nobody else's.
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, Signal::TERM)
        {
            tracing::debug!("{error}");
        }
    }
}

/// Of the program that is started, before anything else: takes signals, which the daemon has
/// blocked, and asks the kernel to end it in order when the daemon is gone.
pub fn end_with(parent: u32) -> Result<(), AgentError> {
    let unblocked = SigSet::all().thread_unblock();
    unblocked.map_err(|e| AgentError::Internal(format!("pthread_sigmask: {e}")))?;
    let failed = |e: rustix::io::Errno| AgentError::Internal(format!("prctl: {e}"));
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).map_err(failed)?;
    // It may have ended before that.
    let now = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    match u32::try_from(now) == Ok(parent) {
        true => Ok(()),
        false => Err(AgentError::Interrupted),
    }
}
