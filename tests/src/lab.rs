//! A vault on loopback with an enrolled agent and recovery site.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Finished, Running, command, finish};

/// A vault process, its files, and those of one recovery site. Agents are added by name.
pub struct Lab {
    dir: TempDir,
    vault_dir: PathBuf,
    vault: Option<Running>,
    address: String,
}

impl Lab {
    /// A new vault with keys and an enrolled recovery site.
    pub fn new() -> Self {
        let dir = new_directory();
        let vault_dir = dir.path().to_path_buf();
        Self::make(dir, vault_dir)
    }

    /// The same with the vault's files below `parent`.
    pub fn with_vault_in(parent: &Path) -> Self {
        Self::make(new_directory(), parent.to_path_buf())
    }

    fn make(dir: TempDir, vault_dir: PathBuf) -> Self {
        let mut lab = Self {
            dir,
            vault_dir,
            vault: None,
            address: "127.0.0.1:0".into(),
        };
        finish(command(
            "relevo-vault",
            ["init", "--dir", &lab.text("vault"), "--name", "lab"],
        ))
        .expect_success();
        lab.start_vault();
        finish(command(
            "relevo-recover",
            ["keygen", "--out", &lab.text("keys")],
        ))
        .expect_success();
        let token = lab.token("recovery");
        let keys = lab.text("keys/opening-keys.toml");
        let state = lab.text("recover");
        let args = [
            "enroll",
            "--vault",
            &lab.address,
            "--token",
            &token,
            "--keys",
            &keys,
        ];
        finish(command(
            "relevo-recover",
            args.into_iter().chain(["--state", &state]),
        ))
        .expect_success();
        lab
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
        let mut vault = Running::start(command("relevo-vault", args));
        let line = vault.next_line();
        let ready: Value = serde_json::from_str(&line)
            .unwrap_or_else(|e| panic!("the vault did not say where it listens ({e}): {line}"));
        self.address = ready["listening"].as_str().unwrap_or_default().to_string();
        self.vault = Some(vault);
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
        let args = [
            "token",
            "--dir",
            &self.text("vault"),
            "--role",
            role,
            "--json",
        ];
        let answer = finish(command("relevo-vault", args)).expect_json();
        answer["token"].as_str().unwrap_or_default().to_string()
    }

    /// Enrols an agent under `name`; its state is in a directory of that name.
    pub fn enroll_agent(&self, name: &str) {
        self.try_enroll_agent(name, &self.token("agent"))
            .expect_success();
    }

    /// Tries to enrol an agent with a given token.
    pub fn try_enroll_agent(&self, name: &str, token: &str) -> Finished {
        let keys = self.text("keys/sealing-keys.toml");
        let state = self.text(name);
        let args = [
            "enroll",
            "--vault",
            &self.address,
            "--token",
            token,
            "--keys",
            &keys,
        ];
        let rest = ["--name", name, "--state", &state];
        finish(command("relevo-agent", args.into_iter().chain(rest)))
    }

    /// The command that images `disk` as the agent `name`.
    pub fn backup_command(&self, name: &str, disk: &Path) -> Command {
        let disk = format!("{}=sda", disk.display());
        command(
            "relevo-agent",
            [
                "backup",
                "--state",
                &self.text(name),
                "--disk",
                &disk,
                "--json",
            ],
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
        let mut command = command("relevo-recover", args);
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
        finish(command(
            "relevo-vault",
            ["verify", "--dir", &self.text("vault"), "--json"],
        ))
    }
}

fn new_directory() -> TempDir {
    tempfile::tempdir().unwrap_or_else(|e| panic!("no directory for a test: {e}"))
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Virtual machines outlive the command that started them.
        if self.path("recover/runs").exists() {
            let state = self.text("recover");
            if let Ok(runs) = std::fs::read_dir(self.path("recover/runs")) {
                for run in runs.flatten() {
                    let server = run.file_name().to_string_lossy().into_owned();
                    let args = ["stop", &server, "--discard", "--state", &state];
                    let _ = command("relevo-recover", args).output();
                }
            }
        }
    }
}
