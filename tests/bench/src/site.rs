//! Relevo where it is measured: a vault in a process of its own, and its clients.

use std::path::{Path, PathBuf};

use relevo_tests::lab::Lab;

use crate::measured::{Cost, bytes_below, peak_since, processor_of};
use crate::repository;

/// A vault that runs, and its clients.
pub struct Site {
    dir: PathBuf,
    /// What its programs say.
    pub log: PathBuf,
    lab: Option<Lab>,
}

impl Site {
    /// With files below `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.join("relevo"),
            log: dir.join("relevo.log"),
            lab: None,
        }
    }

    /// A new vault in place of the old one.
    pub fn begin(&mut self) -> &Lab {
        self.lab = None;
        repository::renew(&self.dir);
        self.lab.insert(Lab::with_vault_in(&self.dir))
    }

    /// What was begun.
    pub fn lab(&mut self) -> &mut Lab {
        self.lab
            .as_mut()
            .unwrap_or_else(|| panic!("no vault was begun"))
    }

    /// Bytes of the vault. At its end it puts its catalogue's journal away.
    pub fn stored(&mut self) -> u64 {
        let lab = self.lab();
        lab.stop_vault();
        let bytes = bytes_below(&lab.path("vault"));
        lab.start_vault();
        bytes
    }

    /// What the vault spends, largest resident set included, while `clients` work.
    pub fn vault_beside<T>(&mut self, clients: impl FnOnce(&mut Self) -> T) -> (T, Cost) {
        let pid = self.lab().vault_pid();
        peak_since(pid);
        let before = processor_of(pid);
        let done = clients(self);
        let vault = Cost {
            memory: peak_since(pid),
            processor: processor_of(pid) - before,
            ..Cost::default()
        };
        (done, vault)
    }
}
