//! Relevo: an agent for each server, over QUIC on loopback, and a vault.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Imaged, Imager, SERVERS};
use crate::measured::run;
use crate::site::Site;

/// A vault that runs, and its agents.
pub struct Relevo {
    site: Site,
    /// Servers whose disks are tracked, and where those are.
    tracked: Vec<(String, PathBuf)>,
}

impl Relevo {
    /// With files below `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            site: Site::new(dir),
            tracked: Vec::new(),
        }
    }
}

impl Imager for Relevo {
    fn name(&self) -> &'static str {
        "relevo"
    }

    fn begin(&mut self) {
        let lab = self.site.begin();
        for server in SERVERS {
            lab.enroll_agent(server);
        }
    }

    fn image(&mut self, server: &str, disk: &Path) -> Imaged {
        let place = (server.to_string(), disk.to_path_buf());
        if !self.tracked.contains(&place) {
            self.tracked.push(place);
        }
        let (cost, vault) = self.site.vault_beside(|site| {
            let command = site.lab().backup_command(server, disk);
            run(command, &site.log)
        });
        let report = last_report(&self.site.log);
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
        self.site.stored()
    }

    /// The kernel would go on tracking after the agents are gone.
    fn end(&mut self) {
        for (server, disk) in std::mem::take(&mut self.tracked) {
            let (state, disk) = (
                self.site.lab().path(&server),
                format!("{}=sda", disk.display()),
            );
            let mut stop = self
                .site
                .lab()
                .command("relevo-agent", &["tracking", "stop"]);
            stop.args(["--disk", &disk, "--state"]).arg(state);
            run(stop, &self.site.log);
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
