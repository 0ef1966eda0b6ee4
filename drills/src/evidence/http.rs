//! An HTTP page with the right status and content.

use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Attempt, Evidence, tcp};

/// So much of a body is searched.
const BODY: u64 = 1 << 20;
/// So much of it becomes evidence.
const EXCERPT: usize = 600;

/// What is asked, and what the answer must be.
pub(super) struct Question<'a> {
    pub server: SocketAddr,
    pub path: &'a str,
    pub status: u16,
    pub body_contains: Option<&'a str>,
    pub host: Option<&'a str>,
}

pub(super) fn attempt(question: &Question<'_>, patience: Duration) -> Attempt {
    let server = question.server;
    let mut evidence = Evidence {
        address: Some(server.to_string()),
        ..Evidence::default()
    };
    // A redirect would lead out of the drill's network, and a proxy of this host's environment
    // is not the server: neither is followed.
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(patience))
        .max_redirects(0)
        .http_status_as_error(false)
        .proxy(None)
        .user_agent(concat!("relevo-drills/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    let mut request = agent
        .get(format!("http://{server}{}", question.path))
        .header("Connection", "close");
    if let Some(host) = question.host {
        request = request.header("Host", host);
    }
    let answer = match request.call() {
        Ok(answer) => answer,
        Err(error) => {
            let reached = matches!(&error, ureq::Error::Io(e) if tcp::reached(e));
            evidence.summary = format!("GET http://{server}{}: {error}", question.path);
            return Attempt::not_yet(reached, evidence);
        }
    };
    let status = answer.status().as_u16();
    evidence.http_status = Some(status);
    let mut body = Vec::new();
    let read = answer
        .into_body()
        .into_reader()
        .take(BODY)
        .read_to_end(&mut body);
    let body = String::from_utf8_lossy(&body);
    evidence.received = Some(excerpt(&body, question.body_contains));
    let contains = question
        .body_contains
        .is_none_or(|text| body.contains(text));
    let mut wrong = Vec::new();
    if status != question.status {
        wrong.push(format!(
            "the status is {status} instead of {}",
            question.status
        ));
    }
    if let (Some(text), false) = (question.body_contains, contains) {
        wrong.push(format!("the body does not contain \"{text}\""));
    }
    if let Err(error) = read {
        wrong.push(format!("the body broke off: {error}"));
    }
    if !wrong.is_empty() {
        evidence.summary = format!("GET http://{server}{}: {}", question.path, wrong.join("; "));
        return Attempt::not_yet(true, evidence);
    }
    evidence.summary = match question.body_contains {
        Some(text) => format!("HTTP {status}, the body contains \"{text}\""),
        None => format!("HTTP {status}"),
    };
    Attempt::holds(evidence)
}

/// The body around what was looked for, or its beginning.
fn excerpt(body: &str, around: Option<&str>) -> String {
    let found = around.and_then(|text| body.find(text)).unwrap_or(0);
    let mut start = found.saturating_sub(EXCERPT / 2);
    while !body.is_char_boundary(start) {
        start -= 1;
    }
    body.get(start..)
        .unwrap_or_default()
        .chars()
        .take(EXCERPT)
        .collect()
}
