//! Kills, full disks, flipped bits and lost catalogues, with a real vault process.
#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::FileExt;
use std::path::Path;

use relevo_wire::client::{ClientError, VaultConnection};
use relevo_wire::key::OpeningKeys;
use relevo_wire::message::{RefusalCode, Request, Response};
use support::*;

async fn points(reader: &VaultConnection, image: &Image) -> Vec<relevo_wire::PointId> {
    let server = image.public.server;
    match reader
        .request(&Request::ListPoints {
            server,
            after: None,
        })
        .await
        .unwrap()
    {
        Response::Points(points) => points.iter().map(|p| p.manifest.point).collect(),
        other => panic!("{other:?}"),
    }
}

/// Guards the promise that what was acknowledged survives a process killed at any moment.
#[tokio::test(flavor = "multi_thread")]
async fn killed_during_uploads_it_keeps_what_it_acknowledged() {
    let Lab {
        _keep,
        dir,
        keys,
        serving,
        agent,
        site,
    } = Lab::start().await;
    serving.stop();
    let server = server_of(&agent);
    let (mut acknowledged, mut committed) = (Vec::new(), Vec::new());
    for round in 0..6u64 {
        let serving = Serving::start(&dir);
        let vault = VaultConnection::connect(&moved(agent.clone(), &serving.address))
            .await
            .unwrap();
        // One image whole, then the kill falls into the second after some acknowledgements.
        let first = image(&keys, server, 100 + round, 4);
        assert!(matches!(
            back_up(&vault, &first).await,
            Response::Committed { .. }
        ));
        committed.push(first);
        let second = image(&keys, server, 200 + round, 24);
        let upload = session(&vault).await;
        let (acks, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let uploader = {
            let (vault, chunks) = (vault.clone(), second.chunks.clone());
            tokio::spawn(async move {
                for part in chunks.chunks(4) {
                    if vault.put(upload, part).await.is_err() {
                        break;
                    }
                    acks.send(part.iter().map(|c| c.id()).collect::<Vec<_>>())
                        .unwrap();
                }
            })
        };
        for _ in 0..=2 * round {
            acknowledged.extend(seen.recv().await.unwrap());
        }
        serving.kill();
        uploader.abort();
        while let Some(ids) = seen.recv().await {
            acknowledged.extend(ids);
        }
    }
    let verified = vault(&dir, &["verify", "--json"]);
    assert!(verified.status.success(), "{}", stderr(&verified));
    assert_eq!(json(&verified)["points"], committed.len());

    let serving = Serving::start(&dir);
    let reader = VaultConnection::connect(&moved(site, &serving.address))
        .await
        .unwrap();
    for image in &committed {
        read_back(&reader, image).await;
    }
    assert_eq!(points(&reader, &committed[0]).await.len(), committed.len());
    for ids in acknowledged.chunks(1000) {
        let mut stream = reader.get(ids.to_vec()).await.unwrap();
        while let Some(chunk) = stream.next().await {
            chunk.expect("an acknowledged chunk is there");
        }
    }
}

/// Guards the minutes of an outage: who was connected learns of a restart at his next packet,
/// not after 30 s of silence, and for a passing reason.
#[tokio::test]
async fn a_vault_started_anew_tells_its_former_peers() {
    let (_keep, dir) = new_vault();
    let keys = OpeningKeys::generate().unwrap();
    let serving = Serving::start(&dir);
    let address = serving.address.clone();
    let agent = enroll(&dir, &address, "agent", &keys).await;
    let client = VaultConnection::connect(&agent).await.unwrap();
    serving.kill();
    let _serving = Serving::start_at(&dir, &address);
    let gone = client.closed().await;
    assert!(gone.to_string().contains("started anew"), "{gone}");
    assert!(gone.is_transient());
    VaultConnection::connect(&agent).await.unwrap();
}

/// Flips the bit in the middle of a file's range.
fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

/// Guards against silent rot, and the way back: found, named, healed by the next backup.
#[tokio::test]
async fn a_flipped_bit_is_found_named_and_healed_by_a_backup() {
    let Lab {
        _keep,
        dir,
        keys,
        serving: _serving,
        agent,
        site,
    } = Lab::start().await;
    let image = image(&keys, server_of(&agent), 3, 3);
    let client = VaultConnection::connect(&agent).await.unwrap();
    back_up(&client, &image).await;
    let epoch = client.welcome().epoch;

    // Beside the vault that serves: intact, and the time is noted.
    let verified = vault(&dir, &["verify", "--json"]);
    assert!(verified.status.success(), "{}", stderr(&verified));
    assert_eq!(json(&verified)["points"], 1);
    let images = json(&vault(&dir, &["images", "--json"]));
    assert!(images[0]["verified"].is_string(), "{images}");
    assert_eq!(images[0]["name"], "agent");

    let pack = &packs(&dir)[0];
    let whole = std::fs::metadata(pack).unwrap().len();
    flip(pack, whole / 2);
    let damaged = vault(&dir, &["verify", "--json"]);
    assert_eq!(damaged.status.code(), Some(1));
    let report = json(&damaged);
    let damage = &report["damage"][0];
    let (offset, length) = (
        damage["offset"].as_u64().unwrap(),
        damage["length"].as_u64().unwrap(),
    );
    assert!((offset..offset + length).contains(&(whole / 2)), "{report}");
    let chunk = damage["chunks"][0].as_str().unwrap();
    assert!(
        image.chunks.iter().any(|c| c.id().to_string() == chunk),
        "{report}"
    );
    assert_eq!(report["hit"][0]["point"], image.public.point.to_string());
    assert_eq!(report["hit"][0]["name"], "agent");
    assert!(
        String::from_utf8_lossy(&vault(&dir, &["verify"]).stdout)
            .contains("not whole: server 'agent'")
    );

    // The agent learns by the epoch that its memory is worth nothing, and sends it again.
    let client = VaultConnection::connect(&agent).await.unwrap();
    assert_ne!(client.welcome().epoch, epoch);
    let upload = session(&client).await;
    assert!(client.put(upload, &image.chunks).await.unwrap() > 0);
    let healed = vault(&dir, &["verify", "--json"]);
    assert!(healed.status.success(), "{}", json(&healed));
    assert_eq!(json(&healed)["points"], 1);
    assert_eq!(json(&healed)["notices"].as_array().unwrap().len(), 1);
    let reader = VaultConnection::connect(&site).await.unwrap();
    read_back(&reader, &image).await;
}

/// Guards the packs as the whole truth.
#[tokio::test]
async fn without_its_catalogue_a_vault_shows_the_same_points() {
    let Lab {
        _keep,
        dir,
        keys,
        serving,
        agent,
        site,
    } = Lab::start().await;
    let client = VaultConnection::connect(&agent).await.unwrap();
    let images = [1, 2].map(|seed| image(&keys, server_of(&agent), seed, 2));
    for image in &images {
        back_up(&client, image).await;
    }
    let waiting = token(&dir, "agent", &[]);
    let busy = vault(&dir, &["rebuild"]);
    assert_eq!(
        busy.status.code(),
        Some(1),
        "not beside a vault that serves"
    );
    serving.stop();
    let before = vault(&dir, &["images", "--json"]).stdout;

    let rebuilt = vault(&dir, &["rebuild", "--json"]);
    assert!(rebuilt.status.success(), "{}", stderr(&rebuilt));
    assert_eq!(json(&rebuilt)["points"], 2);
    assert_eq!(vault(&dir, &["images", "--json"]).stdout, before);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.join(format!("catalogue.sqlite{suffix}")));
    }
    assert_eq!(vault(&dir, &["images", "--json"]).stdout, before);

    // Enrolled peers go on; a token that waited went with the catalogue.
    let serving = Serving::start(&dir);
    let reader = VaultConnection::connect(&moved(site, &serving.address))
        .await
        .unwrap();
    for image in &images {
        read_back(&reader, image).await;
    }
    match reader.request(&Request::ListServers).await.unwrap() {
        Response::Servers(servers) => {
            assert_eq!((servers[0].name.as_str(), servers[0].points), ("agent", 2));
        }
        other => panic!("{other:?}"),
    }
    let tenant = keys.sealing.tenant;
    let lost = relevo_wire::client::enroll(&serving.address, &waiting, "late", tenant).await;
    assert!(matches!(lost, Err(ClientError::Refused(r)) if r.code == RefusalCode::Token));
}

/// Mounts a small file system; unmounted when dropped.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: &Path, bytes: u64) -> Result<Self, String> {
        let options = format!("size={bytes}");
        let done = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(at)
            .output()
            .map_err(|e| e.to_string())?;
        match done.status.success() {
            true => Ok(Self(at.into())),
            false => Err(stderr(&done)),
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

/// Guards what was acknowledged, and the vault's life, when its disk fills up.
#[tokio::test]
async fn a_full_disk_is_refused_in_words_and_room_lets_it_go_on() {
    let parent = tempfile::tempdir().unwrap();
    let mount = parent.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let _mounted = match Small::mount(&mount, 24 << 20) {
        Ok(mounted) => mounted,
        Err(reason) => {
            eprintln!("skipped: a small file system needs root: {reason}");
            return;
        }
    };
    let dir = mount.join("vault");
    assert!(vault(&dir, &["init"]).status.success());
    let keys = OpeningKeys::generate().unwrap();
    let serving = Serving::start(&dir);
    let agent = enroll(&dir, &serving.address, "agent", &keys).await;
    let site = enroll(&dir, &serving.address, "recovery", &keys).await;
    let client = VaultConnection::connect(&agent).await.unwrap();
    let reader = VaultConnection::connect(&site).await.unwrap();
    let kept = image(&keys, server_of(&agent), 1, 8);
    back_up(&client, &kept).await;
    // Fill it from outside, so that room can be given back.
    let ballast = mount.join("ballast");
    std::fs::write(&ballast, vec![1; 10 << 20]).unwrap();

    let large = image(&keys, server_of(&agent), 2, 48);
    let upload = session(&client).await;
    let refused = client.put(upload, &large.chunks).await.unwrap_err();
    match &refused {
        ClientError::Refused(refusal) => assert_eq!(refusal.code, RefusalCode::Full),
        other => panic!("{other}"),
    }
    assert!(
        refused.remedy().contains("more room"),
        "{}",
        refused.remedy()
    );
    read_back(&reader, &kept).await;

    std::fs::remove_file(&ballast).unwrap();
    let small = image(&keys, server_of(&agent), 3, 4);
    let committed = back_up(&client, &small).await;
    assert!(
        matches!(committed, Response::Committed { .. }),
        "{committed:?}"
    );
    read_back(&reader, &small).await;
    assert_eq!(points(&reader, &small).await.len(), 2);
    serving.stop();
    let verified = vault(&dir, &["verify", "--json"]);
    assert!(verified.status.success(), "{}", json(&verified));
}
