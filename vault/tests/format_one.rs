//! A vault as the first release left it: opened, read whole, and made one of this release's.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use support::{json, stderr, vault};

/// Guards whoever updates: nothing of an earlier release's vault may be lost, and the earlier
/// release must not be let at it afterwards.
#[test]
fn a_vault_of_the_first_format_opens_whole_and_is_rewritten_when_served() {
    let keep = tempfile::tempdir().unwrap();
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/fixtures/vault-format-1.tar.zst"
    );
    let unpacked = Command::new("tar")
        .args(["--zstd", "--no-same-owner", "-xf", fixture, "-C"])
        .arg(keep.path())
        .output()
        .unwrap();
    assert!(unpacked.status.success(), "{}", stderr(&unpacked));
    let dir = keep.path().join("vault");
    let format = || {
        let text = std::fs::read_to_string(dir.join("vault.toml")).unwrap();
        let table: toml::Table = text.parse().unwrap();
        table["format"].as_integer().unwrap()
    };
    assert_eq!(format(), 1);
    // Its catalogue is the first release's too.
    std::fs::rename(
        dir.join("fix-catalogue.sqlite"),
        dir.join("catalogue.sqlite"),
    )
    .unwrap();
    let verified = vault(&dir, &["verify", "--json"]);
    assert!(verified.status.success(), "{}", stderr(&verified));
    assert_eq!(json(&verified)["points"], 2);
    assert_eq!(json(&verified)["intact"], true);
    assert_eq!(format(), 1, "who only reads leaves it as it is");

    let collected = vault(&dir, &["collect", "--json"]);
    assert!(collected.status.success(), "{}", stderr(&collected));
    assert_eq!(json(&collected)["chunks_removed"], 0);
    assert!(
        stderr(&collected).contains("format is 2 now"),
        "{}",
        stderr(&collected)
    );
    assert_eq!(format(), 2);
    let again = vault(&dir, &["verify", "--json"]);
    assert_eq!(json(&again)["points"], 2);
    assert_eq!(json(&again)["intact"], true);

    let text = std::fs::read_to_string(dir.join("vault.toml")).unwrap();
    std::fs::write(
        dir.join("vault.toml"),
        text.replace("format = 2", "format = 3"),
    )
    .unwrap();
    let refused = vault(&dir, &["verify"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("format 3"),
        "{}",
        stderr(&refused)
    );
    assert!(stderr(&refused).contains("remedy: update relevo-vault"));
}
