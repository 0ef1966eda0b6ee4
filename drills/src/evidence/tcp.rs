//! A TCP port that accepts a connection and, where asked for, says what it should.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{Attempt, Evidence};

/// So much of what a port says is looked at.
const GREETING: usize = 4 << 10;

pub(super) fn attempt(server: SocketAddr, expect: Option<&str>, patience: Duration) -> Attempt {
    let started = Instant::now();
    let evidence = |summary: String| Evidence {
        summary,
        address: Some(server.to_string()),
        ..Evidence::default()
    };
    let mut stream = match TcpStream::connect_timeout(&server, patience) {
        Ok(stream) => stream,
        Err(error) => {
            let reached = reached(&error);
            return Attempt::not_yet(reached, evidence(format!("{server}: {error}")));
        }
    };
    let Some(expect) = expect else {
        return Attempt::holds(evidence(format!("{server} accepts connections")));
    };
    let mut said = Vec::new();
    let mut end = "it says nothing more".to_owned();
    while said.len() < GREETING {
        let left = patience.saturating_sub(started.elapsed());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            break;
        }
        let mut buffer = [0; 512];
        match stream.read(&mut buffer) {
            Ok(0) => {
                end = "it closed the connection".into();
                break;
            }
            Ok(read) => said.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                end = error.to_string();
                break;
            }
        }
        let text = String::from_utf8_lossy(&said);
        if text.contains(expect) {
            let mut seen = evidence(format!("{server} says \"{expect}\""));
            seen.received = Some(text.into_owned());
            return Attempt::holds(seen);
        }
    }
    let mut seen = evidence(format!(
        "{server} accepts connections but does not say \"{expect}\": {end}"
    ));
    seen.received = Some(String::from_utf8_lossy(&said).into_owned());
    Attempt::not_yet(true, seen)
}

/// Whether this refusal came from the server itself, whose network is therefore up.
pub(super) fn reached(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted
    )
}
