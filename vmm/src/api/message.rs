//! HTTP/1.1 messages (RFC 9112): requests out of any bytes, and answers.

use serde_json::{Value, json};

/// Longest head of a request, in bytes.
const HEAD_MOST: usize = 8 << 10;
/// Longest body, in bytes.
const BODY_MOST: usize = 16 << 10;
const HEADERS_MOST: usize = 32;

/// A request that has arrived whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `PUT`, …
    pub method: String,
    /// The path, with its first `/` and without a query.
    pub path: String,
    /// The body, if there is one.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Media type of the body.
    pub media: &'static str,
    /// The methods that exist, where the one asked for does not.
    pub allow: Option<&'static str>,
    /// Body.
    pub body: Vec<u8>,
}

impl Response {
    /// An answer in JSON.
    pub fn json(status: u16, value: &Value) -> Self {
        Self {
            status,
            media: "application/json",
            allow: None,
            body: format!("{value}\n").into_bytes(),
        }
    }

    /// A refusal that says what to do.
    pub fn refusal(status: u16, error: &str, remedy: &str) -> Self {
        Self::json(status, &json!({ "error": error, "remedy": remedy }))
    }

    /// As it is sent. The connection ends with it.
    pub fn bytes(&self) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            204 => "No Content",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            409 => "Conflict",
            413 => "Content Too Large",
            _ => "Error",
        };
        let mut head = format!("HTTP/1.1 {} {reason}\r\nConnection: close\r\n", self.status);
        if let Some(allow) = self.allow {
            head.push_str(&format!("Allow: {allow}\r\n"));
        }
        if self.status != 204 {
            head.push_str(&format!(
                "Content-Type: {}\r\nContent-Length: {}\r\n",
                self.media,
                self.body.len()
            ));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// How far a request has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More has to come.
    Partial,
    /// All of it is there.
    Whole(Request),
    /// It will not become one that is answered.
    Refused(Response),
}

fn too_large() -> Progress {
    Progress::Refused(Response::refusal(
        413,
        "the request is too large",
        "send at most 8 KiB of head and 16 KiB of body",
    ))
}

fn malformed(what: &str) -> Progress {
    Progress::Refused(Response::refusal(
        400,
        what,
        "send HTTP/1.1 with a Content-Length",
    ))
}

/// Looks for a request in what has been read so far.
pub fn parse(bytes: &[u8]) -> Progress {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MOST];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_MOST => length,
        Ok(httparse::Status::Partial) if bytes.len() <= HEAD_MOST => return Progress::Partial,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return too_large(),
        Err(error) => return malformed(&format!("not a request: {error}")),
    };
    let mut body_length = None;
    for header in head.headers.iter() {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return malformed("a transfer encoding is not understood");
        }
        if !header.name.eq_ignore_ascii_case("content-length") {
            continue;
        }
        // Digits only: a sign, or a second and other length, is how requests are smuggled.
        let digits = std::str::from_utf8(header.value).unwrap_or_default();
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        match digits.parse::<usize>() {
            Ok(n) if is_number && body_length.is_none_or(|other| other == n) => {
                body_length = Some(n);
            }
            Err(error) if is_number && *error.kind() == std::num::IntErrorKind::PosOverflow => {
                return too_large();
            }
            _ => return malformed("the Content-Length is no length"),
        }
    }
    let body_length = body_length.unwrap_or(0);
    if body_length > BODY_MOST {
        return too_large();
    }
    let Some(body) = bytes.get(length..length + body_length) else {
        return Progress::Partial;
    };
    let target = head.path.unwrap_or_default();
    Progress::Whole(Request {
        method: head.method.unwrap_or_default().to_owned(),
        path: target.split('?').next().unwrap_or_default().to_owned(),
        body: body.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    //! Guards that any bytes are a request, the start of one or refused, and within bounds.
    use super::*;

    #[test]
    fn a_request_is_found_in_pieces() {
        let whole = b"PUT /machine/pause?x HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), Progress::Partial, "{end}");
        }
        let Progress::Whole(request) = parse(whole) else {
            panic!("not whole");
        };
        assert_eq!(
            (&*request.method, &*request.path),
            ("PUT", "/machine/pause")
        );
        assert_eq!(request.body, b"{}");
    }

    fn status(bytes: &[u8]) -> u16 {
        match parse(bytes) {
            Progress::Refused(response) => response.status,
            Progress::Partial => 0,
            Progress::Whole(_) => 200,
        }
    }

    #[test]
    fn what_is_no_request_or_too_large_is_refused() {
        let with = |header: &str| status(format!("GET / HTTP/1.1\r\n{header}\r\n\r\n").as_bytes());
        assert_eq!(status(b"\x16\x03\x01 TLS"), 400);
        assert_eq!(with("Content-Length: 16385"), 413);
        assert_eq!(with("Content-Length: 99999999999999999999999"), 413);
        for wrong in ["+1", "-1", "", "1, 1", "x"] {
            assert_eq!(with(&format!("Content-Length: {wrong}")), 400, "{wrong}");
        }
        assert_eq!(with("Content-Length: 1\r\nContent-Length: 2"), 400);
        assert_eq!(with("Transfer-Encoding: chunked"), 400);
        assert_eq!(with(&"A: b\r\n".repeat(40)), 413);
        assert_eq!(status(&[b'A'; HEAD_MOST + 1]), 413);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_judged(bytes: Vec<u8>) {
            let long = [b"GET / HTTP/1.1\r\n", &bytes[..]].concat();
            let _ = (parse(&bytes), parse(&long));
        }
    }
}
