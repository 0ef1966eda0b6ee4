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
//!
//! `RELEVO_BENCH_DIR` names another place for the files (default: `target/bench`),
//! `RELEVO_BENCH_ROUNDS` another number of rounds (default: 3).

mod comparison;
mod data;
mod figures;
mod measured;
mod peers;
mod relevo;

use std::path::PathBuf;

use comparison::{Comparison, Tool};
use data::Images;
use figures::Figures;

fn main() {
    let dir = std::env::var_os("RELEVO_BENCH_DIR").map_or_else(
        || relevo_tests::binaries::source_root().join("target/bench"),
        PathBuf::from,
    );
    let rounds = std::env::var("RELEVO_BENCH_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(3usize);
    let _ = std::fs::remove_dir_all(&dir);
    let made = std::fs::create_dir_all(&dir);
    made.unwrap_or_else(|e| panic!("{}: {e}", dir.display()));

    let images = Images::make(&dir.join("images"));
    println!(
        "images: {} servers of {} MB, {} MB of the first changed; {rounds} rounds; page cache warm",
        images.servers.len(),
        images.bytes / 1_000_000,
        images.changed / 1_000_000,
    );
    let mut tools: Vec<Box<dyn Tool>> = vec![Box::new(relevo::Relevo::new(&dir))];
    for (name, peer) in peers::all(&dir) {
        match peer {
            Ok(peer) => tools.push(peer),
            Err(missing) => println!("{name}: not measured, {missing}"),
        }
    }
    let mut figures = Figures::default();
    let mut comparison = Comparison {
        images: &images,
        dir: &dir,
        figures: &mut figures,
    };
    for round in 1..=rounds {
        for tool in &mut tools {
            comparison.one_server(&mut **tool, round == 1);
        }
    }
    for tool in &mut tools {
        comparison.many_servers(&mut **tool);
    }
    drop(tools);
    figures.print();
    let _ = std::fs::remove_dir_all(&dir);
}
