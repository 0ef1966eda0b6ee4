//! Relevo beside restic, borg and rustic, on the same images in one run: `make bench-vault`.
//!
//! Each tool images a server's disk, then the same disk with three percent of it changed,
//! restores and verifies; all this in rounds, one tool after the other within a round, so that
//! what else the machine does meets all of them. Then two more servers of the same make come to
//! the same repository, all three are restored at once, points are deleted and their room is
//! collected. A peer that is not installed is said to be missing.
//!
//! What a figure means:
//! * Times are wall clock, from the start of the process to its end, passphrases and
//!   handshakes included; of restores until the restored file is on stable storage.
//! * Rates are of the disk's bytes. The disks are dense: what a file system left unused is not
//!   in them.
//! * The page cache is warm for all: images and repositories were just written or read.
//! * Memory is the largest resident set of each process, of Relevo agent and vault (or recovery
//!   site and vault) together.
//! * Stored bytes are the lengths of all files of the repository, indexes and catalogue too.

mod comparison;
mod data;
mod peers;
mod relevo;

use crate::Settings;
use crate::figures::{Aim, Figures, Row};

use comparison::{Comparison, Tool};
use data::Images;

/// Measures all.
pub fn run(settings: &Settings) {
    let Settings { dir, rounds, .. } = settings;
    let images = Images::make(&dir.join("images"));
    println!(
        "images: {} servers of {} MB, {} MB of the first changed; {rounds} rounds; page cache warm",
        images.servers.len(),
        images.bytes / 1_000_000,
        images.changed / 1_000_000,
    );
    let mut tools: Vec<Box<dyn Tool>> = vec![Box::new(relevo::Relevo::new(dir))];
    for (name, peer) in peers::all(dir) {
        match peer {
            Ok(peer) => tools.push(peer),
            Err(missing) => println!("{name}: not measured, {missing}"),
        }
    }
    let mut figures = Figures::new(rows());
    let mut comparison = Comparison {
        images: &images,
        dir,
        figures: &mut figures,
    };
    for round in 1..=*rounds {
        for tool in &mut tools {
            comparison.one_server(&mut **tool, round == 1);
        }
    }
    for tool in &mut tools {
        comparison.many_servers(&mut **tool);
    }
    drop(tools);
    figures.print();
}

fn rows() -> Vec<Row> {
    let rows = [
        ("first_ingest", "MB/s", Aim::Times(2.0)),
        ("first_ingest_processor", "s", Aim::Shown),
        ("second_ingest", "MB/s", Aim::Shown),
        ("second_ingest_processor", "s", Aim::Shown),
        ("alike_ingest", "MB/s", Aim::Shown),
        ("stored_first", "MB", Aim::AtMost),
        ("stored_second", "MB", Aim::AtMost),
        ("stored_3_servers", "MB", Aim::AtMost),
        ("restore_1_stream", "MB/s", Aim::Times(3.0)),
        ("restore_1_stream_processor", "s", Aim::Shown),
        ("restore_3_streams", "MB/s", Aim::Times(3.0)),
        ("restore_3_streams_processor", "s", Aim::Shown),
        ("verify", "MB/s", Aim::Above),
        ("verify_processor", "s", Aim::Shown),
        ("collect", "s", Aim::Below),
        ("stored_collected", "MB", Aim::AtMost),
        ("memory_ingest", "MiB", Aim::Below),
        ("memory_restore", "MiB", Aim::Below),
        ("memory_verify", "MiB", Aim::Below),
        ("memory_collect", "MiB", Aim::Below),
    ];
    rows.map(|(name, unit, aim)| (name.to_string(), unit, aim))
        .to_vec()
}
