//! Relevo: an agent for each server, over QUIC on loopback, and a vault.

use std::path::{Path, PathBuf};

use relevo_tests::lab::Lab;
use serde_json::Value;

use super::{Imaged, Imager, SERVERS};
use crate::measured::{Cost, bytes_below, peak_since, processor_of, run};

/// A vault that runs, and its agents.
pub struct Relevo {
    dir: PathBuf,
    log: PathBuf,
    lab: Option<Lab>,
    /// Servers whose disks are tracked, and where those are.
    tracked: Vec<(String, PathBuf)>,
}

impl Relevo {
    /// With files below `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.join("relevo"),
            log: dir.join("relevo.log"),
            lab: None,
            tracked: Vec::new(),
        }
    }

    fn lab(&mut self) -> &mut Lab {
        self.lab
            .as_mut()
            .unwrap_or_else(|| panic!("no vault was begun"))
    }
}

impl Imager for Relevo {
    fn name(&self) -> &'static str {
        "relevo"
    }

    fn begin(&mut self) {
        self.lab = None;
        let _ = std::fs::remove_dir_all(&self.dir);
        let made = std::fs::create_dir_all(&self.dir);
        made.unwrap_or_else(|e| panic!("{}: {e}", self.dir.display()));
        let lab = Lab::with_vault_in(&self.dir);
        for server in SERVERS {
            lab.enroll_agent(server);
        }
        self.lab = Some(lab);
    }

    fn image(&mut self, server: &str, disk: &Path) -> Imaged {
        let command = self.lab().backup_command(server, disk);
        let place = (server.to_string(), disk.to_path_buf());
        if !self.tracked.contains(&place) {
            self.tracked.push(place);
        }
        let pid = self.lab().vault_pid();
        peak_since(pid);
        let before = processor_of(pid);
        let cost = run(command, &self.log);
        let vault = Cost {
            memory: peak_since(pid),
            processor: processor_of(pid) - before,
            ..Cost::default()
        };
        let report = last_report(&self.log);
        println!(
            "relevo: read {} of the disk: {}",
            report["tracking"][0]["read"], report["tracking"][0]["reason"]
        );
        Imaged {
            cost,
            vault,
            sent: report["sent_bytes"].as_u64().unwrap_or_default(),
        }
    }

    fn stored(&mut self) -> u64 {
        // At its end the vault puts its catalogue's journal away.
        let lab = self.lab();
        lab.stop_vault();
        let bytes = bytes_below(&lab.path("vault"));
        lab.start_vault();
        bytes
    }

    /// The kernel would go on tracking after the agents are gone.
    fn end(&mut self) {
        for (server, disk) in std::mem::take(&mut self.tracked) {
            let (state, disk) = (self.lab().path(&server), format!("{}=sda", disk.display()));
            let mut stop = self.lab().command("relevo-agent", &["tracking", "stop"]);
            stop.args(["--disk", &disk, "--state"]).arg(state);
            run(stop, &self.log);
        }
    }
}

/// What the last run said of itself.
fn last_report(log: &Path) -> Value {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let report = text.lines().rev().find(|line| line.starts_with('{'));
    report
        .and_then(|line| serde_json::from_str(line).ok())
        .unwrap_or_else(|| panic!("no report in {}", log.display()))
}
