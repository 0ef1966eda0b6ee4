//! How the chunk index takes, finds and opens 1, 10 and 100 million chunks: `make bench-index`.
//!
//! Each size runs in a process of its own, so that peak memory is its own. 1 M and 10 M go
//! through the catalogue, batch by batch as uploads do: 64 data chunks, then the node that
//! refers to them. Beside it the same rows go into a plain SQLite table. Larger ones go into
//! segments directly, settled and merged by the same rules. `CHUNKS=1M,10M,100M` chooses the
//! sizes, `DIR` where the files go.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use relevo_vault::catalogue::{Catalogue, Placed};
use relevo_vault::index::{
    Change, Layers, Place, Segment, SegmentWriter, Spot, State, merge, run_to_merge,
};
use relevo_vault::record::{ChunkKind, Record};
use relevo_vault::volume::PackId;
use relevo_wire::chunk::CheckedChunk;
use relevo_wire::{ChunkId, TenantId};

/// Data chunks below one node.
const FANOUT: u64 = 64;
/// Chunks of one transaction: what the writer gathers into 64 MiB.
const BATCH: u64 = 16 * FANOUT;
/// Ids asked at once.
const ASKED: u64 = 1024;
/// Stored bytes of a chunk.
const STORED: u64 = 64 * 1024;
const SETTLED: u64 = 256 * 1024;
const TENANT: TenantId = TenantId::from_bytes([7; 16]);

fn main() {
    if let Ok(size) = std::env::var("INDEX_BENCH_CHUNKS") {
        let chunks: u64 = size.parse().unwrap();
        let dir = std::env::var("INDEX_BENCH_DIR").unwrap();
        match std::env::var("INDEX_BENCH_PART").as_deref() {
            Ok("catalogue") => through_catalogue(Path::new(&dir), chunks),
            Ok("segments") => through_segments(Path::new(&dir), chunks),
            _ => through_sqlite(Path::new(&dir), chunks),
        }
        return;
    }
    let sizes = std::env::var("CHUNKS").unwrap_or_else(|_| "1M,10M".into());
    let parent = std::env::var_os("DIR").map_or_else(std::env::temp_dir, Into::into);
    for size in sizes.split(',').map(str::trim) {
        let millions: u64 = size
            .trim_end_matches('M')
            .parse()
            .expect("CHUNKS=1M,10M,100M");
        let chunks = millions * 1_000_000;
        let (part, peer) = match millions {
            ..=10 => ("catalogue", run("sqlite", chunks, &parent)),
            _ => ("segments", Measured::default()),
        };
        let own = run(part, chunks, &parent);
        println!(
            "index of {size} chunks, through {part}; {} segments",
            own.get("segments").unwrap_or(0.0)
        );
        let memory = 256.0 + 3.0 * millions as f64;
        for (name, unit, target, at_least) in [
            ("ingest", "chunks/s", 20_000.0, true),
            ("present", "ids/s", 100_000.0, true),
            ("absent", "ids/s", 500_000.0, true),
            ("open", "s", 5.0, false),
            ("peak-memory", "MiB", memory, false),
            ("disk", "bytes/chunk", 64.0, false),
        ] {
            let value = own.get(name).unwrap();
            let met = match (value >= target) == at_least || value == target {
                true => "met",
                false => "missed",
            };
            let sign = if at_least { "≥" } else { "≤" };
            let peer = peer
                .get(name)
                .map(|value| format!("; peer sqlite {value:.2}"));
            println!(
                "figure: index-{size}-{name} {value:.2} {unit} (target {sign} {target}, {met}{})",
                peer.unwrap_or_default()
            );
        }
    }
}

/// What a process printed: `name value` in lines.
#[derive(Default)]
struct Measured(String);

impl Measured {
    fn get(&self, name: &str) -> Option<f64> {
        let line = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }
}

fn run(part: &str, chunks: u64, parent: &Path) -> Measured {
    let dir = tempfile::tempdir_in(parent).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .env("INDEX_BENCH_CHUNKS", chunks.to_string())
        .env("INDEX_BENCH_PART", part)
        .env("INDEX_BENCH_DIR", dir.path())
        .stderr(std::process::Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{part} failed");
    Measured(String::from_utf8(output.stdout).unwrap())
}

fn report(name: &str, value: f64) {
    println!("{name} {value}");
}

fn per_second(count: u64, since: Instant) -> f64 {
    count as f64 / since.elapsed().as_secs_f64()
}

fn chunk(n: u64) -> CheckedChunk {
    CheckedChunk::of([&[1][..], &n.to_le_bytes()].concat().into())
}

fn id(n: u64) -> ChunkId {
    ChunkId::of(&[&[1][..], &n.to_le_bytes()].concat())
}

/// A node, as far as a vault sees it.
fn node(children: &[ChunkId]) -> CheckedChunk {
    let mut bytes = vec![2, 0];
    bytes.extend_from_slice(&(children.len() as u16).to_le_bytes());
    children
        .iter()
        .for_each(|id| bytes.extend_from_slice(id.as_bytes()));
    CheckedChunk::of(bytes.into())
}

fn spot(n: u64) -> Spot {
    Spot {
        pack: 1 + (n / BATCH) as u32,
        offset: 8192 + n % BATCH * (STORED + 64),
        length: STORED as u32,
        kind: ChunkKind::Data,
    }
}

/// Ids in no order, `ASKED` at a time, for five seconds.
fn ask(name: &str, range: std::ops::Range<u64>, mut look: impl FnMut(&[ChunkId]) -> usize) {
    let mut n = 0u64;
    let mut ids = || -> Vec<ChunkId> {
        let mut next = || {
            n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
            range.start + ((u128::from(n) * u128::from(range.end - range.start)) >> 64) as u64
        };
        (0..ASKED).map(|_| id(next())).collect()
    };
    let expected = if name == "present" { ASKED as usize } else { 0 };
    let (mut asked, mut spent) = (0, Duration::ZERO);
    while spent < Duration::from_secs(5) {
        let ids = ids();
        let since = Instant::now();
        assert_eq!(look(&ids), expected);
        spent += since.elapsed();
        asked += ASKED;
    }
    report(name, asked as f64 / spent.as_secs_f64());
}

fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib / 1024.0
}

fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let bytes = entries.map(|entry| match entry.metadata().unwrap() {
        data if data.is_dir() => bytes_below(&entry.path()),
        data => data.len(),
    });
    bytes.sum()
}

fn through_catalogue(dir: &Path, chunks: u64) {
    let path = dir.join("catalogue.sqlite");
    let (catalogue, _) = Catalogue::open(&path).unwrap();
    catalogue.start_writing().unwrap();
    let since = Instant::now();
    for first in (0..chunks).step_by(BATCH as usize) {
        let mut records = Vec::new();
        for below in (first..first + BATCH).step_by(FANOUT as usize) {
            let data: Vec<CheckedChunk> = (below..below + FANOUT).map(chunk).collect();
            let ids: Vec<ChunkId> = data.iter().map(CheckedChunk::id).collect();
            records.extend(data.into_iter().map(Record::Chunk));
            records.push(Record::Chunk(node(&ids)));
        }
        let number = spot(first).pack;
        let pack = PackId {
            tenant: TENANT,
            number,
        };
        let placed: Vec<Placed> = records
            .iter()
            .zip(0..)
            .map(|(record, at)| Placed {
                offset: 8192 + at * (STORED + 64),
                record,
            })
            .collect();
        let take = catalogue.transaction(|c| c.take(pack, 1 << 30, &placed));
        take.unwrap();
    }
    report("ingest", per_second(chunks, since));
    while run_to_merge(&catalogue.segment_records(TENANT).unwrap()) > 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    catalogue.checkpoint();
    report(
        "segments",
        catalogue.segment_records(TENANT).unwrap().len() as f64,
    );
    drop(catalogue);
    let since = Instant::now();
    let (catalogue, _) = Catalogue::open(&path).unwrap();
    catalogue.start_writing().unwrap();
    report("open", since.elapsed().as_secs_f64());
    let found = |ids: &[ChunkId]| {
        catalogue
            .locate(TENANT, ids)
            .unwrap()
            .iter()
            .flatten()
            .count()
    };
    ask("present", 0..chunks, found);
    ask("absent", 1 << 40..1 << 41, found);
    report("disk", bytes_below(dir) as f64 / chunks as f64);
    report("peak-memory", peak_memory());
}

fn through_segments(dir: &Path, chunks: u64) {
    let mut layers = Layers::default();
    let mut number = 0;
    let since = Instant::now();
    for first in (0..chunks).step_by(SETTLED as usize) {
        let mut changes: Vec<Change> = (first..(first + SETTLED).min(chunks))
            .map(|n| Change {
                id: id(n),
                place: Place::At(spot(n)),
                refs: 1,
            })
            .collect();
        changes.sort_unstable_by_key(|change| change.id);
        number += 1;
        let mut writer = SegmentWriter::create(dir, TENANT, number).unwrap();
        changes
            .iter()
            .for_each(|change| writer.push(change).unwrap());
        layers.0.insert(0, Arc::new(writer.finish().unwrap()));
        let records: Vec<u64> = layers.0.iter().map(|segment| segment.records()).collect();
        let run = run_to_merge(&records);
        if run > 0 {
            number += 1;
            let (merged, oldest) = (&layers.0[..run], run == layers.0.len());
            let go_on = AtomicBool::new(false);
            let made = merge(dir, TENANT, number, merged, oldest, &go_on).unwrap();
            for old in layers.0.splice(..run, made.map(Arc::new)) {
                std::fs::remove_file(old.path()).unwrap();
            }
        }
    }
    report("ingest", per_second(chunks, since));
    report("segments", layers.0.len() as f64);
    let numbers: Vec<u64> = layers.0.iter().map(|segment| segment.number()).collect();
    drop(layers);
    let since = Instant::now();
    let open = |&number: &u64| Arc::new(Segment::open(dir, TENANT, number).unwrap());
    let layers = Layers(numbers.iter().map(open).collect());
    report("open", since.elapsed().as_secs_f64());
    let found = |ids: &[ChunkId]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        let mut states = vec![State::default(); ids.len()];
        layers.place(&ids, &mut states).unwrap();
        states.iter().filter_map(State::spot).count()
    };
    ask("present", 0..chunks, found);
    ask("absent", 1 << 40..1 << 41, found);
    report("disk", bytes_below(dir) as f64 / chunks as f64);
    report("peak-memory", peak_memory());
}

fn through_sqlite(dir: &Path, chunks: u64) {
    let path = dir.join("plain.sqlite");
    let open = || {
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             PRAGMA wal_autocheckpoint = 8000; PRAGMA cache_size = -65536;
             CREATE TABLE IF NOT EXISTS chunks (
                 id BLOB PRIMARY KEY, pack INTEGER NOT NULL, offset INTEGER NOT NULL,
                 length INTEGER NOT NULL, kind INTEGER NOT NULL, refs INTEGER NOT NULL)
                 WITHOUT ROWID;",
        )
        .unwrap();
        db
    };
    let db = open();
    let since = Instant::now();
    for first in (0..chunks).step_by(BATCH as usize) {
        db.execute_batch("BEGIN").unwrap();
        for n in first..first + BATCH {
            let (id, spot) = (id(n), spot(n));
            let row = rusqlite::params![id.as_bytes(), spot.pack, spot.offset as i64, spot.length];
            db.prepare_cached("INSERT INTO chunks VALUES (?1, ?2, ?3, ?4, 0, 1)")
                .unwrap()
                .execute(row)
                .unwrap();
        }
        db.execute_batch("COMMIT").unwrap();
    }
    report("ingest", per_second(chunks, since));
    db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(db);
    let since = Instant::now();
    let db = open();
    report("open", since.elapsed().as_secs_f64());
    let found = |ids: &[ChunkId]| {
        let mut query = db
            .prepare_cached("SELECT pack FROM chunks WHERE id = ?1")
            .unwrap();
        let there = ids
            .iter()
            .filter(|id| query.exists([id.as_bytes()]).unwrap());
        there.count()
    };
    ask("present", 0..chunks, found);
    ask("absent", 1 << 40..1 << 41, found);
    report("disk", bytes_below(dir) as f64 / chunks as f64);
    report("peak-memory", peak_memory());
}
