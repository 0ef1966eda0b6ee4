//! Where to cut, by measurement: `make bench-chunking`.
//!
//! Each way of cutting gets the same disks in the same order, as a vault would: a server; the
//! same one with three percent changed, then after ten such days; the same files in a new file
//! system; another server of the same make. Counted is what each would add: sealed bytes of
//! chunks that are new, at the agent's level of zstd, and leaves of the index that are new.
//! Times are the processor's for one thread.
//!
//! What is measured is what the vault's disk, the line and the agent pay; `fetched` is what a
//! recovery pays: the sealed bytes of the chunk in which a byte is found, on average over all
//! bytes, which is what a read of a block costs while a machine runs from the vault.

mod disk;
mod scheme;
mod store;

use std::time::Duration;

use relevo_wire::chunk::Compressor;

use crate::Settings;

use disk::{Disk, Disks};
use scheme::Scheme;
use store::{Added, Store};

/// Levels of zstd that are measured with the agent's way of cutting.
const LEVELS: [i32; 9] = [-3, -1, 1, 2, 3, 4, 5, 6, 9];

/// Measures all.
pub fn run(settings: &Settings) {
    let disks = Disks::make(&settings.dir.join("images"));
    let row = |cells: [&str; 14]| {
        let [name, cells @ ..] = cells;
        let cells: String = cells.iter().map(|cell| format!(" {cell:>8}")).collect();
        println!("{name:16}{cells}");
    };
    row([
        "", "chunks", "mean", "index", "first", "changed", "aged", "moved", "other", "all",
        "fetched", "cut", "hash", "zstd",
    ]);
    row([
        "", "", "KiB", "MB", "MB", "MB", "MB", "MB", "MB", "MB", "KiB", "MB/s", "MB/s", "MB/s",
    ]);
    for scheme in Scheme::all() {
        measure(scheme, &disks);
    }
    println!("\n{:16} {:>8} {:>8}", "level of zstd", "first", "zstd");
    println!("{:16} {:>8} {:>8}", "", "MB", "MB/s");
    for level in LEVELS {
        let mut store = Store::new(Scheme::Ours, level);
        let added = image(&mut store, &disks.first);
        let (stored, rate) = (
            megabytes(added.total()),
            rate(added.bytes, added.compressing),
        );
        println!("{level:<16} {stored:>8.1} {rate:>8.0}");
        println!("figure: chunking_level_{level}_stored {stored:.1} MB (target none)");
    }
}

fn measure(scheme: Scheme, disks: &Disks) {
    let mut store = Store::new(scheme, Compressor::LEVEL);
    let first = image(&mut store, &disks.first);
    let changed = image(&mut store, &disks.changed);
    let aged = image(&mut store, &disks.aged);
    let moved = image(&mut store, &disks.moved);
    let other = image(&mut store, &disks.other);
    let name = scheme.name();
    let images = [&first, &changed, &aged, &moved, &other];
    let all = images.iter().map(|added| added.total()).sum();
    let mean = first.bytes as f64 / first.chunks.max(1) as f64 / 1024.0;
    print!("{name:16} {:>8} {mean:>8.1}", first.chunks);
    print!(" {:>8.2}", megabytes(first.index));
    for added in images {
        print!(" {:>8.1}", megabytes(added.total()));
    }
    print!(" {:>8.1} {:>8.1}", megabytes(all), first.fetched() / 1024.0);
    for time in [first.cutting, first.hashing, first.compressing] {
        print!(" {:>8.0}", rate(first.bytes, time));
    }
    println!();
    let names = ["first", "changed", "aged", "moved", "other"];
    for (which, added) in names.iter().zip(images) {
        let stored = megabytes(added.total());
        println!("figure: chunking_{name}_{which} {stored:.1} MB (target none)");
    }
}

fn image(store: &mut Store, disk: &Disk) -> Added {
    let mut added = Added::default();
    disk.spans(store.span(), |span| store.add(span, &mut added));
    added
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn rate(bytes: u64, time: Duration) -> f64 {
    megabytes(bytes) / time.as_secs_f64().max(1e-9)
}
