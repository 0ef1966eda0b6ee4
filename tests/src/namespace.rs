//! A network of a test's own: a namespace with nothing but a loopback, which can be cut.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// A network namespace, removed when dropped.
pub struct Namespace(String);

impl Namespace {
    /// Makes the namespace `name`, in place of one that an interrupted test left.
    pub fn new(name: &str) -> Self {
        let _ = Command::new("ip").args(["netns", "del", name]).output();
        let namespace = Self(name.to_string());
        ip(&["netns", "add", name]);
        namespace.mend();
        namespace
    }

    /// Cuts the line: packets go nowhere, in either direction.
    pub fn cut(&self) {
        ip(&["-n", &self.0, "link", "set", "lo", "down"]);
    }

    /// Mends the line.
    pub fn mend(&self) {
        ip(&["-n", &self.0, "link", "set", "lo", "up"]);
    }

    /// Runs `ip` with these arguments in it.
    ///
    /// # Panics
    /// When it fails.
    pub fn ip(&self, args: &[&str]) {
        ip(&[&["-n", self.0.as_str()], args].concat());
    }

    /// A command that runs in it.
    pub fn command<S: AsRef<OsStr>>(
        &self,
        program: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.0])
            .arg(program)
            .args(args);
        command
    }
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output();
    assert!(
        output.as_ref().is_ok_and(|o| o.status.success()),
        "ip {args:?}: {output:?}"
    );
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}
