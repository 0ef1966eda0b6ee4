//! Errors as the operator sees them: a cause and a remedy.

use std::error::Error;
use std::fmt::Write;

/// An error with all its causes, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// What a command ends with when it cannot do its work.
#[derive(Debug)]
pub struct Failure {
    /// What happened, with all causes.
    pub cause: String,
    /// What the operator can do about it.
    pub remedy: String,
}

impl Failure {
    /// A failure because of `error`, for which `remedy` helps.
    pub fn new(error: &dyn Error, remedy: impl Into<String>) -> Self {
        Self {
            cause: chain(error),
            remedy: remedy.into(),
        }
    }
}
