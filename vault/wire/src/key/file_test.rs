#![allow(clippy::unwrap_used)]
use data_encoding::HEXLOWER as HEX;

use super::*;
use crate::key::{Passphrase, PassphraseCost, RecoveryKey, Unlock, Wrapping};

const CHEAP: PassphraseCost = PassphraseCost {
    memory_kib: 64,
    passes: 1,
    lanes: 1,
};
const FIRST: &str = "\
tenant = \"000102030405060708090a0b0c0d0e0f\"
secret = \"2222222222222222222222222222222222222222222222222222222222222222\"
public = \"8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a\"
";
/// The private key of another pair.
const PRIVATE: &str =
    "private = \"77076d0a7318a57d3c16c17251b26645d7b4e7e6a1e5d3a2b1b7c1f0e5b1e5e5\"\n";

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn key_files_read_back_and_are_not_mistaken_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut keys = OpeningKeys::generate().unwrap();
    keys.rotate(true).unwrap();
    let (opening, sealing) = (dir.path().join("o.toml"), dir.path().join("s.toml"));
    keys.write(&opening).unwrap();
    keys.sealing.write(&sealing).unwrap();
    assert!(OpeningKeys::read(&opening).unwrap().same_as(&keys));
    let read = SealingKeys::read(&sealing).unwrap();
    assert_eq!((read.public, read.generation), (keys.sealing.public, 2));
    assert!(read.previous_secrets == keys.sealing.previous_secrets);
    assert_eq!(read.previous_secrets.len(), 1);
    // The agent's file must not carry a private key, nor pass for the site's.
    assert!(!text(&sealing).contains("private"));
    assert!(OpeningKeys::read(&sealing).is_err());
    assert!(
        keys.write(&opening).is_err(),
        "an existing key file must never be replaced"
    );
    keys.rotate(false).unwrap();
    KeyFile::Open(keys.clone()).replace(&opening).unwrap();
    assert!(OpeningKeys::read(&opening).unwrap().same_as(&keys));
}

/// Guards the tenants of the first release: their files open as they are.
#[test]
fn files_of_version_1_are_read_and_newer_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.toml");
    let write = |text: String| std::fs::write(&path, text).unwrap();
    write(format!("format = \"relevo-sealing-keys/1\"\n{FIRST}"));
    let keys = SealingKeys::read(&path).unwrap();
    assert_eq!(keys.generation, 1);
    assert!(keys.previous_secrets.is_empty());
    // A pair that is none is found out.
    write(format!(
        "format = \"relevo-opening-keys/1\"\n{FIRST}{PRIVATE}"
    ));
    let error = OpeningKeys::read(&path).err().unwrap().to_string();
    assert!(error.contains("do not belong together"), "{error}");
    let made = OpeningKeys::generate().unwrap();
    write(format!(
        "format = \"relevo-opening-keys/1\"\ntenant = \"{}\"\nsecret = \"{}\"\npublic = \"{}\"\nprivate = \"{}\"\n",
        made.sealing.tenant,
        HEX.encode(made.sealing.secret.as_bytes()),
        HEX.encode(&made.sealing.public.0),
        HEX.encode(&made.private.0),
    ));
    assert!(OpeningKeys::read(&path).unwrap().same_as(&made));
    write("format = \"relevo-opening-keys/3\"\nmore = 1\n".into());
    assert!(matches!(
        OpeningKeys::read(&path),
        Err(KeyError::Newer { version: 3, .. })
    ));
    write("format = \"relevo-opening-keys/0\"\n".into());
    assert!(OpeningKeys::read(&path).is_err());
}

#[test]
fn a_wrapped_file_holds_no_secret_and_opens_after_a_journey_over_paper() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.toml");
    let mut keys = OpeningKeys::generate().unwrap();
    keys.rotate(false).unwrap();
    let (passphrase, recovery) = (
        Passphrase::new("long enough for this"),
        RecoveryKey::generate(),
    );
    let ways = [
        Wrapping::Passphrase(&passphrase, CHEAP),
        Wrapping::Recovery(recovery.public().unwrap()),
    ];
    let file = KeyFile::Wrapped(WrappedKeys::wrap(&keys, &ways).unwrap());
    file.write(&path).unwrap();
    for secret in keys.generations() {
        assert!(!text(&path).contains(&HEX.encode(secret.secret.as_bytes())));
        assert!(!text(&path).contains(&HEX.encode(&secret.private.0)));
    }
    assert!(matches!(
        OpeningKeys::read(&path),
        Err(KeyError::Wrapped { .. })
    ));
    let printed = KeyFile::read(&path).unwrap().lines().unwrap().join("\n");
    let typed = typed::read(&printed).unwrap();
    let KeyFile::Wrapped(again) = KeyFile::from_typed(&typed[0]).unwrap() else {
        panic!("the paper lost the wrapping");
    };
    assert!(
        again
            .open(&Unlock::Recovery(recovery))
            .unwrap()
            .same_as(&keys)
    );
    assert!(
        again
            .open(&Unlock::Passphrase(passphrase))
            .unwrap()
            .same_as(&keys)
    );
    // An unwrapped paper, on explicit demand.
    let open = KeyFile::Open(keys.clone()).lines().unwrap().join("\n");
    let typed = typed::read(&open).unwrap();
    let again = KeyFile::from_typed(&typed[0]).unwrap().open(&path).unwrap();
    assert!(again.same_as(&keys));
}

/// Guards against a file that takes all memory when it is only looked at.
#[test]
fn hostile_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.toml");
    let keys = OpeningKeys::generate().unwrap();
    let passphrase = Passphrase::new("long enough for this");
    let wrapped = WrappedKeys::wrap(&keys, &[Wrapping::Passphrase(&passphrase, CHEAP)]).unwrap();
    KeyFile::Wrapped(wrapped).write(&path).unwrap();
    let good = text(&path);
    let refused = |text: String| {
        std::fs::write(&path, text).unwrap();
        KeyFile::read(&path).err().unwrap().to_string()
    };
    let error = refused(good.replace("memory_kib = 64", "memory_kib = 4000000000"));
    assert!(error.contains("4000000000 KiB"), "{error}");
    refused(good.replace("sealed = ", "scaled = "));
    refused(good.replace("[[wrapping]]", "[[wrapped]]"));
    refused(" ".repeat(2 << 20));
    refused(good.replace("number = 1", "number = -1"));
}
