//! Relevo: agent and recovery site over QUIC on loopback, and a vault.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use relevo_tests::lab::Lab;
use relevo_tests::program::finish;
use serde_json::Value;

use super::comparison::{Tool, sync_all};
use crate::measured::{Cost, bytes_below, peak_since, processor_of, run, run_all};

/// A vault that runs, and its clients.
pub struct Relevo {
    dir: PathBuf,
    log: PathBuf,
    lab: Option<Lab>,
}

impl Relevo {
    /// With files below `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.join("relevo"),
            log: dir.join("relevo.log"),
            lab: None,
        }
    }

    fn lab(&mut self) -> &mut Lab {
        self.lab
            .as_mut()
            .unwrap_or_else(|| panic!("no vault was begun"))
    }

    /// Runs clients, and adds what the vault spent meanwhile.
    fn with_vault(&mut self, commands: Vec<Command>, finish: impl FnOnce()) -> Cost {
        let pid = self.lab().vault_pid();
        peak_since(pid);
        let before: Duration = processor_of(pid);
        let mut cost = run_all(commands, &self.log, finish);
        cost.memory += peak_since(pid);
        cost.processor += processor_of(pid) - before;
        cost
    }

    fn vault_command(&mut self, arguments: &[&str]) -> Command {
        let lab = self.lab();
        let mut command = lab.command("relevo-vault", arguments);
        command.arg("--dir").arg(lab.path("vault"));
        command
    }
}

impl Tool for Relevo {
    fn name(&self) -> &'static str {
        "relevo"
    }

    fn begin(&mut self) {
        self.lab = None;
        let _ = std::fs::remove_dir_all(&self.dir);
        let made = std::fs::create_dir_all(&self.dir);
        made.unwrap_or_else(|e| panic!("{}: {e}", self.dir.display()));
        self.lab = Some(Lab::with_vault_in(&self.dir));
        // What nothing refers to goes at once, as the peers are told to do.
        let settings = self.lab().path("vault/settings.toml");
        let written = std::fs::write(&settings, "[collect]\ngrace = \"0s\"\n");
        written.unwrap_or_else(|e| panic!("{}: {e}", settings.display()));
        self.lab().stop_vault();
        self.lab().start_vault();
        for server in ["web1", "web2", "web3"] {
            self.lab().enroll_agent(server);
        }
    }

    fn ingest(&mut self, server: &str, disk: &Path) -> Cost {
        let command = self.lab().backup_command(server, disk);
        self.with_vault(vec![command], || {})
    }

    fn stored(&mut self) -> u64 {
        // At its end the vault puts its catalogue's journal away.
        let lab = self.lab();
        lab.stop_vault();
        let bytes = bytes_below(&lab.path("vault"));
        lab.start_vault();
        bytes
    }

    fn restore(&mut self, servers: &[&str], into: &Path) -> (Cost, Vec<PathBuf>) {
        let lab = self.lab();
        let place = |server: &&str| into.join(format!("{server}.raw"));
        let disks: Vec<PathBuf> = servers.iter().map(place).collect();
        let command = |(server, disk): (&&str, &PathBuf)| {
            lab.recover_command(&["restore", server, "--to", &disk.to_string_lossy()])
        };
        let commands = servers.iter().zip(&disks).map(command).collect();
        let cost = self.with_vault(commands, || sync_all(&disks));
        (cost, disks)
    }

    fn verify(&mut self) -> Cost {
        let command = self.vault_command(&["verify"]);
        run(command, &self.log)
    }

    fn collect(&mut self, thinned: &str, gone: &str) -> Option<Cost> {
        let known = self.lab().command("relevo-vault", &["collect", "--help"]);
        if finish(known).code != 0 {
            println!("relevo: collect not measured, this release has no 'relevo-vault collect'");
            return None;
        }
        let mut list = self.vault_command(&["images"]);
        list.arg("--json");
        let images = finish(list).expect_json();
        let text =
            |image: &Value, field: &str| image[field].as_str().unwrap_or_default().to_string();
        // By server and time: the last of a server is its latest.
        let images = images.as_array().cloned().unwrap_or_default();
        let latest = images.iter().rposition(|image| image["name"] == thinned);
        let mut cost = Cost::default();
        for (number, image) in images.iter().enumerate() {
            let name = text(image, "name");
            if name == gone || (name == thinned && Some(number) != latest) {
                let point = text(image, "point");
                let mut delete = self.vault_command(&["delete"]);
                delete.args(["--even-latest", &point]);
                cost = cost.then(self.with_vault(vec![delete], || {}));
            }
        }
        let collect = self.vault_command(&["collect"]);
        Some(cost.then(self.with_vault(vec![collect], || {})))
    }
}
