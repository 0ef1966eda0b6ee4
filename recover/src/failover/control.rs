//! The API of a running machine: HTTP on its control socket (`docs/vmm-api.yaml`).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes.
const LONGEST: u64 = 64 << 10;

/// Gives a command, or asks for `status`, and returns the answer, null where there is nothing
/// to tell; an error in words when there is none, or no.
pub fn command(socket: &Path, command: &str) -> Result<Value, String> {
    let request = match command {
        "status" => "GET /machine".to_owned(),
        other => format!("PUT /machine/{other}"),
    };
    let attempt = || -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(LONGEST).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let bytes = attempt().map_err(|e| format!("{}: {e}", socket.display()))?;
    judge(&String::from_utf8_lossy(&bytes)).map_err(|e| format!("{}: {e}", socket.display()))
}

fn judge(answer: &str) -> Result<Value, String> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or("the answer is not HTTP")?;
    let status = head
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .ok_or("the answer is not HTTP")?;
    if status == "204" {
        return Ok(Value::Null);
    }
    let value: Value = serde_json::from_str(body).map_err(|e| e.to_string())?;
    if status == "200" {
        return Ok(value);
    }
    let error = value["error"].as_str().unwrap_or("the machine refused");
    Err(error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn answers_are_told_from_refusals_and_from_what_is_cut_off() {
        let status = judge("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{\"state\":\"running\"}\n").unwrap();
        assert_eq!(status["state"], "running");
        assert_eq!(judge("HTTP/1.1 204 No Content\r\n\r\n"), Ok(Value::Null));
        let refused = "HTTP/1.1 409 Conflict\r\n\r\n{\"error\":\"paused\",\"remedy\":\"r\"}";
        assert_eq!(judge(refused), Err("paused".into()));
        for cut in ["", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\n\r\n{", "hello"] {
            assert!(judge(cut).is_err(), "{cut}");
        }
    }
}
