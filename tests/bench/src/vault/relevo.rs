//! Relevo: agent and recovery site over QUIC on loopback, and a vault.

use std::path::{Path, PathBuf};
use std::process::Command;

use relevo_tests::program::finish;
use serde_json::Value;

use super::comparison::{Tool, sync_all};
use crate::measured::{Cost, run, run_all};
use crate::site::Site;

/// A vault that runs, and its clients.
pub struct Relevo(Site);

impl Relevo {
    /// With files below `dir`.
    pub fn new(dir: &Path) -> Self {
        Self(Site::new(dir))
    }

    /// Runs clients, and adds what the vault spent meanwhile.
    fn with_vault(&mut self, commands: Vec<Command>, finish: impl FnOnce()) -> Cost {
        let clients = |site: &mut Site| run_all(commands, &site.log, finish);
        let (mut cost, vault) = self.0.vault_beside(clients);
        cost.memory += vault.memory;
        cost.processor += vault.processor;
        cost
    }

    fn vault_command(&mut self, arguments: &[&str]) -> Command {
        let lab = self.0.lab();
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
        self.0.begin();
        let lab = self.0.lab();
        // What nothing refers to goes at once, as the peers are told to do.
        let settings = lab.path("vault/settings.toml");
        let written = std::fs::write(&settings, "[collect]\ngrace = \"0s\"\n");
        written.unwrap_or_else(|e| panic!("{}: {e}", settings.display()));
        lab.stop_vault();
        lab.start_vault();
        for server in ["web1", "web2", "web3"] {
            lab.enroll_agent(server);
        }
    }

    fn ingest(&mut self, server: &str, disk: &Path) -> Cost {
        let command = self.0.lab().backup_command(server, disk);
        self.with_vault(vec![command], || {})
    }

    fn stored(&mut self) -> u64 {
        self.0.stored()
    }

    fn restore(&mut self, servers: &[&str], into: &Path) -> (Cost, Vec<PathBuf>) {
        let lab = self.0.lab();
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
        run(command, &self.0.log)
    }

    fn collect(&mut self, thinned: &str, gone: &str) -> Option<Cost> {
        let known = self.0.lab().command("relevo-vault", &["collect", "--help"]);
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
