//! A vault on loopback with an enrolled agent and recovery site.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::binaries;
use crate::namespace::Namespace;
use crate::program::{Finished, Running, finish};

const LOOPBACK: &str = "127.0.0.1";

/// A vault process, its files, and those of one recovery site. Agents are added by name.
pub struct Lab {
    // Dropped in this order: the vault ends before its files and its network go.
    vault: Option<Running>,
    dir: TempDir,
    vault_dir: PathBuf,
    address: String,
    namespace: Option<Namespace>,
}

impl Lab {
    /// A new vault with keys and an enrolled recovery site.
    pub fn new() -> Self {
        Self::make(None, None, LOOPBACK)
    }

    /// The same with the vault's files below `parent`.
    pub fn with_vault_in(parent: &Path) -> Self {
        Self::make(Some(parent), None, LOOPBACK)
    }

    /// The same in a network of its own, whose line can be cut.
    pub fn in_namespace(name: &str) -> Self {
        Self::make(None, Some(Namespace::new(name)), LOOPBACK)
    }

    /// The same with the vault at an IPv4 address of its own there.
    pub fn in_namespace_at(name: &str, vault: &str) -> Self {
        let namespace = Namespace::new(name);
        namespace.ip(&["addr", "add", &format!("{vault}/32"), "dev", "lo"]);
        Self::make(None, Some(namespace), vault)
    }

    fn make(vault_dir: Option<&Path>, namespace: Option<Namespace>, vault: &str) -> Self {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("no directory for a test: {e}"));
        let vault_dir = vault_dir.unwrap_or(dir.path()).to_path_buf();
        let address = format!("{vault}:0");
        let mut lab = Self {
            vault: None,
            dir,
            vault_dir,
            address,
            namespace,
        };
        let vault = lab.text("vault");
        finish(lab.command("relevo-vault", &["init", "--dir", &vault, "--name", "lab"]))
            .expect_success();
        lab.start_vault();
        finish(lab.command("relevo-recover", &["keygen", "--out", &lab.text("keys")]))
            .expect_success();
        let token = lab.token("recovery");
        let keys = lab.text("keys/opening-keys.toml");
        let args = [
            "enroll",
            "--vault",
            &lab.address,
            "--token",
            &token,
            "--keys",
            &keys,
        ];
        lab.recover(&args).expect_success();
        lab
    }

    /// A command of one of the programs under test, in the lab's network.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let program = binaries::path(program);
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(&program, args),
            None => {
                let mut command = Command::new(program);
                command.args(args);
                command
            }
        };
        command.stdin(Stdio::null());
        command
    }

    /// The lab's network, when it has one of its own.
    pub fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// The directory of everything.
    pub fn path(&self, name: &str) -> PathBuf {
        let in_vault = name == "vault" || name.starts_with("vault/");
        let parent = if in_vault {
            self.vault_dir.as_path()
        } else {
            self.dir.path()
        };
        parent.join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// Where the vault listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Starts the vault; on the same port again when it ran before.
    pub fn start_vault(&mut self) {
        let args = [
            "serve",
            "--dir",
            &self.text("vault"),
            "--listen",
            &self.address,
            "--json",
        ];
        let mut vault = Running::start(self.command("relevo-vault", &args));
        let line = vault.next_line();
        let ready: Value = serde_json::from_str(&line)
            .unwrap_or_else(|e| panic!("the vault did not say where it listens ({e}): {line}"));
        self.address = ready["listening"].as_str().unwrap_or_default().to_string();
        self.vault = Some(vault);
    }

    /// Process id of the vault.
    ///
    /// # Panics
    /// When it does not run.
    pub fn vault_pid(&self) -> u32 {
        let vault = self.vault.as_ref();
        vault.map_or_else(|| panic!("the vault does not run"), Running::pid)
    }

    /// Kills the vault without warning.
    pub fn kill_vault(&mut self) {
        self.vault = None;
    }

    /// Stops the vault as a service manager would and checks that it ends well.
    pub fn stop_vault(&mut self) {
        if let Some(mut vault) = self.vault.take() {
            vault.signal("TERM");
            assert_eq!(vault.wait().0, 0, "the vault did not stop cleanly");
        }
    }

    /// A new token for `role`.
    pub fn token(&self, role: &str) -> String {
        self.token_with(role, &[])
    }

    /// A new token for `role`, with more options.
    pub fn token_with(&self, role: &str, options: &[&str]) -> String {
        let dir = self.text("vault");
        let args = [&["token", "--dir", &dir, "--role", role, "--json"], options].concat();
        let answer = finish(self.command("relevo-vault", &args)).expect_json();
        answer["token"].as_str().unwrap_or_default().to_string()
    }

    /// Enrols an agent under `name`; its state is in a directory of that name.
    pub fn enroll_agent(&self, name: &str) {
        self.try_enroll_agent(name, &self.token("agent"))
            .expect_success();
    }

    /// Enrols an agent that knows the vault by another address than its own.
    pub fn enroll_agent_at(&self, name: &str, address: &str) {
        self.try_enroll_at(name, &self.token("agent"), address)
            .expect_success();
    }

    /// Tries to enrol an agent with a given token.
    pub fn try_enroll_agent(&self, name: &str, token: &str) -> Finished {
        self.try_enroll_at(name, token, &self.address)
    }

    fn try_enroll_at(&self, name: &str, token: &str, address: &str) -> Finished {
        let (keys, state) = (self.text("keys/sealing-keys.toml"), self.text(name));
        let vault = [
            "enroll", "--vault", address, "--token", token, "--keys", &keys,
        ];
        let own = ["--name", name, "--state", &state];
        finish(self.command("relevo-agent", &[&vault[..], &own[..]].concat()))
    }

    /// The command that images `disk` as the agent `name`.
    pub fn backup_command(&self, name: &str, disk: &Path) -> Command {
        let (state, disk) = (self.text(name), format!("{}=sda", disk.display()));
        self.command(
            "relevo-agent",
            &["backup", "--state", &state, "--disk", &disk, "--json"],
        )
    }

    /// Images `disk` as the agent `name` and returns what the run reports.
    pub fn backup(&self, name: &str, disk: &Path) -> Value {
        finish(self.backup_command(name, disk)).expect_json()
    }

    /// Runs relevo-recover with this site's state.
    pub fn recover(&self, args: &[&str]) -> Finished {
        finish(self.recover_command(args))
    }

    /// The same as a command.
    pub fn recover_command(&self, args: &[&str]) -> Command {
        let mut command = self.command("relevo-recover", args);
        command.arg("--state").arg(self.path("recover"));
        command
    }

    /// Restores the latest image of `server` and returns the path of the disk.
    pub fn restore(&self, server: &str) -> PathBuf {
        let to = self.path(&format!("restored-{server}.raw"));
        let _ = std::fs::remove_file(&to);
        self.recover(&["restore", server, "--to", &to.to_string_lossy()])
            .expect_success();
        to
    }

    /// Verifies the whole vault.
    pub fn verify(&self) -> Finished {
        finish(self.command(
            "relevo-vault",
            &["verify", "--dir", &self.text("vault"), "--json"],
        ))
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Virtual machines outlive the command that started them.
        for run in std::fs::read_dir(self.path("recover/runs"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let server = run.file_name().to_string_lossy().into_owned();
            let _ = self
                .recover_command(&["stop", &server, "--discard"])
                .output();
        }
    }
}
