//! What each tool is put through.

use std::path::{Path, PathBuf};

use super::data::Images;
use crate::figures::Figures;
use crate::measured::{Cost, sync};

/// A backup program with a repository of its own.
pub trait Tool {
    /// How it is called.
    fn name(&self) -> &'static str;
    /// A new, empty repository in place of the old one.
    fn begin(&mut self);
    /// Images `disk` as `server`'s.
    fn ingest(&mut self, server: &str, disk: &Path) -> Cost;
    /// Bytes of the repository.
    fn stored(&mut self) -> u64;
    /// Restores the newest image of each server, all at once. Where the disks are when `into`
    /// is given.
    fn restore(&mut self, servers: &[&str], into: &Path) -> (Cost, Vec<PathBuf>);
    /// Checks every byte of the repository.
    fn verify(&mut self) -> Cost;
    /// Deletes all but the newest image of `thinned` and all of `gone`, and gives room back;
    /// nothing when it cannot.
    fn collect(&mut self, thinned: &str, gone: &str) -> Option<Cost>;
}

/// One run of the comparison.
pub struct Comparison<'a> {
    /// What is imaged.
    pub images: &'a Images,
    /// Where all files are.
    pub dir: &'a Path,
    /// Takes what is measured.
    pub figures: &'a mut Figures,
}

const SERVERS: [&str; 3] = ["web1", "web2", "web3"];

impl Comparison<'_> {
    /// A new repository, one server imaged twice, restored, verified.
    pub fn one_server(&mut self, tool: &mut dyn Tool, first_round: bool) {
        let (name, bytes) = (tool.name(), self.images.bytes);
        tool.begin();
        let first = ingest(tool, SERVERS[0], &self.images.servers[0]);
        self.figures.rate(name, "first_ingest", bytes, first);
        self.figures.amount(name, "stored_first", tool.stored());
        let second = ingest(tool, SERVERS[0], &self.images.later);
        self.figures.rate(name, "second_ingest", bytes, second);
        self.figures.amount(name, "stored_second", tool.stored());
        self.figures
            .memory(name, "memory_ingest", first.then(second));
        let later = self.images.later.clone();
        let cost = self.restored(tool, &SERVERS[..1], &[later], first_round);
        self.figures.rate(name, "restore_1_stream", bytes, cost);
        self.figures.memory(name, "memory_restore", cost);
        let verified = tool.verify();
        self.figures.rate(name, "verify", bytes, verified);
        self.figures.memory(name, "memory_verify", verified);
        println!(
            "{name}: first {:.2} s, second {:.2} s, restore {:.2} s, verify {:.2} s",
            first.time.as_secs_f64(),
            second.time.as_secs_f64(),
            cost.time.as_secs_f64(),
            verified.time.as_secs_f64()
        );
    }

    /// Two more servers, all restored at once, then deletion and collection.
    pub fn many_servers(&mut self, tool: &mut dyn Tool) {
        let name = tool.name();
        let mut cost = Cost::default();
        for (server, disk) in SERVERS.iter().zip(&self.images.servers).skip(1) {
            cost = cost.then(ingest(tool, server, disk));
        }
        let bytes = self.images.bytes * 2;
        self.figures.rate(name, "alike_ingest", bytes, cost);
        self.figures.amount(name, "stored_3_servers", tool.stored());
        let mut disks = self.images.servers.clone();
        disks[0] = self.images.later.clone();
        for round in 0..3 {
            let cost = self.restored(tool, &SERVERS, &disks, round == 0);
            let bytes = self.images.bytes * 3;
            self.figures.rate(name, "restore_3_streams", bytes, cost);
        }
        let before = tool.stored();
        if let Some(cost) = tool.collect(SERVERS[0], SERVERS[1]) {
            self.figures.time(name, "collect", cost);
            self.figures.memory(name, "memory_collect", cost);
            self.figures.amount(name, "stored_collected", tool.stored());
            println!(
                "{name}: collect {:.2} s, {} of {} MB left",
                cost.time.as_secs_f64(),
                tool.stored() / 1_000_000,
                before / 1_000_000
            );
            let disks = [disks[0].clone(), disks[2].clone()];
            self.restored(tool, &[SERVERS[0], SERVERS[2]], &disks, true);
        }
    }

    /// Restores and, when asked, compares with the source, outside of what is measured.
    fn restored(
        &mut self,
        tool: &mut dyn Tool,
        servers: &[&str],
        sources: &[PathBuf],
        compare: bool,
    ) -> Cost {
        let into = self.dir.join("restored");
        let _ = std::fs::remove_dir_all(&into);
        let made = std::fs::create_dir_all(&into);
        made.unwrap_or_else(|e| panic!("{}: {e}", into.display()));
        let (cost, disks) = tool.restore(servers, &into);
        if compare {
            for (disk, source) in disks.iter().zip(sources) {
                let same = std::process::Command::new("cmp")
                    .args([disk, source])
                    .status();
                assert!(
                    same.is_ok_and(|status| status.success()),
                    "{}: {} is not {}",
                    tool.name(),
                    disk.display(),
                    source.display()
                );
            }
        }
        let _ = std::fs::remove_dir_all(&into);
        cost
    }
}

/// Images a disk that stands in the page cache: some tools leave none of it there.
fn ingest(tool: &mut dyn Tool, server: &str, disk: &Path) -> Cost {
    let warmed = std::fs::File::open(disk)
        .and_then(|mut disk| std::io::copy(&mut disk, &mut std::io::sink()));
    warmed.unwrap_or_else(|e| panic!("{}: {e}", disk.display()));
    tool.ingest(server, disk)
}

/// Brings restored disks to stable storage.
pub fn sync_all(disks: &[PathBuf]) {
    for disk in disks {
        sync(disk);
    }
}
