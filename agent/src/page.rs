//! What commands write to standard output.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::AgentError;

/// One line of JSON.
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<(), AgentError> {
    let text = serde_json::to_string(value).map_err(|e| AgentError::Internal(e.to_string()))?;
    print(format!("{text}\n").as_bytes())
}

/// To standard output; a reader that has gone away is not a failure of ours.
pub(crate) fn print(bytes: &[u8]) -> Result<(), AgentError> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(AgentError::State {
            path: Path::new("standard output").into(),
            source: e,
        }),
        _ => Ok(()),
    }
}
