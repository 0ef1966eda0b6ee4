//! A real vault over real QUIC: who gets in, what he may do, and that images come back.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use relevo_wire::client::{self, ClientError, VaultConnection};
use relevo_wire::enrollment::Enrollment;
use relevo_wire::id::random_bytes;
use relevo_wire::identity::{Applicant, Authority, Identity};
use relevo_wire::key::OpeningKeys;
use relevo_wire::message::{RefusalCode, Request, Response};
use relevo_wire::{ServerId, SessionId, TenantId, VaultId};
use support::*;

fn refusal(error: &ClientError) -> RefusalCode {
    match error {
        ClientError::Refused(refusal) => refusal.code,
        other => panic!("{other}"),
    }
}

/// The main job: what an agent stores, a recovery site reads, over a restart too.
#[tokio::test]
async fn an_image_is_stored_committed_listed_and_read_back() {
    let Lab {
        _keep,
        dir,
        keys,
        serving,
        agent,
        site,
    } = Lab::start().await;
    let image = image(&keys, server_of(&agent), 1, 40);
    let vault = VaultConnection::connect(&agent).await.unwrap();

    // A part only: nothing becomes visible, and what is missing is named.
    let upload = session(&vault).await;
    let (last, rest) = image.chunks.split_last().unwrap();
    vault.put(upload, rest).await.unwrap();
    match commit(&vault, upload, &image).await.unwrap() {
        Response::Incomplete { missing } => assert_eq!(missing, vec![last.id()]),
        other => panic!("{other:?}"),
    }
    let reader = VaultConnection::connect(&site).await.unwrap();
    let list = Request::ListPoints {
        server: server_of(&agent),
        after: None,
    };
    assert_eq!(
        reader.request(&list).await.unwrap(),
        Response::Points(vec![])
    );

    let known = vault
        .have(upload, vec![rest[0].id(), last.id()])
        .await
        .unwrap();
    assert_eq!(known, vec![1]);
    assert!(vault.put(upload, std::slice::from_ref(last)).await.unwrap() > 0);
    assert_eq!(
        vault.put(upload, rest).await.unwrap(),
        0,
        "known chunks add nothing"
    );
    let committed = commit(&vault, upload, &image).await.unwrap();
    assert!(matches!(committed, Response::Committed { stored } if stored > 160 * 65536));
    // Its answer may have been lost: the same again is the same answer.
    assert_eq!(commit(&vault, upload, &image).await.unwrap(), committed);

    match reader.request(&list).await.unwrap() {
        Response::Points(points) => {
            assert_eq!(points.len(), 1);
            assert_eq!(points[0].manifest, image.public);
        }
        other => panic!("{other:?}"),
    }
    read_back(&reader, &image).await;
    vault.close().await;
    reader.close().await;
    serving.stop();

    let serving = Serving::start(&dir);
    let reader = VaultConnection::connect(&moved(site, &serving.address))
        .await
        .unwrap();
    match reader
        .request(&Request::GetManifest {
            point: image.public.point,
        })
        .await
        .unwrap()
    {
        Response::Manifest(manifest) => assert!(manifest.open(&keys).is_ok()),
        other => panic!("{other:?}"),
    }
    read_back(&reader, &image).await;
    let missing = reader
        .get_one(relevo_wire::ChunkId::of(b"none"))
        .await
        .unwrap_err();
    assert!(matches!(missing, ClientError::MissingChunk(_)));
}

#[tokio::test]
async fn a_token_lets_one_in_once_and_in_time() {
    let (_keep, dir) = new_vault();
    let keys = OpeningKeys::generate().unwrap();
    let tenant = keys.sealing.tenant;
    let serving = Serving::start(&dir);
    let enroll = |token| {
        let address = serving.address.clone();
        async move { client::enroll(&address, &token, "a", tenant).await }
    };
    let good = token(&dir, "agent", &[]);
    enroll(good.clone()).await.unwrap();
    let mut unknown = good.clone();
    unknown.secret = random_bytes();
    let late = token(&dir, "agent", &["--valid", "0s"]);
    for (token, why) in [
        (good, "was used"),
        (unknown, "no such token"),
        (late, "expired"),
    ] {
        let error = enroll(token).await.unwrap_err();
        assert_eq!(refusal(&error), RefusalCode::Token);
        assert!(error.to_string().contains(why), "{error}");
        assert!(error.remedy().contains("new token"), "{}", error.remedy());
    }
    // The vault has a tenant now: others need a token that names them.
    let stranger = TenantId::random();
    let plain = token(&dir, "agent", &[]);
    let refused = client::enroll(&serving.address, &plain, "b", stranger)
        .await
        .unwrap_err();
    assert_eq!(refusal(&refused), RefusalCode::Token);
    let named = token(&dir, "agent", &["--tenant", &stranger.to_string()]);
    client::enroll(&serving.address, &named, "b", stranger)
        .await
        .unwrap();
    // A token of another vault pins another authority: the connection ends before any secret.
    let other = relevo_wire::enrollment::Token::generate([1; 32]);
    let error = enroll(other).await.unwrap_err();
    assert!(matches!(error, ClientError::Connection { .. }), "{error}");
}

#[tokio::test]
async fn nobody_does_what_his_certificate_does_not_allow() {
    let Lab {
        _keep,
        dir,
        keys,
        serving,
        agent,
        site,
    } = Lab::start().await;
    let vault = VaultConnection::connect(&agent).await.unwrap();
    let reader = VaultConnection::connect(&site).await.unwrap();
    let server = server_of(&agent);
    let mine = image(&keys, server, 1, 1);
    back_up(&vault, &mine).await;

    // An agent reads nothing, nor writes for another server.
    let point = mine.public.point;
    for request in [
        Request::ListServers,
        Request::ListPoints {
            server,
            after: None,
        },
        Request::GetManifest { point },
    ] {
        assert_eq!(
            refusal(&vault.request(&request).await.unwrap_err()),
            RefusalCode::Forbidden
        );
    }
    let read = vault.get(vec![mine.data[0].0.id]).await.err().unwrap();
    assert_eq!(refusal(&read), RefusalCode::Forbidden);
    let upload = session(&vault).await;
    let foreign = image(&keys, ServerId::random(), 1, 1);
    let error = commit(&vault, upload, &foreign).await.unwrap_err();
    assert_eq!(refusal(&error), RefusalCode::Forbidden);
    // Nor commits another image under a point's id, nor a root that is no node.
    let session_of_nobody = vault.have(SessionId::random(), vec![]).await.unwrap_err();
    assert_eq!(refusal(&session_of_nobody), RefusalCode::NotFound);
    // A recovery site writes nothing.
    let error = reader.request(&Request::OpenSession).await.unwrap_err();
    assert_eq!(refusal(&error), RefusalCode::Forbidden);

    // Another tenant sees none of it.
    let others = OpeningKeys::generate().unwrap();
    let tenant = others.sealing.tenant;
    let named = token(&dir, "recovery", &["--tenant", &tenant.to_string()]);
    let other = client::enroll(&serving.address, &named, "other", tenant)
        .await
        .unwrap();
    let other = VaultConnection::connect(&other).await.unwrap();
    assert_eq!(
        other.request(&Request::ListServers).await.unwrap(),
        Response::Servers(vec![])
    );
    let error = other
        .request(&Request::GetManifest { point })
        .await
        .unwrap_err();
    assert_eq!(refusal(&error), RefusalCode::NotFound);
    let error = other.get_one(mine.data[0].0.id).await.unwrap_err();
    assert!(matches!(error, ClientError::MissingChunk(_)), "{error}");
    read_back(&reader, &mine).await;
}

/// A certificate as a vault would issue it.
fn issued_by(authority: &Authority, pinned: &[u8], address: &str, valid: Duration) -> Enrollment {
    let applicant = Applicant::generate().unwrap();
    let identity = Identity::Agent {
        tenant: TenantId::random(),
        server: ServerId::random(),
    };
    let issued = authority
        .issue_client(&applicant.request, &identity, "x", valid)
        .unwrap();
    let key = applicant.credentials.key_der();
    let name = "x".to_string();
    Enrollment::new(
        address.into(),
        name,
        &identity,
        issued.expires,
        &issued.certificate,
        pinned,
        key,
    )
}

#[tokio::test]
async fn foreign_and_expired_certificates_are_refused_with_the_remedy() {
    let (_keep, dir) = new_vault();
    let serving = Serving::start(&dir);
    let read = |name: &str| std::fs::read(dir.join("authority").join(name)).unwrap();
    let own = Authority::from_der(read("certificate.der"), read("key.der"));
    let foreign = Authority::generate(VaultId::random()).unwrap();
    let (mine, others) = (own.certificate(), foreign.certificate());
    let hour = Duration::from_secs(3600);
    let refused = async |enrollment| VaultConnection::connect(&enrollment).await.err();

    let error = refused(issued_by(&foreign, mine, &serving.address, hour))
        .await
        .unwrap();
    assert!(
        error.to_string().contains("does not know this certificate"),
        "{error}"
    );
    assert!(error.remedy().contains("enrol again"));
    // A vault that is not the one enrolled with.
    let error = refused(issued_by(&own, others, &serving.address, hour))
        .await
        .unwrap();
    assert!(error.to_string().contains("not of the vault"), "{error}");
    // Valid to the end of this second: let in perhaps, then never again.
    let expired = issued_by(&own, mine, &serving.address, Duration::ZERO);
    let error = loop {
        if let Some(error) = refused(expired.clone()).await {
            break error;
        }
    };
    assert!(error.to_string().contains("expired"), "{error}");
    assert!(error.remedy().contains("enrol again"));
}

#[tokio::test]
async fn a_directory_is_served_once_and_a_newer_one_not_at_all() {
    let (_keep, dir) = new_vault();
    let serving = Serving::start(&dir);
    let second = vault(&dir, &["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(
        stderr(&second).contains("another relevo-vault"),
        "{}",
        stderr(&second)
    );
    serving.stop();
    let file = dir.join("vault.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("format = 2", "format = 9")).unwrap();
    for command in ["serve", "images", "verify", "rebuild"] {
        let refused = vault(&dir, &[command]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            stderr(&refused).contains("remedy: update relevo-vault"),
            "{}",
            stderr(&refused)
        );
    }
}
