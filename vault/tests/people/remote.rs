use std::path::Path;
use std::process::{Command, Output};

use relevo_wire::client::VaultConnection;

use crate::support::*;

fn remote(state: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(BIN);
    command
        .arg("remote")
        .args(arguments)
        .arg("--state")
        .arg(state);
    command.output().unwrap()
}

fn done(output: Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", stderr(&output));
    json(&output)
}

/// Guards the work of people from afar: enrol, look, hold, delete, let in, revoke.
#[tokio::test]
async fn people_look_after_a_vault_from_afar() {
    let lab = Lab::start().await;
    let agent = VaultConnection::connect(&lab.agent).await.unwrap();
    let server = server_of(&lab.agent);
    let old = image(&lab.keys, server, 1, 1);
    back_up(&agent, &old).await;
    back_up(&agent, &image(&lab.keys, server, 2, 1)).await;
    let state = tempfile::tempdir().unwrap();
    let enroll = |role: &str, name: &str| {
        let token = token(&lab.dir, role, &[]).to_string();
        let dir = state.path().join(name);
        let arguments = [
            "enroll",
            "--vault",
            &lab.serving.address,
            "--token",
            &token,
            "--name",
            name,
            "--json",
        ];
        (remote(&dir, &arguments), dir)
    };
    let (enrolled, anna) = enroll("administrator", "anna");
    let identity = done(enrolled)["identity"].as_str().unwrap().to_string();
    assert!(identity.starts_with("relevo:administrator/"), "{identity}");
    let (enrolled, otto) = enroll("operator", "otto");
    done(enrolled);

    let servers = done(remote(&otto, &["servers", "--json"]));
    assert_eq!(servers[0]["points"], 2);
    let points = done(remote(&otto, &["points", &lab.agent.name, "--json"]));
    assert_eq!(points.as_array().unwrap().len(), 2);
    let oldest = points[1]["point"].as_str().unwrap();
    let name = lab.agent.name.as_str();
    done(remote(
        &otto,
        &["hold", name, &oldest[..8], "--reason", "court", "--json"],
    ));
    let report = done(remote(&otto, &["report", "--json"]));
    assert_eq!((&report["held"], &report["points"]), (&1.into(), &2.into()));
    let held = remote(&anna, &["delete", name, oldest, "--reason", "x"]);
    assert_eq!(held.status.code(), Some(1));
    assert!(
        stderr(&held).contains("it is held: court"),
        "{}",
        stderr(&held)
    );
    let forbidden = remote(&otto, &["release", name, oldest, "--reason", "x"]);
    assert!(
        stderr(&forbidden).contains("ask an administrator"),
        "{}",
        stderr(&forbidden)
    );
    done(remote(
        &anna,
        &["release", name, oldest, "--reason", "over", "--json"],
    ));
    done(remote(
        &anna,
        &["delete", name, oldest, "--reason", "over", "--json"],
    ));
    let made = done(remote(&anna, &["token", "--role", "auditor", "--json"]));
    let token = made["token"].as_str().unwrap();
    let adam = state.path().join("adam");
    done(remote(
        &adam,
        &[
            "enroll",
            "--vault",
            &lab.serving.address,
            "--token",
            token,
            "--name",
            "adam",
            "--json",
        ],
    ));
    let log = done(remote(&adam, &["audit", "--json"]));
    let acts: Vec<_> = log
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["act"].as_str().unwrap())
        .collect();
    assert!(
        acts.contains(&"released") && acts.contains(&"point-deleted"),
        "{acts:?}"
    );
    done(remote(
        &anna,
        &["revoke", "otto", "--reason", "left", "--json"],
    ));
    let out = remote(&otto, &["servers"]);
    assert!(stderr(&out).contains("was revoked"), "{}", stderr(&out));
    let people = json(&vault(&lab.dir, &["people", "--json"]));
    let otto = people
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["name"] == "otto")
        .unwrap();
    assert!(otto["revoked"].is_string(), "{otto}");
}
