//! Serves the metrics to Prometheus: HTTP/1.1, one request a connection, `GET /metrics`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Family, text};
use crate::error::VaultError;

/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// How long a request or its answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Scrapes at once; further ones wait.
const SCRAPES: usize = 8;

/// A socket that metrics are read from.
pub struct MetricsServer {
    listener: TcpListener,
}

impl MetricsServer {
    /// Listens; port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> Result<Self, VaultError> {
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|e| VaultError::Network {
            doing: format!("listen for metrics at {address}"),
            reason: e.to_string(),
            remedy: "choose another address with --metrics",
        })?;
        Ok(Self { listener })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr, VaultError> {
        self.listener.local_addr().map_err(|e| VaultError::Network {
            doing: "read the address of the metrics".into(),
            reason: e.to_string(),
            remedy: "choose another address with --metrics",
        })
    }

    /// Answers until it is dropped. `gather` may wait for the catalogue.
    pub async fn run(self, gather: impl Fn() -> Vec<Family> + Send + Sync + 'static) {
        let gather = Arc::new(gather);
        let places = Arc::new(Semaphore::new(SCRAPES));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics could not be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let gather = gather.clone();
            tokio::spawn(async move {
                // Who asks no more, or too slowly, gets nothing.
                let _ = timeout(PATIENCE, serve(stream, gather)).await;
                drop(place);
            });
        }
    }
}

async fn serve<G>(mut stream: TcpStream, gather: Arc<G>) -> std::io::Result<()>
where
    G: Fn() -> Vec<Family> + Send + Sync + 'static,
{
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= MAX_HEAD {
            return respond(&mut stream, "431 Request Header Fields Too Large", "").await;
        }
        let mut part = [0; 1024];
        let read = stream.read(&mut part).await?;
        if read == 0 {
            return Ok(());
        }
        head.extend_from_slice(&part[..read]);
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split_whitespace();
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let path = target.split('?').next();
    match (method, path) {
        (Some("GET"), Some("/metrics")) => {
            let families = tokio::task::spawn_blocking(move || gather()).await;
            let families = families.map_err(std::io::Error::other)?;
            respond(&mut stream, "200 OK", &text(&families)).await
        }
        (Some("GET"), _) => respond(&mut stream, "404 Not Found", "see /metrics\n").await,
        _ => respond(&mut stream, "405 Method Not Allowed", "").await,
    }
}

async fn respond(stream: &mut TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
