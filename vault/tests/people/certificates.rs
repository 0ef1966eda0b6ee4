use relevo_wire::client::{self, ClientError, Renewal, VaultConnection};
use relevo_wire::enrollment::Enrollment;
use relevo_wire::identity::{Applicant, Authority, Identity};
use relevo_wire::message::{RefusalCode, Request, Response};
use relevo_wire::{TenantId, Timestamp, VaultId};

use crate::code;
use crate::support::*;

fn revoke(lab: &Lab, who: &str) {
    let done = vault(
        &lab.dir,
        &["revoke", who, "--reason", "its disk was stolen"],
    );
    assert!(done.status.success(), "{}", stderr(&done));
}

/// Guards against a thief: a revoked certificate neither connects nor asks, and what is open is
/// closed; that outlives a restart and a rebuild.
#[tokio::test]
async fn a_revoked_certificate_counts_no_more_at_once_and_for_ever() {
    let lab = Lab::start().await;
    let open = VaultConnection::connect(&lab.agent).await.unwrap();
    let other = VaultConnection::connect(&lab.site).await.unwrap();
    session(&open).await;
    revoke(&lab, &server_of(&lab.agent).to_string());
    let reason = open.closed().await;
    assert!(reason.to_string().contains("was revoked"), "{reason}");
    assert!(!reason.is_transient());
    let again = VaultConnection::connect(&lab.agent).await.err().unwrap();
    let said = again.to_string();
    assert!(said.contains("was revoked"), "{said}");
    assert!(!again.is_transient(), "an agent must not try for ever");
    // Nobody else is touched.
    other.request(&Request::ListServers).await.unwrap();

    let Lab {
        _keep,
        dir,
        serving,
        agent,
        site,
        ..
    } = lab;
    serving.stop();
    std::fs::remove_file(dir.join("catalogue.sqlite")).unwrap();
    let serving = Serving::start(&dir);
    let again = VaultConnection::connect(&moved(agent, &serving.address)).await;
    assert!(again.err().unwrap().to_string().contains("was revoked"));
    VaultConnection::connect(&moved(site, &serving.address))
        .await
        .unwrap();
}

/// Guards a server's history: a lost agent comes back as the same server, and whoever has its
/// old certificate does not.
#[tokio::test]
async fn a_lost_agent_is_enrolled_anew_without_losing_history() {
    let lab = Lab::start().await;
    let agent = VaultConnection::connect(&lab.agent).await.unwrap();
    let server = server_of(&lab.agent);
    let first = image(&lab.keys, server, 1, 1);
    back_up(&agent, &first).await;
    let token = token(&lab.dir, "agent", &["--again", &lab.agent.name]);
    let tenant = lab.keys.sealing.tenant;
    let anew = client::enroll(&lab.serving.address, &token, "new name", tenant)
        .await
        .unwrap();
    assert_eq!(server_of(&anew), server);
    assert!(agent.closed().await.to_string().contains("was revoked"));
    assert!(VaultConnection::connect(&lab.agent).await.is_err());
    let agent = VaultConnection::connect(&anew).await.unwrap();
    back_up(&agent, &image(&lab.keys, server, 2, 1)).await;
    let site = VaultConnection::connect(&lab.site).await.unwrap();
    match site.request(&Request::ListServers).await.unwrap() {
        Response::Servers(servers) => {
            assert_eq!(servers.len(), 1);
            assert_eq!(
                (servers[0].points, servers[0].name.as_str()),
                (2, "new name")
            );
        }
        other => panic!("{other:?}"),
    }
    // Twice in a row, at once: each certificate ends the one before.
    let token = crate::support::token(&lab.dir, "agent", &["--again", &server.to_string()]);
    let third = client::enroll(&lab.serving.address, &token, "third", tenant)
        .await
        .unwrap();
    assert!(VaultConnection::connect(&anew).await.is_err());
    VaultConnection::connect(&third).await.unwrap();
    // A token for an agent does not make a site of it.
    let wrong = vault(
        &lab.dir,
        &["token", "--role", "recovery", "--again", "third"],
    );
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
}

/// An enrolment of the same identity, issued by the vault's own authority with so much of its
/// time left.
fn aged(lab: &Lab, left: std::time::Duration) -> Enrollment {
    let read = |name: &str| std::fs::read(lab.dir.join("authority").join(name)).unwrap();
    let authority = Authority::from_der(read("certificate.der"), read("key.der"));
    let applicant = Applicant::generate().unwrap();
    let identity = lab.agent.identity().unwrap();
    let long_ago = Timestamp::from_millis(
        Timestamp::now().as_millis() - i64::try_from(2 * left.as_millis()).unwrap(),
    );
    let issued = authority
        .issue_client_at(&applicant.request, &identity, "agent", long_ago, left)
        .unwrap();
    Enrollment::new(
        lab.serving.address.clone(),
        "agent".into(),
        &identity,
        issued.expires,
        &issued.certificate,
        &read("certificate.der"),
        applicant.credentials.key_der(),
    )
}

/// Guards against certificates that run out unseen.
#[tokio::test]
async fn a_certificate_renews_itself_when_half_its_time_is_over() {
    let lab = Lab::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("enrollment.toml");
    lab.agent.write(&file).unwrap();
    let fresh = client::renew_when_due(&lab.agent, &file).await;
    assert!(matches!(fresh, Renewal::NotDue), "{fresh:?}");
    let hour = std::time::Duration::from_secs(3600);
    let old = aged(&lab, hour);
    let renewed = match client::renew_when_due(&old, &file).await {
        Renewal::Renewed(renewed) => renewed,
        other => panic!("{other:?}"),
    };
    assert_eq!(renewed.identity, lab.agent.identity);
    assert!(renewed.expires > old.expires);
    let kept = Enrollment::read(&file).unwrap();
    assert_eq!(kept.expires, renewed.expires);
    VaultConnection::connect(&kept).await.unwrap();
    // Revoked, it is not renewed; and the file stays as it is.
    revoke(&lab, "agent");
    match client::renew_when_due(&aged(&lab, hour), &file).await {
        Renewal::Failed(reason) => assert!(reason.contains("revoked"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(Enrollment::read(&file).unwrap().expires, kept.expires);
    // No vault at all: a failure in words, soon.
    lab.serving.stop();
}

/// Guards the vault's first tenant: who cannot even be given a certificate fixes nothing.
#[tokio::test]
async fn a_malformed_request_with_a_good_token_does_not_fix_the_tenant() {
    let (_keep, dir) = new_vault();
    let serving = Serving::start(&dir);
    let good = token(&dir, "agent", &[]);
    let applicant = Applicant::generate().unwrap();
    let stranger = Enrollment::new(
        serving.address.clone(),
        "x".into(),
        &Identity::Vault(VaultId::random()),
        Timestamp::now(),
        &applicant.credentials.chain[0],
        &std::fs::read(dir.join("authority/certificate.der")).unwrap(),
        applicant.credentials.key_der(),
    );
    for request in [vec![], vec![0x30; 200], applicant.request[..80].to_vec()] {
        let raw = crate::flood::raw(&stranger).await;
        let refused = raw
            .ask(&Request::Enroll {
                secret: good.secret,
                certificate_request: request,
                name: "mallory".into(),
                tenant: TenantId::random(),
            })
            .await;
        match refused {
            Response::Refused(refusal) => assert_eq!(refusal.code, RefusalCode::Malformed),
            other => panic!("{other:?}"),
        }
    }
    // The token is not used up, and the vault is still anybody's.
    let tenant = TenantId::random();
    client::enroll(&serving.address, &good, "first", tenant)
        .await
        .unwrap();
    let late: Result<_, ClientError> =
        client::enroll(&serving.address, &good, "again", tenant).await;
    assert_eq!(code(&late.err().unwrap()), RefusalCode::Token);
}
