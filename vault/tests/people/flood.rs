use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use relevo_wire::client::VaultConnection;
use relevo_wire::enrollment::Enrollment;
use relevo_wire::frame::{self, FrameDecoder};
use relevo_wire::identity::VAULT_NAME;
use relevo_wire::message::{Request, Response};
use relevo_wire::tls;
use tokio::net::UdpSocket;

use crate::support::*;

/// A connection that asks without saying hello.
pub struct Raw {
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

fn config(enrollment: &Enrollment) -> quinn::ClientConfig {
    let authority = enrollment.authority().unwrap().into();
    let tls = tls::client_config(authority, &enrollment.credentials().unwrap()).unwrap();
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

/// Connects.
pub async fn raw(enrollment: &Enrollment) -> Raw {
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = enrollment.vault.parse().unwrap();
    let connecting = endpoint.connect_with(config(enrollment), address, VAULT_NAME);
    Raw {
        connection: connecting.unwrap().await.unwrap(),
        _endpoint: endpoint,
    }
}

impl Raw {
    /// Asks; what is answered, refusals too.
    pub async fn ask(&self, request: &Request) -> Response {
        let (mut send, mut receive) = self.connection.open_bi().await.unwrap();
        let _ = send.write_all(&frame::encode(request).unwrap()).await;
        let _ = send.finish();
        let mut decoder = FrameDecoder::default();
        while let Some(part) = receive.read_chunk(65536, true).await.unwrap() {
            decoder.push(&part.bytes);
        }
        frame::decode(&decoder.next_frame().unwrap().unwrap()).unwrap()
    }
}

/// Connections that begin and never go on: what the clients send reaches the vault, and of its
/// answers only Retry packets come back, so that addresses are proven and nothing else.
struct HalfOpen {
    _endpoint: quinn::Endpoint,
    relay: tokio::task::JoinHandle<()>,
    _connecting: Vec<quinn::Connecting>,
}

impl HalfOpen {
    async fn start(vault: &str, enrollment: &Enrollment, count: usize, retries: bool) -> Self {
        let relay = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        upstream.connect(vault).await.unwrap();
        let address = relay.local_addr().unwrap();
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = endpoint.local_addr().unwrap();
        let relay = tokio::spawn(async move {
            let (mut up, mut down) = ([0; 2048], [0; 2048]);
            loop {
                tokio::select! {
                    Ok((length, _)) = relay.recv_from(&mut up) => {
                        let _ = upstream.send(&up[..length]).await;
                    }
                    Ok(length) = upstream.recv(&mut down) => {
                        // RFC 9000, section 17.2.5: long header, type 3.
                        if retries && length > 0 && down[0] & 0xf0 == 0xf0 {
                            let _ = relay.send_to(&down[..length], client).await;
                        }
                    }
                    else => {}
                }
            }
        });
        let connecting = (0..count)
            .map(|_| {
                let config = config(enrollment);
                endpoint.connect_with(config, address, VAULT_NAME).unwrap()
            })
            .collect();
        Self {
            _endpoint: endpoint,
            relay,
            _connecting: connecting,
        }
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

fn metric(status: &serde_json::Value, name: &str) -> f64 {
    let families = status.as_array().unwrap();
    let family = families.iter().find(|f| f["name"] == name).unwrap();
    family["values"][0]["value"].as_f64().unwrap()
}

fn status(dir: &std::path::Path) -> serde_json::Value {
    json(&vault(dir, &["status", "--json"]))
}

async fn flooded(count: usize, retries: bool, until: impl Fn(&serde_json::Value) -> bool) {
    let lab = Lab::start().await;
    let address = lab.serving.address.clone();
    let _flood = HalfOpen::start(&address, &lab.agent, count, retries).await;
    // Wait until the flood is in, then come in all the same, more than once.
    while !until(&status(&lab.dir)) {
        tokio::task::yield_now().await;
    }
    for _ in 0..5 {
        let agent = VaultConnection::connect(&lab.agent).await.unwrap();
        session(&agent).await;
        agent.close().await;
    }
    // And somebody new as well.
    enroll(&lab.dir, &address, "agent", &lab.keys).await;
}

/// Guards the doorway against packets from addresses that nobody proves.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_first_packets_keep_nobody_out() {
    flooded(1000, false, |status| {
        metric(status, "relevo_vault_handshakes") >= 64.0
    })
    .await;
}

/// Guards the doorway against peers with real addresses that begin and never finish: more than
/// there is room for.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_half_open_connections_keep_nobody_out() {
    flooded(1000, true, |status| {
        metric(status, "relevo_vault_handshakes_evicted_total") > 0.0
    })
    .await;
}
