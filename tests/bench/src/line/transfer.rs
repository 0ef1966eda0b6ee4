//! Transfers over a line, with one congestion control or another.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quinn::congestion::{BbrConfig, CubicConfig, NewRenoConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TransportConfig};
use relevo_tests::line::{Fate, Line, LineSettings};
use relevo_wire::identity::{Applicant, Authority, VAULT_NAME};
use relevo_wire::{VaultId, client, tls};
use tokio::runtime::Runtime;

/// Bytes of a put.
const PUT: usize = 2 << 20;
const CHUNK: usize = 64 << 10;
const STREAMS: usize = 12;
/// Until a transfer is at speed.
const WARM_UP: Duration = Duration::from_secs(3);

/// A congestion control.
#[derive(Clone, Copy, Debug)]
pub enum Control {
    Relevo,
    Cubic,
    NewReno,
    Bbr,
}

impl Control {
    pub fn name(self) -> &'static str {
        match self {
            Self::Relevo => "relevo",
            Self::Cubic => "cubic",
            Self::NewReno => "new-reno",
            Self::Bbr => "quinn-bbr",
        }
    }

    fn transport(self) -> TransportConfig {
        let mut transport = client::transport();
        match self {
            Self::Relevo => {}
            Self::Cubic => {
                transport.congestion_controller_factory(Arc::new(CubicConfig::default()));
            }
            Self::NewReno => {
                transport.congestion_controller_factory(Arc::new(NewRenoConfig::default()));
            }
            Self::Bbr => {
                transport.congestion_controller_factory(Arc::new(BbrConfig::default()));
            }
        }
        transport
    }
}

/// Share of a line, in percent, that each of several transfers at once gets.
pub fn measure(settings: LineSettings, controls: &[Control], time: Duration) -> Vec<f64> {
    let authority = Authority::generate(VaultId::random()).unwrap_or_else(|e| panic!("{e}"));
    // One thread for each side, as two machines would have.
    let (receiving, sending) = (runtime(), runtime());
    let received: Vec<_> = controls
        .iter()
        .map(|_| Arc::new(AtomicU64::new(0)))
        .collect();
    let server = receiving.block_on(async { server(&authority) });
    let vault = server.local_addr().unwrap_or_else(|e| panic!("{e}"));
    let vault = SocketAddr::from(([127, 0, 0, 1], vault.port()));
    let line = Line::to(vault, settings);
    for (control, counter) in controls.iter().zip(&received) {
        receiving.spawn(accept(server.clone(), counter.clone()));
        let connection = sending.block_on(connect(&authority, line.address(), *control));
        for _ in 0..STREAMS {
            sending.spawn(send(connection.clone()));
        }
    }
    std::thread::sleep(WARM_UP);
    let now = || -> Vec<u64> { received.iter().map(|c| c.load(Ordering::Relaxed)).collect() };
    let (start, before) = (std::time::Instant::now(), now());
    std::thread::sleep(time);
    let (took, after) = (start.elapsed(), now());
    drop((sending, receiving));
    let possible = settings.rate as f64 / 8.0 * took.as_secs_f64() / 100.0;
    before
        .iter()
        .zip(after)
        .map(|(before, after)| (after - before) as f64 / possible)
        .collect()
}

fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    runtime.unwrap_or_else(|e| panic!("{e}"))
}

fn server(authority: &Authority) -> Endpoint {
    let credentials = authority.issue_vault(VaultId::random());
    let credentials = credentials.unwrap_or_else(|e| panic!("{e}"));
    let tls = tls::server_config(authority.certificate().clone(), &credentials);
    let tls = tls.unwrap_or_else(|e| panic!("{e}"));
    let crypto = QuicServerConfig::try_from(tls).unwrap_or_else(|e| panic!("{e}"));
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(client::transport()));
    endpoint(Some(config))
}

fn endpoint(server: Option<ServerConfig>) -> Endpoint {
    let socket = client::bind(([127, 0, 0, 1], 0).into()).unwrap_or_else(|e| panic!("{e}"));
    let runtime = Arc::new(quinn::TokioRuntime);
    Endpoint::new(EndpointConfig::default(), server, socket, runtime)
        .unwrap_or_else(|e| panic!("{e}"))
}

async fn connect(authority: &Authority, address: SocketAddr, control: Control) -> Connection {
    let applicant = Applicant::generate().unwrap_or_else(|e| panic!("{e}"));
    let tls = tls::applicant_config(authority.fingerprint(), &applicant.credentials);
    let tls = tls.unwrap_or_else(|e| panic!("{e}"));
    let crypto = QuicClientConfig::try_from(tls).unwrap_or_else(|e| panic!("{e}"));
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(control.transport()));
    let connecting = endpoint(None).connect_with(config, address, VAULT_NAME);
    let connecting = connecting.unwrap_or_else(|e| panic!("{e}"));
    connecting.await.unwrap_or_else(|e| panic!("{e}"))
}

/// Takes the next connection, and counts what its streams bring.
async fn accept(server: Endpoint, counter: Arc<AtomicU64>) {
    let Some(incoming) = server.accept().await else {
        return;
    };
    let connection = incoming.await.unwrap_or_else(|e| panic!("{e}"));
    while let Ok((mut answer, mut stream)) = connection.accept_bi().await {
        let counter = counter.clone();
        tokio::spawn(async move {
            while let Ok(Some(part)) = stream.read_chunk(usize::MAX, true).await {
                counter.fetch_add(part.bytes.len() as u64, Ordering::Relaxed);
            }
            let _ = answer.write_all(b"stored").await;
            let _ = answer.finish();
        });
    }
}

/// Puts one after the other until the connection ends.
async fn send(connection: Connection) {
    let chunk = Bytes::from(vec![7; CHUNK]);
    while let Ok((mut stream, mut answer)) = connection.open_bi().await {
        for _ in 0..PUT / CHUNK {
            if stream.write_chunk(chunk.clone()).await.is_err() {
                return;
            }
        }
        let _ = stream.finish();
        let _ = answer.read_to_end(64).await;
    }
}

/// Share of a line, in percent, that plain packets get: what the proxy itself carries.
pub fn raw(settings: LineSettings, time: Duration) -> f64 {
    let sink = client::bind(([127, 0, 0, 1], 0).into()).unwrap_or_else(|e| panic!("{e}"));
    let line = Line::to(
        sink.local_addr().unwrap_or_else(|e| panic!("{e}")),
        settings,
    );
    let source = UdpSocket::bind(("127.0.0.1", 0)).unwrap_or_else(|e| panic!("{e}"));
    source
        .connect(line.address())
        .unwrap_or_else(|e| panic!("{e}"));
    let packet = [7; 1472];
    let (start, mut sent) = (std::time::Instant::now(), 0u64);
    let gap = 1500.0 * 8.0 / settings.rate as f64;
    let carried = || Fate::get(&line.up().carried) as f64;
    let (mut before, mut began) = (0.0, start);
    while start.elapsed() < WARM_UP + time {
        let due = (start.elapsed().as_secs_f64() / gap) as u64;
        for _ in sent..due {
            let _ = source.send(&packet);
        }
        sent = sent.max(due);
        if start.elapsed() < WARM_UP {
            (before, began) = (carried(), std::time::Instant::now());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let possible = settings.rate as f64 / 8.0 * began.elapsed().as_secs_f64() / 100.0;
    (carried() - before) / possible
}
