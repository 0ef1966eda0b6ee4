//! How fast the vault takes and gives, for people to read: `cargo test -p relevo-vault --test
//! throughput -- --ignored --nocapture`. Measures; asserts no rate.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Instant;

use relevo_vault::record::Record;
use relevo_vault::store::Store;
use relevo_vault::volume::DiskVolume;
use relevo_wire::chunk::CheckedChunk;
use relevo_wire::client::VaultConnection;
use relevo_wire::key::OpeningKeys;
use relevo_wire::{TenantId, VaultId};
use support::*;

const CHUNK: usize = 64 * 1024;

fn rate(what: &str, bytes: usize, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    println!(
        "{what}: {:.0} MB/s ({} MB in {seconds:.2} s)",
        bytes as f64 / 1e6 / seconds,
        bytes / 1_000_000
    );
}

#[test]
#[ignore = "a measurement"]
fn store_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("packs")).unwrap();
    let volume = Arc::new(DiskVolume::new(dir.path().join("packs")));
    let catalogue = dir.path().join("catalogue.sqlite");
    let (store, _) = Store::open(volume, VaultId::random(), &catalogue).unwrap();
    let tenant = TenantId::random();
    let puts: Vec<Vec<Record>> = (0..96u64)
        .map(|put| {
            let chunk = |i| Record::Chunk(CheckedChunk::of(noise(put << 8 | i, CHUNK).into()));
            (0..64).map(chunk).collect()
        })
        .collect();
    let (bytes, since) = (96 * 64 * CHUNK, Instant::now());
    std::thread::scope(|scope| {
        for worker in puts.chunks(12) {
            let store = &store;
            scope.spawn(move || {
                for put in worker {
                    store.append_blocking(tenant, put.clone()).unwrap();
                }
            });
        }
    });
    rate("store alone, 8 writers", bytes, since);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn over_quic() {
    let (_keep, dir) = new_vault();
    let keys = OpeningKeys::generate().unwrap();
    let serving = Serving::start(&dir);
    let agent = enroll(&dir, &serving.address, "agent", &keys).await;
    let site = enroll(&dir, &serving.address, "recovery", &keys).await;
    let image = image(&keys, server_of(&agent), 1, 1536);
    let vault = VaultConnection::connect(&agent).await.unwrap();
    let upload = session(&vault).await;
    let bytes = image.chunks.iter().map(|c| c.bytes().len()).sum();

    let since = Instant::now();
    let mut under_way = tokio::task::JoinSet::new();
    for part in image.chunks.chunks(64) {
        if under_way.len() >= 8 {
            under_way.join_next().await.unwrap().unwrap();
        }
        let (vault, part) = (vault.clone(), part.to_vec());
        under_way.spawn(async move {
            vault.put(upload, &part).await.unwrap();
        });
    }
    under_way.join_all().await;
    rate("ingest over QUIC", bytes, since);
    let since = Instant::now();
    commit(&vault, upload, &image).await.unwrap();
    println!("first commit, {} nodes: {:?}", 1537 + 13, since.elapsed());

    let reader = VaultConnection::connect(&site).await.unwrap();
    let since = Instant::now();
    let ids: Vec<_> = image
        .data
        .iter()
        .map(|(reference, _)| reference.id)
        .collect();
    let mut bytes = 0;
    for ids in ids.chunks(1024) {
        let mut stream = reader.get(ids.to_vec()).await.unwrap();
        while let Some(chunk) = stream.next().await {
            bytes += chunk.unwrap().bytes().len();
        }
    }
    rate("read over QUIC, one stream", bytes, since);
    let since = Instant::now();
    assert!(verified(&dir));
    rate("verify", bytes, since);
}

fn verified(dir: &std::path::Path) -> bool {
    support::vault(dir, &["verify"]).status.success()
}
