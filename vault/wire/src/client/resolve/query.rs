//! Asks name servers: over UDP, and over TCP what does not fit (RFC 1035, section 4.2).

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::config::Config;
use super::message::{Kind, Reply, question, reply};

/// What came of a name.
pub enum Answer {
    /// It has these.
    Addresses(Vec<IpAddr>),
    /// It is none, or has no address.
    NoSuchName,
    /// Nobody could say, for this reason.
    Failed(String),
}

/// Addresses of one full name, IPv6 before IPv4. Both kinds are asked for at once.
pub async fn addresses(config: &Config, name: &str) -> Answer {
    let (six, four) = tokio::join!(
        of_kind(config, name, Kind::Aaaa),
        of_kind(config, name, Kind::A)
    );
    let mut found = Vec::new();
    let mut failure = None;
    for one in [six, four] {
        match one {
            Answer::Addresses(addresses) => found.extend(addresses),
            Answer::NoSuchName => {}
            Answer::Failed(reason) => failure = failure.or(Some(reason)),
        }
    }
    match (found.is_empty(), failure) {
        (false, _) => Answer::Addresses(found),
        (true, Some(reason)) => Answer::Failed(reason),
        (true, None) => Answer::NoSuchName,
    }
}

async fn of_kind(config: &Config, name: &str, kind: Kind) -> Answer {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let mut servers = config.servers.clone();
    if config.rotate && !servers.is_empty() {
        let turn = TURN.fetch_add(1, Ordering::Relaxed) % servers.len();
        servers.rotate_left(turn);
    }
    let mut failure = "no name server is known".to_string();
    for _ in 0..config.attempts {
        for server in &servers {
            match ask(*server, name, kind, config.timeout).await {
                Ok(Reply::Addresses(addresses)) => return Answer::Addresses(addresses),
                Ok(Reply::NoSuchName) => return Answer::NoSuchName,
                Ok(Reply::Truncated) => {
                    failure = format!("name server {server} cut its answer short");
                }
                Ok(Reply::Refused(code)) => {
                    let code = match code {
                        2 => "it failed".to_string(),
                        5 => "it refuses".to_string(),
                        code => format!("code {code}"),
                    };
                    failure = format!("name server {server} does not tell '{name}': {code}");
                }
                Err(reason) => failure = format!("name server {server}: {reason}"),
            }
        }
    }
    Answer::Failed(failure)
}

async fn ask(
    server: SocketAddr,
    name: &str,
    kind: Kind,
    patience: Duration,
) -> Result<Reply, String> {
    let id = u16::from_le_bytes(crate::id::random_bytes());
    let question = question(id, name, kind).ok_or_else(|| format!("'{name}' is no host name"))?;
    let within = |step: Result<std::io::Result<Reply>, _>| match step {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(_elapsed) => Err("no answer".into()),
    };
    match within(timeout(patience, datagram(server, &question, kind)).await)? {
        Reply::Truncated => within(timeout(patience, stream(server, &question, kind)).await),
        reply => Ok(reply),
    }
}

async fn datagram(server: SocketAddr, question: &[u8], kind: Kind) -> std::io::Result<Reply> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    // So that only this server's answers come in, and its refusals as errors.
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(reply) = reply(&buffer[..length], question, kind) {
            return Ok(reply);
        }
    }
}

async fn stream(server: SocketAddr, question: &[u8], kind: Kind) -> std::io::Result<Reply> {
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = (question.len() as u16).to_be_bytes().to_vec();
    framed.extend(question);
    stream.write_all(&framed).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    reply(&answer, question, kind).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}
