//! The control socket of a running machine: one line of JSON each way.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);

/// Gives a command and returns the answer; an error in words when there is none, or no.
pub fn command(socket: &Path, command: &str) -> Result<Value, String> {
    let attempt = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        writeln!(stream, "{}", serde_json::json!({ "command": command }))?;
        let mut line = String::new();
        BufReader::new(stream.take(64 << 10)).read_line(&mut line)?;
        Ok(line)
    };
    let line = attempt().map_err(|e| format!("{}: {e}", socket.display()))?;
    let answer: Value =
        serde_json::from_str(&line).map_err(|e| format!("{}: {e}", socket.display()))?;
    if answer["ok"] == true {
        return Ok(answer);
    }
    Err(answer["error"]
        .as_str()
        .unwrap_or("the machine refused")
        .to_string())
}
