//! Peers that break the protocol: the vault refuses, stays up, and serves the next one.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use relevo_wire::client::VaultConnection;
use relevo_wire::enrollment::Enrollment;
use relevo_wire::frame::{self, FrameDecoder};
use relevo_wire::identity::VAULT_NAME;
use relevo_wire::message::{RefusalCode, Request, Response};
use relevo_wire::tls;
use support::*;

/// A connection that can say anything.
struct Raw {
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

impl Raw {
    async fn connect(enrollment: &Enrollment) -> Self {
        let authority = enrollment.authority().unwrap().into();
        let tls = tls::client_config(authority, &enrollment.credentials().unwrap()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = enrollment.vault.parse().unwrap();
        let connecting = endpoint.connect_with(config, address, VAULT_NAME).unwrap();
        Self {
            connection: connecting.await.unwrap(),
            _endpoint: endpoint,
        }
    }

    /// Sends bytes as a whole request; what is answered.
    async fn say(&self, bytes: &[u8]) -> Response {
        let (mut send, mut receive) = self.connection.open_bi().await.unwrap();
        // The vault may stop reading before the end.
        let _ = send.write_all(bytes).await;
        let _ = send.finish();
        let mut decoder = FrameDecoder::default();
        while let Some(part) = receive.read_chunk(65536, true).await.unwrap() {
            decoder.push(&part.bytes);
        }
        frame::decode(&decoder.next_frame().unwrap().unwrap()).unwrap()
    }

    async fn refused(&self, bytes: &[u8]) -> RefusalCode {
        match self.say(bytes).await {
            Response::Refused(refusal) => refusal.code,
            other => panic!("{other:?}"),
        }
    }
}

/// Guards the vault's life and memory against whatever an enrolled peer sends.
#[tokio::test]
async fn broken_requests_are_refused_and_the_vault_lives_on() {
    let Lab {
        _keep,
        keys,
        serving: _serving,
        agent,
        ..
    } = Lab::start().await;
    let raw = Raw::connect(&agent).await;
    let session = match raw
        .say(&frame::encode(&Request::OpenSession).unwrap())
        .await
    {
        Response::SessionOpened { session } => session,
        other => panic!("{other:?}"),
    };
    let put = |chunks: u32, bodies: &[&[u8]]| {
        let mut bytes = frame::encode(&Request::Put { session, chunks })
            .unwrap()
            .to_vec();
        for body in bodies {
            bytes.extend_from_slice(&frame::prefix(body).unwrap());
            bytes.extend_from_slice(body);
        }
        bytes
    };
    let endless = (4u32 << 20).to_le_bytes();
    let huge = noise(1, 300 * 1024);
    let malformed: Vec<Vec<u8>> = vec![
        vec![],
        vec![1, 2],
        u32::MAX.to_le_bytes().to_vec(),
        endless.to_vec(),
        [&16u32.to_le_bytes()[..], &noise(2, 16)].concat(),
        put(2000, &[]),
        put(2, &[b"\x01only one of two"]),
        put(1, &[b""]),
        put(1, &[&huge]),
        frame::encode(&Request::Have {
            session,
            ids: vec![relevo_wire::ChunkId::of(b""); 5000],
        })
        .unwrap()
        .to_vec(),
    ];
    for bytes in malformed {
        let shown = bytes.len().min(40);
        assert_eq!(
            raw.refused(&bytes).await,
            RefusalCode::Malformed,
            "{:02x?}",
            &bytes[..shown]
        );
    }
    // A node that names more children than it holds can never be walked: not even stored.
    assert_eq!(
        raw.refused(&put(1, &[&[2, 0, 9, 0, 1, 2, 3]])).await,
        RefusalCode::Corrupt
    );
    for seed in 0..200 {
        let random = noise(seed, 1 + seed as usize);
        let framed = [&(random.len() as u32).to_le_bytes()[..], &random].concat();
        assert!(matches!(raw.say(&framed).await, Response::Refused(_)));
    }

    let vault = VaultConnection::connect(&agent).await.unwrap();
    let image = image(&keys, server_of(&agent), 1, 2);
    assert!(matches!(
        back_up(&vault, &image).await,
        Response::Committed { .. }
    ));
    // A root that is data is a lie about the tree.
    let upload = support::session(&vault).await;
    vault.put(upload, &image.chunks).await.unwrap();
    let mut lie = support::image(&keys, server_of(&agent), 1, 2);
    let data = relevo_wire::manifest::SealedRef::node(image.data[0].0);
    lie.manifest = manifest_with_root(&keys, &lie.public, data);
    let refused = commit(&vault, upload, &lie).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("data stands where a node should be"),
        "{refused}"
    );
}

/// Somebody without a certificate of the vault.
fn applicant(dir: &std::path::Path, address: &str) -> Enrollment {
    let authority = std::fs::read(dir.join("authority/certificate.der")).unwrap();
    let applicant = relevo_wire::identity::Applicant::generate().unwrap();
    // Whatever name he gives himself.
    Enrollment::new(
        address.into(),
        "x".into(),
        &relevo_wire::identity::Identity::Recovery {
            tenant: relevo_wire::TenantId::random(),
            site: relevo_wire::SiteId::random(),
        },
        relevo_wire::Timestamp::now(),
        &applicant.credentials.chain[0],
        &authority,
        applicant.credentials.key_der(),
    )
}

/// Guards against bearers of nothing: without a certificate of the vault only enrolment is heard.
#[tokio::test]
async fn an_applicant_may_only_enrol() {
    let (_keep, dir) = new_vault();
    let serving = Serving::start(&dir);
    let enrollment = applicant(&dir, &serving.address);
    let raw = Raw::connect(&enrollment).await;
    let list = frame::encode(&Request::ListServers).unwrap();
    assert_eq!(raw.refused(&list).await, RefusalCode::Forbidden);
    let raw = Raw::connect(&enrollment).await;
    assert_eq!(
        raw.refused(&noise(1, 100_000)).await,
        RefusalCode::Malformed
    );
}

/// Guards the vault's memory: what nobody has read yet of somebody unknown is held for him.
#[tokio::test]
async fn an_applicant_fills_little_memory() {
    let (_keep, dir) = new_vault();
    let serving = Serving::start(&dir);
    let raw = Raw::connect(&applicant(&dir, &serving.address)).await;
    let (mut sent, data) = (0, noise(1, 1 << 20));
    let mut streams = Vec::new();
    for _ in 0..8 {
        let (mut stream, _) = raw.connection.open_bi().await.unwrap();
        // Whatever can be sent without the vault's leave is sent at once.
        while let Some(Ok(taken)) = at_once(stream.write(&data)).await {
            sent += taken;
        }
        streams.push(stream);
    }
    assert!(sent <= 2 << 20, "{sent} bytes");
}

/// What a future gives without waiting.
async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        std::task::Poll::Ready(value) => std::task::Poll::Ready(Some(value)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

/// Guards all other servers against one that takes every place.
#[tokio::test]
async fn one_peer_takes_only_so_many_places() {
    let Lab {
        _keep,
        dir,
        keys,
        serving,
        agent: greedy,
        ..
    } = Lab::start().await;
    let other = enroll(&dir, &serving.address, "agent", &keys).await;
    let mut places = Vec::new();
    for _ in 0..16 {
        places.push(VaultConnection::connect(&greedy).await.unwrap());
    }
    let raw = Raw::connect(&greedy).await;
    let reason = raw.connection.closed().await.to_string();
    assert!(reason.contains("too many connections"), "{reason}");
    VaultConnection::connect(&other).await.unwrap();
    // A place that is left is free again.
    places.pop().unwrap().close().await;
    while VaultConnection::connect(&greedy).await.is_err() {}
}

/// Guards the recovery site's list, and the vault's memory, against manifests made long.
#[tokio::test]
async fn long_manifests_leave_the_list_of_points_readable() {
    let Lab {
        _keep,
        keys,
        serving: _serving,
        agent,
        site,
        ..
    } = Lab::start().await;
    let vault = VaultConnection::connect(&agent).await.unwrap();
    let server = server_of(&agent);
    let mut last = None;
    for (seed, parts) in (0..24).map(|seed| (seed, 6000)).chain([(24, 8000)]) {
        let mut image = image(&keys, server, 1, 1);
        image.manifest = manifest_with_parts(&keys, &image, parts, seed);
        image.public = image.manifest.public().unwrap();
        let upload = support::session(&vault).await;
        vault.put(upload, &image.chunks).await.unwrap();
        let committed = commit(&vault, upload, &image).await;
        match parts {
            6000 => last = Some(committed.map(|_| image.public.point).unwrap()),
            _ => assert!(
                committed
                    .unwrap_err()
                    .to_string()
                    .contains("over the limit")
            ),
        }
    }
    let reader = VaultConnection::connect(&site).await.unwrap();
    match reader
        .request(&Request::ListPoints {
            server,
            after: None,
        })
        .await
    {
        Ok(Response::Points(points)) => {
            assert!((10..24).contains(&points.len()), "{}", points.len());
            assert_eq!(Some(points[0].manifest.point), last);
        }
        other => panic!("{other:?}"),
    }
}
