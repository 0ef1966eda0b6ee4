#![allow(clippy::unwrap_used)]
use super::*;
use relevo_wire::{ServerId, TenantId, VaultId};

const SECRET: TenantSecret = TenantSecret::from_bytes([4; 32]);

fn scope(epoch: u64) -> Scope {
    Scope {
        vault: VaultId::from_bytes([1; 16]),
        epoch,
        tenant: TenantId::from_bytes([2; 16]),
        server: ServerId::from_bytes([3; 16]),
    }
}

fn chunk(n: u8) -> ChunkRef {
    ChunkRef {
        id: ChunkId::from_bytes([n; 32]),
        key: ChunkKey::from_bytes([n + 100; 32]),
    }
}

fn filled(path: &Path) -> Cache {
    let mut cache = Cache::open(path, &scope(1), &[SECRET]).unwrap();
    let known = KnownSpan {
        shape: 5,
        data: Some(([9; 32], chunk(2))),
    };
    let span = Fact::Span {
        disk: "sda".into(),
        span: 7,
        known,
    };
    cache.write(&[Fact::Stored(chunk(1)), span]).unwrap();
    cache
}

#[test]
fn spans_count_only_after_the_commit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.sqlite");
    let mut cache = filled(&path);
    let mut reader = cache.reader().unwrap();
    assert_eq!(reader.chunk(0, &chunk(1).key), Some(chunk(1).id));
    assert_eq!(reader.span("sda", 7), None);
    let point = PointId::random();
    assert_eq!(cache.last_image("sda"), None);
    cache.promote(point, ["sda"]).unwrap();
    assert_eq!(cache.last_image("sda"), Some(point));
    assert_eq!(cache.last_image("sdb"), None);
    let mut reader = cache.reader().unwrap();
    assert_eq!(reader.span("sda", 7).unwrap().1.leaf(), Some(chunk(2)));
    let zeros = KnownSpan {
        shape: 6,
        data: None,
    };
    let fact = Fact::Span {
        disk: "sda".into(),
        span: 7,
        known: zeros,
    };
    cache.write(&[fact]).unwrap();
    cache.promote(point, ["sda"]).unwrap();
    let mut reader = cache.reader().unwrap();
    assert_eq!(reader.span("sda", 7), Some((0, zeros)));
}

/// Guards against spans of one disk or place taken for another's, and lost ones: many are
/// read at once, and asked for in any order.
#[test]
fn spans_are_found_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut cache = filled(&dir.path().join("cache.sqlite"));
    let known = |disk: &str, span: u64| KnownSpan {
        shape: span * 2 + u64::from(disk == "sdb"),
        data: span
            .is_multiple_of(3)
            .then(|| ([span as u8; 32], chunk((span % 100) as u8))),
    };
    let there = |disk: &str, span: u64| !span.is_multiple_of(5) && (disk == "sda") == (span < 700);
    let mut facts = Vec::new();
    for disk in ["sda", "sdb"] {
        for span in (0..1000).filter(|&span| there(disk, span)) {
            facts.push(Fact::Span {
                disk: disk.into(),
                span,
                known: known(disk, span),
            });
        }
    }
    cache.write(&facts).unwrap();
    cache.promote(PointId::random(), ["sda", "sdb"]).unwrap();
    let mut reader = cache.reader().unwrap();
    // 997 is a prime: all numbers come, none after its neighbour.
    for step in [1, 997, 613] {
        for number in 0..1997 {
            let (span, disk) = (number * step % 1000, ["sda", "sdb"][number % 2]);
            let span = span as u64;
            let expected = there(disk, span).then(|| (0, known(disk, span)));
            assert_eq!(reader.span(disk, span), expected, "{disk} {span}");
        }
    }
}

/// Guards against chunks that are taken as unknown because the cache was empty at first.
#[test]
fn what_is_written_into_an_empty_cache_is_found_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.sqlite");
    let mut cache = Cache::open(&path, &scope(1), &[SECRET]).unwrap();
    let mut reader = cache.reader().unwrap();
    assert_eq!(reader.chunk(0, &chunk(9).key), None);
    cache.write(&[Fact::Stored(chunk(9))]).unwrap();
    assert_eq!(reader.chunk(0, &chunk(9).key), Some(chunk(9).id));
    cache.clear().unwrap();
    let mut reader = cache.reader().unwrap();
    assert_eq!(reader.chunk(0, &chunk(9).key), None);
    cache.write(&[Fact::Stored(chunk(9))]).unwrap();
    assert_eq!(reader.chunk(0, &chunk(9).key), Some(chunk(9).id));
    drop((cache, reader));
    let cache = Cache::open(&path, &scope(1), &[SECRET]).unwrap();
    let mut reader = cache.reader().unwrap();
    assert_eq!(reader.chunk(0, &chunk(9).key), Some(chunk(9).id));
}

/// Guards against images of old blocks: spans that a full disk kept out of the cache are those
/// of an earlier image there, and nobody may take them for the last one's.
#[test]
fn an_image_that_could_not_be_remembered_whole_is_not_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut cache = filled(&dir.path().join("cache.sqlite"));
    cache.promote(PointId::random(), ["sda"]).unwrap();
    assert!(cache.last_image("sda").is_some());
    let full = "CREATE TRIGGER full BEFORE INSERT ON staged BEGIN SELECT RAISE(FAIL, 'full'); END";
    cache.connection.execute_batch(full).unwrap();
    let (facts, mut received) = mpsc::channel(1);
    let known = KnownSpan {
        shape: 5,
        data: Some(([8; 32], chunk(3))),
    };
    let disk = "sda".into();
    let fact = Fact::Span {
        disk,
        span: 7,
        known,
    };
    facts.blocking_send(fact).unwrap();
    drop(facts);
    cache.record(&mut received, |_| {});
    cache.connection.execute_batch("DROP TRIGGER full").unwrap();
    cache.promote(PointId::random(), ["sda"]).unwrap();
    assert_eq!(cache.last_image("sda"), None);
}

/// Guards what was stored before a rotation: it counts while its secret is carried, not longer.
#[test]
fn rows_of_an_earlier_secret_count_while_it_is_carried() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.sqlite");
    filled(&path).promote(PointId::random(), ["sda"]).unwrap();
    let new = TenantSecret::from_bytes([5; 32]);
    let cache = Cache::open(&path, &scope(1), &[new.clone(), SECRET]).unwrap();
    let mut reader = cache.reader().unwrap();
    assert_eq!(reader.chunk(0, &chunk(1).key), None);
    assert_eq!(reader.chunk(1, &chunk(1).key), Some(chunk(1).id));
    assert_eq!(reader.span("sda", 7).unwrap().0, 1);
    let cache = Cache::open(&path, &scope(1), &[new]).unwrap();
    assert_eq!(cache.reader().unwrap().span("sda", 7), None);
}

/// Guards against believing what another vault or an earlier epoch had.
#[test]
fn another_scope_starts_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.sqlite");
    drop(filled(&path));
    let cache = Cache::open(&path, &scope(2), &[SECRET]).unwrap();
    assert_eq!(cache.reader().unwrap().chunk(0, &chunk(1).key), None);
}

/// Guards against images that point at the wrong chunk because a cache's disk rotted.
#[test]
fn damaged_rows_and_files_are_misses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.sqlite");
    let mut cache = filled(&path);
    cache.promote(PointId::random(), ["sda"]).unwrap();
    let change = "UPDATE chunks SET id = zeroblob(32); UPDATE spans SET key = zeroblob(32);";
    cache.connection.execute_batch(change).unwrap();
    let mut reader = cache.reader().unwrap();
    assert_eq!(reader.chunk(0, &chunk(1).key), None);
    assert_eq!(reader.span("sda", 7), None);
    drop((cache, reader));
    std::fs::write(&path, vec![0x5a; 8192]).unwrap();
    assert_eq!(filled(&path).reader().unwrap().span("sda", 7), None);
    // Damage that only a lookup meets must not be met again by every later run.
    let cache = filled(&path);
    cache.connection.execute_batch("DROP TABLE chunks").unwrap();
    assert_eq!(cache.reader().unwrap().chunk(0, &chunk(1).key), None);
    drop(cache);
    assert!(!path.exists());
    let cache = Cache::open(&path, &scope(1), &[SECRET]).unwrap();
    assert_eq!(cache.reader().unwrap().chunk(0, &chunk(1).key), None);
}
