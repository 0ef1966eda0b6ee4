use relevo_wire::client::VaultConnection;
use relevo_wire::message::{RefusalCode, Request, Response};

use crate::code;
use crate::support::*;

fn settings(dir: &std::path::Path, text: &str) {
    let new = dir.join("settings.toml.new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, dir.join("settings.toml")).unwrap();
}

fn packs_length(dir: &std::path::Path) -> u64 {
    packs(dir)
        .iter()
        .map(|pack| pack.metadata().unwrap().len())
        .sum()
}

/// Guards other tenants' room: what is over the quota is refused before a byte of it is stored,
/// in words that say what to do, and reading goes on.
#[tokio::test]
async fn what_is_over_the_quota_is_refused_before_anything_is_stored() {
    let lab = Lab::start().await;
    let agent = VaultConnection::connect(&lab.agent).await.unwrap();
    let first = image(&lab.keys, server_of(&lab.agent), 1, 4);
    back_up(&agent, &first).await;
    settings(&lab.dir, "[quota]\nstored = \"100 KiB\"\n");
    let before = packs_length(&lab.dir);
    let second = image(&lab.keys, server_of(&lab.agent), 2, 4);
    let upload = session(&agent).await;
    let refused = agent.put(upload, &second.chunks).await.unwrap_err();
    assert_eq!(code(&refused), RefusalCode::Quota);
    assert!(refused.to_string().contains("100 KiB"), "{refused}");
    assert!(refused.remedy().contains("[quota]"), "{}", refused.remedy());
    assert_eq!(packs_length(&lab.dir), before);
    // What is there is read, and what needs no room is done.
    let site = VaultConnection::connect(&lab.site).await.unwrap();
    read_back(&site, &first).await;
    // More room: the same upload goes on.
    settings(&lab.dir, "[quota]\nstored = \"100 MiB\"\n");
    agent.put(upload, &second.chunks).await.unwrap();
    let committed = commit(&agent, upload, &second).await.unwrap();
    assert!(
        matches!(committed, Response::Committed { .. }),
        "{committed:?}"
    );
    // One put that alone is over what is left.
    let left = packs_length(&lab.dir) + 300_000;
    settings(&lab.dir, &format!("[quota]\nstored = \"{left}\"\n"));
    let third = image(&lab.keys, server_of(&lab.agent), 3, 4);
    let refused = agent
        .put(upload_of(&agent).await, &third.chunks)
        .await
        .unwrap_err();
    assert_eq!(code(&refused), RefusalCode::Quota);
    assert!(packs_length(&lab.dir) <= left);
}

async fn upload_of(agent: &VaultConnection) -> relevo_wire::SessionId {
    session(agent).await
}

/// Guards the rate: it slows, and refuses nothing.
#[tokio::test]
async fn a_rate_slows_an_upload_and_refuses_nothing() {
    let lab = Lab::start().await;
    settings(&lab.dir, "[quota]\nrate = \"2 MiB/s\"\n");
    let agent = VaultConnection::connect(&lab.agent).await.unwrap();
    let image = image(&lab.keys, server_of(&lab.agent), 1, 16);
    assert!(matches!(
        back_up(&agent, &image).await,
        Response::Committed { .. }
    ));
    let status = json(&vault(&lab.dir, &["status", "--json"]));
    let family = |name: &str| {
        let families = status.as_array().unwrap();
        let found = families.iter().find(|f| f["name"] == name);
        found.unwrap()["values"][0]["value"].as_f64().unwrap()
    };
    let sent: usize = image.chunks.iter().map(|chunk| chunk.bytes().len()).sum();
    assert!(family("relevo_vault_received_bytes_total") >= sent as f64);
    assert!(family("relevo_vault_throttled_seconds_total") > 0.5);
    agent.request(&Request::OpenSession).await.unwrap();
}
