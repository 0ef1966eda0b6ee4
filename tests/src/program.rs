//! Runs a program to its end, or in the background until dropped.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

/// What a program that ended left behind.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a command to its end.
pub fn finish(mut command: Command) -> Finished {
    match command.output() {
        Ok(output) => output.into(),
        Err(error) => panic!("{command:?} could not be started: {error}"),
    }
}

impl Finished {
    /// Its output, when it succeeded.
    ///
    /// # Panics
    /// With its standard error, when it did not.
    pub fn expect_success(self) -> String {
        assert_eq!(
            self.code, 0,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self.stdout
    }

    /// The last line of its output as JSON, when it succeeded.
    pub fn expect_json(self) -> Value {
        let out = self.expect_success();
        let line = out
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default();
        serde_json::from_str(line)
            .or_else(|_| serde_json::from_str(&out))
            .unwrap_or_else(|error| panic!("not JSON ({error}): {out}"))
    }

    /// Checks that it failed and said what, and what to do about it.
    ///
    /// # Panics
    /// When it succeeded, panicked, or its message lacks one of `words` or a remedy.
    pub fn expect_refusal(self, words: &[&str]) {
        assert!(
            self.code > 0,
            "it should have failed with an exit code: {self:?}"
        );
        assert_ne!(self.code, 101, "it panicked: {}", self.stderr);
        assert!(
            self.stderr.contains("error:"),
            "no 'error:' line in: {}",
            self.stderr
        );
        assert!(
            self.stderr.contains("remedy:"),
            "no 'remedy:' line in: {}",
            self.stderr
        );
        let said = self.stderr.to_lowercase();
        for word in words {
            assert!(
                said.contains(&word.to_lowercase()),
                "'{word}' is not said in: {}",
                self.stderr
            );
        }
    }
}

/// Waits for something that no program says: looks again and again while `pending` holds, with
/// pauses, so that what is waited for gets the processor.
///
/// # Panics
/// After a quarter of an hour, so that a test whose event cannot come any more ends.
pub fn wait_while(mut pending: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while pending() {
        assert!(
            start.elapsed().as_secs() < 900,
            "what the test waits for does not come"
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A program in the background; killed when dropped.
pub struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    /// Starts a command with its standard output captured.
    pub fn start(mut command: Command) -> Self {
        let mut child = match command.stdout(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) => panic!("{command:?} could not be started: {error}"),
        };
        let stdout = child.stdout.take().map(BufReader::new);
        Self {
            child,
            stdout: stdout.unwrap_or_else(|| unreachable!("it is piped")),
        }
    }

    /// The next line of its standard output.
    ///
    /// # Panics
    /// When it ended instead.
    pub fn next_line(&mut self) -> String {
        let mut line = String::new();
        match self.stdout.read_line(&mut line) {
            Ok(n) if n > 0 => line,
            other => panic!(
                "it ended without another line: {other:?}, {:?}",
                self.child.wait()
            ),
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end and returns the most of its memory that was ever resident, in KiB, as
    /// the kernel counted it (`VmHWM`, proc(5)).
    pub fn peak_memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let mut peak = 0;
        wait_while(|| {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let now = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            peak = now.unwrap_or(0).max(peak);
            // What is over has no memory.
            now.is_some()
        });
        peak
    }

    /// Kills it without warning and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-s", name, &pid]).status();
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for its end and returns the exit code and the rest of its output.
    pub fn wait(&mut self) -> (i32, String) {
        let mut rest = String::new();
        let _ = self.stdout.read_to_string(&mut rest);
        let code = self.child.wait().ok().and_then(|status| status.code());
        (code.unwrap_or(-1), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
