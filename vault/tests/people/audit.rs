use relevo_wire::client::{self, VaultConnection};
use relevo_wire::identity::Applicant;
use relevo_wire::message::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::person;
use crate::support::*;

fn entries(dir: &std::path::Path) -> Vec<serde_json::Value> {
    let listed = vault(dir, &["audit", "--json"]);
    assert!(listed.status.success(), "{}", stderr(&listed));
    let text = String::from_utf8(listed.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn acts(dir: &std::path::Path) -> Vec<String> {
    let entries = entries(dir);
    entries
        .iter()
        .map(|e| e["act"].as_str().unwrap().to_string())
        .collect()
}

/// Guards the log's promise: every privileged act is in it, by whom, and nobody changes it unseen.
#[tokio::test]
async fn privileged_acts_are_noted_and_the_packs_know_the_log() {
    let lab = Lab::start().await;
    let agent = VaultConnection::connect(&lab.agent).await.unwrap();
    let server = server_of(&lab.agent);
    let old = image(&lab.keys, server, 1, 1);
    back_up(&agent, &old).await;
    let new = image(&lab.keys, server, 2, 1);
    back_up(&agent, &new).await;
    let enrollment = person(&lab.dir, &lab.serving.address, "administrator").await;
    let administrator = VaultConnection::connect(&enrollment).await.unwrap();
    let (point, reason) = (old.public.point, || "law".to_string());
    for request in [
        Request::Hold {
            point,
            reason: reason(),
        },
        Request::Release {
            point,
            reason: reason(),
        },
        Request::DeletePoint {
            point,
            reason: reason(),
            even_latest: false,
        },
        Request::LockPoint {
            point: new.public.point,
            days: 1,
        },
        Request::Revoke {
            who: "recovery".into(),
            reason: reason(),
        },
    ] {
        administrator.request(&request).await.unwrap();
    }
    // Locked: refused, and noted.
    let locked = Request::DeletePoint {
        point: new.public.point,
        reason: reason(),
        even_latest: true,
    };
    let refused = administrator.request(&locked).await.unwrap_err();
    assert_eq!(
        crate::code(&refused),
        relevo_wire::message::RefusalCode::Kept
    );
    // A token that nobody made; asked twice, noted once.
    for _ in 0..2 {
        let mut wrong = token(&lab.dir, "agent", &[]);
        wrong.secret = [7; 32];
        let tenant = lab.keys.sealing.tenant;
        client::enroll(&lab.serving.address, &wrong, "x", tenant)
            .await
            .unwrap_err();
    }
    let found = acts(&lab.dir);
    for act in [
        "token-made",
        "enrolled",
        "held",
        "released",
        "point-deleted",
        "locked",
        "revoked",
        "authentication-failed",
    ] {
        assert!(found.iter().any(|f| f == act), "{act}: {found:?}");
    }
    let by_whom = entries(&lab.dir);
    let held = by_whom.iter().find(|e| e["act"] == "held").unwrap();
    assert_eq!(held["who"], enrollment.identity);
    let deleted: Vec<_> = by_whom
        .iter()
        .filter(|e| e["act"] == "point-deleted")
        .collect();
    assert_eq!(deleted.len(), 2);
    assert!(deleted[1]["result"].as_str().unwrap().contains("locked"));

    // A clean stop tells the packs; from then on nothing is changed unseen.
    let Lab {
        _keep,
        dir,
        serving,
        ..
    } = lab;
    serving.stop();
    let proven = vault(&dir, &["audit", "--verify", "--json"]);
    assert!(
        proven.status.success(),
        "{}",
        String::from_utf8_lossy(&proven.stdout)
    );
    let proven = json(&proven);
    assert_eq!(proven["anchored"], proven["entries"]);
    let log = dir.join("audit/00000001.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    let last = text.trim_end().rfind('\n').unwrap() + 1;
    std::fs::write(&log, &text[..last]).unwrap();
    let cut = vault(&dir, &["audit", "--verify"]);
    assert_eq!(cut.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&cut.stdout).contains("the end was cut off"));
    std::fs::write(&log, text.replace("law", "lax")).unwrap();
    let changed = vault(&dir, &["audit", "--verify"]);
    assert_eq!(changed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&changed.stdout).contains("was changed"));
}

/// Guards backups and restores against a log that cannot be read: only what must stand in it is
/// refused, before anything of it is done, and with the remedy.
#[tokio::test]
async fn without_its_log_a_vault_serves_all_that_need_not_be_noted() {
    let Lab {
        _keep,
        dir,
        keys,
        serving,
        agent,
        site,
    } = Lab::start().await;
    let administrator = person(&dir, &serving.address, "administrator").await;
    serving.stop();
    let log = dir.join("audit/00000001.jsonl");
    std::fs::rename(&log, dir.join("aside")).unwrap();
    std::fs::create_dir(&log).unwrap();
    let serving = Serving::start(&dir);
    let connect = async |who: &relevo_wire::enrollment::Enrollment| {
        let moved = moved(who.clone(), &serving.address);
        VaultConnection::connect(&moved).await.unwrap()
    };
    let image = image(&keys, server_of(&agent), 1, 1);
    back_up(&connect(&agent).await, &image).await;
    read_back(&connect(&site).await, &image).await;
    // Nobody is locked out in the end because his certificate runs out meanwhile.
    let renew = Request::Renew {
        certificate_request: Applicant::generate().unwrap().request,
    };
    connect(&agent).await.request(&renew).await.unwrap();
    let administrator = connect(&administrator).await;
    let hold = Request::Hold {
        point: image.public.point,
        reason: "law".into(),
    };
    let error = administrator.request(&hold).await.unwrap_err();
    assert!(error.to_string().contains("audit log"), "{error}");
    let by_hand = ["hold", "agent", "latest", "--reason", "law"];
    let token = ["token", "--role", "agent"];
    for command in [&by_hand[..], &token[..]] {
        let refused = vault(&dir, command);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            stderr(&refused).contains("00000001.jsonl"),
            "{}",
            stderr(&refused)
        );
        assert!(stderr(&refused).contains("bring audit/ back"));
    }
    std::fs::remove_dir(&log).unwrap();
    std::fs::rename(dir.join("aside"), &log).unwrap();
    // Nothing was held by what was refused.
    let release = ["release", "agent", "latest"];
    assert!(!vault(&dir, &release).status.success());
    administrator.request(&hold).await.unwrap();
    serving.stop();
    assert!(vault(&dir, &["audit", "--verify"]).status.success());
}

/// Guards the scraper, and that refusals are counted.
#[tokio::test]
async fn metrics_are_served_to_prometheus() {
    let (_keep, dir) = new_vault();
    let mut child = std::process::Command::new(BIN)
        .args([
            "serve",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--metrics",
            "127.0.0.1:0",
            "--dir",
        ])
        .arg(&dir)
        .env("RELEVO_LOG", "error")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let out = child.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let (address, metrics) = (
        ready["listening"].as_str().unwrap(),
        ready["metrics"].as_str().unwrap(),
    );
    let keys = relevo_wire::key::OpeningKeys::generate().unwrap();
    let agent = enroll(&dir, address, "agent", &keys).await;
    let agent = VaultConnection::connect(&agent).await.unwrap();
    agent.request(&Request::ListServers).await.unwrap_err();
    let get = async |target: &str| {
        let mut stream = tokio::net::TcpStream::connect(metrics).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = get("/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    for line in [
        "relevo_vault_requests_total{kind=\"enroll\",result=\"answered\"} 1",
        "relevo_vault_requests_total{kind=\"list_servers\",result=\"refused\"} 1",
        "relevo_vault_refusals_total{code=\"forbidden\"} 1",
        "relevo_vault_authentication_failures_total 1",
        "relevo_vault_connections 1",
    ] {
        assert!(answer.lines().any(|l| l == line), "{line}\n{answer}");
    }
    assert!(get("/").await.starts_with("HTTP/1.1 404"));
    child.kill().unwrap();
    child.wait().unwrap();
}
