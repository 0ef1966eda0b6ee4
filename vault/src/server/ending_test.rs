//! When serving ends without being told to.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::directory::Directory;
use crate::rebuild;

/// Guards peers against a vault that listens and can store nothing any more: its process
/// ends with an error, so that whoever looks after it starts it anew.
#[tokio::test]
async fn a_server_whose_writer_is_gone_ends_with_an_error() {
    let parent = tempfile::tempdir().unwrap();
    let directory = Directory::create(&parent.path().join("v"), "a").unwrap();
    let id = directory.file().vault;
    let store = rebuild::open_store(&directory).unwrap();
    let vault = Vault::new(id, store, directory.authority().unwrap());
    let address = "127.0.0.1:0".parse().unwrap();
    let authority = directory.authority().unwrap();
    let server = Server::listen(vault, id, authority, address).unwrap();
    let vault = server.vault();
    let panicking = tokio::task::spawn_blocking(move || {
        let store = vault.store();
        store.in_writer::<()>(|_| panic!("on purpose, for a test"))
    });
    let error = server.run(std::future::pending()).await.unwrap_err();
    assert!(error.to_string().contains("panic"), "{error}");
    assert!(error.remedy().contains("start the vault anew"));
    assert!(panicking.await.unwrap().is_err());
}
