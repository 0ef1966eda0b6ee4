//! A check as it is written in a plan file, and its translation into a [`Check`].

use regex::RegexBuilder;
use serde::Deserialize;

use super::duration::PlanDuration;
use super::file::{Refusal, required};
use super::{Check, CheckKind, DEFAULT_CHECK_TIMEOUT};

/// A compiled pattern may take so many bytes: room for any sensible one, not for a bomb.
const PATTERN_LIMIT: usize = 1 << 20;

/// One flat table for all kinds, so that a key of the wrong kind is named in the error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckTable {
    kind: Option<String>,
    name: Option<String>,
    required: Option<bool>,
    timeout: Option<PlanDuration>,
    pattern: Option<String>,
    port: Option<u16>,
    expect: Option<String>,
    path: Option<String>,
    status: Option<u16>,
    body_contains: Option<String>,
    host: Option<String>,
}

impl CheckTable {
    /// The check; `place` names its table in refusals.
    pub(super) fn translate(self, place: &str) -> Result<Check, Refusal> {
        let word = required(
            self.kind.clone(),
            &format!("{place}.kind"),
            "kind = \"http\"",
        )?;
        let allowed: &[&str] = match word.as_str() {
            "console" => &["pattern"],
            "tcp" => &["port", "expect"],
            "http" => &["port", "path", "status", "body_contains", "host"],
            _ => {
                return Err((
                    format!("`{place}.kind` is \"{word}\""),
                    "write \"console\", \"tcp\" or \"http\"".into(),
                ));
            }
        };
        refuse_foreign_keys(&self, &word, allowed, place)?;
        let kind = match word.as_str() {
            "console" => CheckKind::Console {
                pattern: pattern(self.pattern, place)?,
            },
            "tcp" => CheckKind::Tcp {
                port: port(
                    required(self.port, &format!("{place}.port"), "port = 22")?,
                    place,
                )?,
                expect: not_empty(self.expect, "expect", place)?,
            },
            _ => CheckKind::Http {
                port: port(self.port.unwrap_or(80), place)?,
                path: http_path(self.path.unwrap_or_else(|| "/".into()), place)?,
                status: http_status(self.status.unwrap_or(200), place)?,
                body_contains: not_empty(self.body_contains, "body_contains", place)?,
                host: http_host(self.host, place)?,
            },
        };
        Ok(Check {
            name: self.name.unwrap_or_else(|| kind.expectation()),
            required: self.required.unwrap_or(true),
            timeout: self.timeout.map_or(DEFAULT_CHECK_TIMEOUT, |d| d.0),
            kind,
        })
    }
}

fn refuse_foreign_keys(
    check: &CheckTable,
    kind: &str,
    allowed: &[&str],
    place: &str,
) -> Result<(), Refusal> {
    let given = [
        ("pattern", check.pattern.is_some(), "console"),
        ("port", check.port.is_some(), "tcp or http"),
        ("expect", check.expect.is_some(), "tcp"),
        ("path", check.path.is_some(), "http"),
        ("status", check.status.is_some(), "http"),
        ("body_contains", check.body_contains.is_some(), "http"),
        ("host", check.host.is_some(), "http"),
    ];
    for (key, is_given, owner) in given {
        if is_given && !allowed.contains(&key) {
            return Err((
                format!(
                    "`{place}.{key}` belongs to a check of kind {owner}, and this one is {kind}"
                ),
                format!("remove `{key}` or change `kind`"),
            ));
        }
    }
    Ok(())
}

fn pattern(text: Option<String>, place: &str) -> Result<regex::Regex, Refusal> {
    let key = format!("{place}.pattern");
    let text = required(text, &key, "pattern = \"login:\"")?;
    if text.is_empty() {
        return Err((
            format!("`{key}` is empty, which everything matches"),
            "write what the console shows when the server is up, such as \"login:\"".into(),
        ));
    }
    RegexBuilder::new(&text)
        .size_limit(PATTERN_LIMIT)
        .build()
        .map_err(|e| {
            (
                format!("`{key}` is not a regular expression: {e}"),
                "put a backslash before characters such as ( [ { * + ? . that are meant literally \
                 (in TOML best between single quotes: '\\(ready\\)')"
                    .into(),
            )
        })
}

fn port(port: u16, place: &str) -> Result<u16, Refusal> {
    match port {
        0 => Err((
            format!("`{place}.port` is 0"),
            "write a port from 1 to 65535".into(),
        )),
        _ => Ok(port),
    }
}

fn not_empty(value: Option<String>, key: &str, place: &str) -> Result<Option<String>, Refusal> {
    match value {
        Some(text) if text.is_empty() => Err((
            format!("`{place}.{key}` is empty, which everything contains"),
            format!("write the expected text or remove `{key}`"),
        )),
        other => Ok(other),
    }
}

fn http_path(path: String, place: &str) -> Result<String, Refusal> {
    let printable = path.bytes().all(|b| b.is_ascii_graphic());
    if path.starts_with('/') && printable && !path.contains('#') {
        return Ok(path);
    }
    Err((
        format!("`{place}.path` is \"{path}\""),
        "write the path of the page, beginning with / and percent-encoded, such as \
         \"/status?full=1\""
            .into(),
    ))
}

fn http_status(status: u16, place: &str) -> Result<u16, Refusal> {
    match status {
        200..=599 => Ok(status),
        _ => Err((
            format!("`{place}.status` is {status}"),
            "write an HTTP status from 200 to 599".into(),
        )),
    }
}

fn http_host(host: Option<String>, place: &str) -> Result<Option<String>, Refusal> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b);
    match host {
        Some(host) if host.is_empty() || !host.bytes().all(fits) => Err((
            format!("`{place}.host` is \"{host}\""),
            "write a host name such as \"shop.example\"".into(),
        )),
        other => Ok(other),
    }
}
