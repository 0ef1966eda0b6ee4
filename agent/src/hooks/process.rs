//! One program, within its time.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// What is kept of what a program says.
const OUTPUT: u64 = 64 << 10;
/// How long a program has to clean up when its time is over.
const CLEANING_UP: Duration = Duration::from_secs(5);

/// How a program ended.
#[derive(Debug)]
pub enum Ended {
    /// By itself.
    With(ExitStatus),
    /// It was ended, since its time was over.
    Late,
    /// It could not be begun.
    NotBegun(std::io::Error),
}

impl Ended {
    /// What was wrong with it, if something was.
    pub fn failure(&self, limit: Duration) -> Option<String> {
        match self {
            Self::With(status) if status.success() => None,
            Self::With(status) => Some(format!("it failed ({status})")),
            Self::Late => Some(format!("it was ended after {} s", limit.as_secs())),
            Self::NotBegun(error) => Some(format!("it cannot be run: {error}")),
        }
    }
}

/// Runs a program with these variables and few others, for `limit` at most. Also what it said, on
/// standard output and standard error, up to 64 KiB.
///
/// What it starts in the background goes on, as long as it leaves the program's process group or
/// the program ends in time.
pub fn run(path: &Path, variables: &[(&str, String)], limit: Duration) -> (Ended, String) {
    let until = Instant::now() + limit;
    let begun = begin(path, variables);
    let (mut child, mut output) = match begun {
        Ok(begun) => begun,
        Err(error) => return (Ended::NotBegun(error), String::new()),
    };
    let (said, heard) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            if said.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    let ended = wait(&mut child, until);
    let mut bytes = Vec::new();
    // What is in the background may keep the pipe open: what was said by then is all.
    let mut patience = Duration::from_millis(200);
    loop {
        match heard.recv_timeout(patience) {
            Ok(more) if (bytes.len() as u64) < OUTPUT => bytes.extend(more),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
        patience = Duration::from_millis(50);
    }
    bytes.truncate(OUTPUT as usize);
    let text = String::from_utf8_lossy(&bytes);
    let text = text
        .chars()
        .filter(|c| *c == '\n' || !c.is_control())
        .collect();
    (ended, text)
}

fn begin(
    path: &Path,
    variables: &[(&str, String)],
) -> std::io::Result<(Child, std::io::PipeReader)> {
    let (reader, writer) = std::io::pipe()?;
    let child = Command::new(path)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", "/root")
        .envs(variables.iter().map(|(name, value)| (*name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()?;
    Ok((child, reader))
}

fn wait(child: &mut Child, until: Instant) -> Ended {
    let mut pause = Duration::from_millis(1);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ended::With(status),
            Err(error) => return Ended::NotBegun(error),
            Ok(None) => {}
        }
        if Instant::now() >= until {
            end(child);
            return Ended::Late;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Ends it and what it started: asked first.
fn end(child: &mut Child) {
    let group = Pid::from_child(child);
    let _ = kill_process_group(group, Signal::TERM);
    let until = Instant::now() + CLEANING_UP;
    while Instant::now() < until {
        if matches!(child.try_wait(), Ok(Some(_))) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn shell(text: &str, limit: Duration) -> (Ended, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hook");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        run(&path, &[("RELEVO_PHASE", "pre".into())], limit)
    }

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn what_a_program_says_and_how_it_ends_is_told() {
        let (ended, output) = shell("echo $RELEVO_PHASE; echo more >&2; exit 3", LONG);
        assert_eq!(output, "pre\nmore\n");
        assert!(ended.failure(LONG).unwrap().contains('3'));
        assert_eq!(shell("true", LONG).0.failure(LONG), None);
        let (ended, _) = run(Path::new("/nowhere"), &[], LONG);
        assert!(matches!(ended, Ended::NotBegun(_)));
    }

    /// Guards a run against a hook that never ends, and the server against what that one started.
    #[test]
    fn what_takes_too_long_is_ended_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let text = format!("sleep 600 & echo $! > {}; wait", pid.display());
        let (ended, _) = shell(&text, Duration::from_secs(1));
        assert!(matches!(ended, Ended::Late));
        let pid = std::fs::read_to_string(pid).unwrap();
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        // Gone, or about to be collected.
        assert!(state.is_err() || state.is_ok_and(|stat| stat.contains(") Z")));
    }

    /// Guards hooks that hold a lock with something in the background: it neither ends with the
    /// hook nor is it waited for.
    #[test]
    fn what_stays_in_the_background_is_not_waited_for() {
        let (ended, output) = shell("sleep 600 & echo $!", LONG);
        assert_eq!(ended.failure(LONG), None);
        let pid = output.trim().parse().unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        assert!(rustix::process::test_kill_process(pid).is_ok());
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }
}
