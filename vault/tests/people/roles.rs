use relevo_wire::client::VaultConnection;
use relevo_wire::identity::Applicant;
use relevo_wire::message::{RefusalCode, Request, Response, TokenRole};
use relevo_wire::{PointId, TenantId};

use crate::support::*;
use crate::{code, person};

/// Guards the table of permissions where it counts, at the network: each role asks everything.
#[tokio::test]
async fn each_role_is_answered_what_it_may_ask_and_nothing_else() {
    let lab = Lab::start().await;
    let address = lab.serving.address.clone();
    let agent = VaultConnection::connect(&lab.agent).await.unwrap();
    let server = server_of(&lab.agent);
    let image = image(&lab.keys, server, 1, 1);
    back_up(&agent, &image).await;
    let session = session(&agent).await;
    let point = PointId::random();
    let reason = || "why".to_string();
    let requests = [
        (
            Request::Hello {
                software: "x".into(),
            },
            "aroAu",
        ),
        (Request::OpenSession, "a"),
        (
            Request::Have {
                session,
                ids: vec![],
            },
            "a",
        ),
        (Request::Put { session, chunks: 0 }, "a"),
        (
            Request::Commit {
                session,
                manifest: image.manifest.clone(),
            },
            "a",
        ),
        (Request::ListServers, "roAu"),
        (
            Request::ListPoints {
                server,
                after: None,
            },
            "roAu",
        ),
        (Request::GetManifest { point }, "r"),
        (Request::Get { ids: vec![] }, "r"),
        (
            Request::Renew {
                certificate_request: Applicant::generate().unwrap().request,
            },
            "aroAu",
        ),
        (Request::Report, "oAu"),
        (Request::AuditLog { after: 0 }, "Au"),
        (
            Request::Hold {
                point,
                reason: reason(),
            },
            "oA",
        ),
        (Request::LockPoint { point, days: 1 }, "oA"),
        (
            Request::Release {
                point,
                reason: reason(),
            },
            "A",
        ),
        (
            Request::DeletePoint {
                point,
                reason: reason(),
                even_latest: false,
            },
            "A",
        ),
        (
            Request::Revoke {
                who: "ghost".into(),
                reason: reason(),
            },
            "A",
        ),
        (
            Request::MakeToken {
                role: TokenRole::Agent,
                valid: 1000,
                again: None,
            },
            "A",
        ),
        (
            Request::Enroll {
                secret: [0; 32],
                certificate_request: vec![],
                name: "x".into(),
                tenant: TenantId::random(),
            },
            "",
        ),
    ];
    let peers = [
        ('a', lab.agent.clone()),
        ('r', lab.site.clone()),
        ('o', person(&lab.dir, &address, "operator").await),
        ('u', person(&lab.dir, &address, "auditor").await),
        ('A', person(&lab.dir, &address, "administrator").await),
    ];
    for (role, enrollment) in peers {
        let vault = VaultConnection::connect(&enrollment).await.unwrap();
        for (request, allowed) in &requests {
            let answer = vault.request(request).await;
            let forbidden = matches!(&answer, Err(e) if code(e) == RefusalCode::Forbidden);
            assert_eq!(
                !forbidden,
                allowed.contains(role),
                "{role} {request:?}: {answer:?}"
            );
        }
    }
}

/// Guards against a list that ends where a frame ends.
#[tokio::test]
async fn a_list_longer_than_a_frame_comes_in_pages() {
    let lab = Lab::start().await;
    let agent = VaultConnection::connect(&lab.agent).await.unwrap();
    let server = server_of(&lab.agent);
    let mut expected = Vec::new();
    for seed in 0..24 {
        let mut image = image(&lab.keys, server, 1, 1);
        image.manifest = manifest_with_parts(&lab.keys, &image, 6000, seed);
        image.public = image.manifest.public().unwrap();
        let answer = back_up(&agent, &image).await;
        assert!(matches!(answer, Response::Committed { .. }), "{answer:?}");
        expected.push((image.public.taken, image.public.point));
    }
    expected.sort();
    expected.reverse();
    let operator = person(&lab.dir, &lab.serving.address, "operator").await;
    let operator = VaultConnection::connect(&operator).await.unwrap();
    let first = Request::ListPoints {
        server,
        after: None,
    };
    match operator.request(&first).await.unwrap() {
        Response::Points(page) => assert!(page.len() < 24),
        other => panic!("{other:?}"),
    }
    let all = operator.points(server).await.unwrap();
    let found: Vec<_> = all
        .iter()
        .map(|p| (p.manifest.taken, p.manifest.point))
        .collect();
    assert_eq!(found, expected);
}
