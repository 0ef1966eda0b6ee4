//! The agent beside what else images a disk, on the same block devices in one run:
//! `make bench-agent`.
//!
//! Two servers' disks stand on loop devices. Every tool images the first one; then 0.1 %, 2 % and
//! 20 % of its data are changed, and every tool images it after each; then the second server's
//! disk comes to the same repository. All this in rounds with new disks and repositories. The
//! tools take turns: all do a step before any does the next, in another order in each round.
//!
//! What a figure means:
//! * Times are wall clock, from the start of the process to its end, handshakes and passphrases
//!   included. Relevo's vault is a process of its own, reached over QUIC on loopback, that
//!   acknowledges what is on stable storage.
//! * The devices' pages are dropped before each run, the files below them are in the page cache:
//!   all read memory through the loop driver.
//! * `processor` and `memory` are what the imaged server spends: of Relevo the agent's. Those
//!   with `_vault` are of both processes. Peers write their repository themselves.
//! * `sent` are the bytes that leave the server: of peers, what their repository grows by.
//! * qemu-img and casync encrypt nothing; qemu-img knows no earlier image.
//! * Relevo tracks changes in the kernel; the time that this costs whoever writes to the disk is
//!   not in the figures.

mod device;
mod peer;
mod relevo;

use std::path::Path;

use crate::Settings;
use crate::figures::{Aim, Figures, Row};
use crate::measured::Cost;

use device::{Device, Disks};

/// What imaging a disk once came to.
pub struct Imaged {
    /// Of all processes, but for the vault's.
    pub cost: Cost,
    /// What the vault spent besides.
    pub vault: Cost,
    /// Bytes that left the server.
    pub sent: u64,
}

/// A program that images block devices into a repository.
pub trait Imager {
    /// How it is called.
    fn name(&self) -> &'static str;
    /// A new, empty repository in place of the old one.
    fn begin(&mut self);
    /// Images `disk` as `server`'s.
    fn image(&mut self, server: &str, disk: &Path) -> Imaged;
    /// Bytes of the repository.
    fn stored(&mut self) -> u64;
    /// The disks go away.
    fn end(&mut self) {}
}

const SERVERS: [&str; 2] = ["web1", "web2"];
/// Changed data in percent of what is in use.
const CHANGES: [&str; 3] = ["0.1", "2", "20"];

/// Measures all.
pub fn run(settings: &Settings) {
    let Settings { dir, rounds, size } = settings;
    let disks = Disks::make(&dir.join("images"), *size);
    println!(
        "disks: 2 servers of {} MB, {} MB of the first in use; {rounds} rounds",
        size / 1_000_000,
        disks.used / 1_000_000
    );
    let mut imagers: Vec<Box<dyn Imager>> = vec![Box::new(relevo::Relevo::new(dir))];
    for (name, peer) in peer::all(dir) {
        match peer {
            Ok(peer) => imagers.push(peer),
            Err(missing) => println!("{name}: not measured, {missing}"),
        }
    }
    let mut figures = Figures::new(rows());
    for round in 0..*rounds {
        let devices = disks.attach();
        for imager in &mut imagers {
            imager.begin();
        }
        let mut turn = 0;
        let mut step = |name: &str, server: usize, imagers: &mut [Box<dyn Imager>]| {
            let count = imagers.len();
            for at in 0..count {
                let imager = &mut *imagers[(at + turn + round) % count];
                measure(
                    imager,
                    name,
                    SERVERS[server],
                    &devices[server],
                    &mut figures,
                );
            }
            turn += 1;
        };
        step("first", 0, &mut imagers);
        for (number, percent) in CHANGES.iter().enumerate() {
            devices[0].change(percent, number as u32 + 1);
            step(&format!("changed_{percent}"), 0, &mut imagers);
        }
        step("other", 1, &mut imagers);
        for imager in &mut imagers {
            imager.end();
        }
    }
    drop(imagers);
    figures.print();
}

fn measure(imager: &mut dyn Imager, step: &str, server: &str, device: &Device, to: &mut Figures) {
    let before = imager.stored();
    device.drop_pages();
    let imaged = imager.image(server, device.path());
    let (name, cost) = (imager.name(), imaged.cost);
    let stored = imager.stored() - before;
    let all = cost.processor + imaged.vault.processor;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let mut add = |what: &str, value| to.add(name, &format!("{step}_{what}"), value);
    add("time", cost.time.as_secs_f64());
    add("processor", cost.processor.as_secs_f64());
    add("with_vault_processor", all.as_secs_f64());
    add("memory", mib(cost.memory));
    add("memory_vault", mib(cost.memory + imaged.vault.memory));
    add("sent", megabytes(imaged.sent));
    add("stored", megabytes(stored));
    println!(
        "{name}: {step} {:.2} s, processor {:.2} s (with vault {:.2} s), {:.0} MiB, sent {:.1} MB, stored {:.1} MB",
        cost.time.as_secs_f64(),
        cost.processor.as_secs_f64(),
        all.as_secs_f64(),
        mib(cost.memory),
        megabytes(imaged.sent),
        megabytes(stored),
    );
}

fn rows() -> Vec<Row> {
    let incremental = CHANGES.map(|percent| (format!("changed_{percent}"), Aim::Faster(20.0)));
    let steps = std::iter::once(("first".to_string(), Aim::Faster(2.0)))
        .chain(incremental)
        .chain([("other".to_string(), Aim::Shown)]);
    let rows = steps.flat_map(|(step, time)| {
        [
            ("time", "s", time),
            ("processor", "s", Aim::Shown),
            ("with_vault_processor", "s", Aim::Shown),
            ("memory", "MiB", Aim::Below),
            ("memory_vault", "MiB", Aim::Shown),
            ("sent", "MB", Aim::Shown),
            ("stored", "MB", Aim::AtMost),
        ]
        .map(|(what, unit, aim)| (format!("{step}_{what}"), unit, aim))
    });
    rows.collect()
}
