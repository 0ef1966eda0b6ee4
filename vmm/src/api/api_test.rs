//! Guards the routes and their description, and that no client holds up another.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;
use crate::confinement::ConfinementOption;
use crate::socket_file::SocketFile;

#[derive(Default)]
struct Fake(Vec<Command>);

impl Controlled for Fake {
    fn status(&self) -> Status {
        Status {
            state: "running",
            cpus: 2,
            memory_mib: 512,
            uuid: "u".to_owned(),
            uptime_ms: 7,
            resets: 0,
            quirks: false,
            confinement: Confinement {
                mode: ConfinementOption::Off,
                uid: 1,
                gid: 1,
                missing: Vec::new(),
            },
        }
    }

    fn command(&mut self, command: Command) -> Result<(), Refusal> {
        if command == Command::Resume {
            return Err(Refusal {
                error: "not paused".to_owned(),
                remedy: "pause first".to_owned(),
            });
        }
        self.0.push(command);
        Ok(())
    }
}

fn ask(method: &str, path: &str, body: &[u8]) -> Response {
    let request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        body: body.to_vec(),
    };
    answer(&request, &Mutex::new(Fake::default()))
}

#[test]
fn the_description_and_the_routes_agree() {
    let mut described = Vec::new();
    let mut path = "";
    let paths = OPENAPI.split("\npaths:\n").nth(1).unwrap();
    let paths = paths.split("\ncomponents:\n").next().unwrap();
    for line in paths.lines() {
        if let Some(name) = line.strip_prefix("  /") {
            path = name.trim_end_matches(':');
        } else if let Some(key) = line.strip_prefix("    ")
            && !key.starts_with(' ')
        {
            let method = key.trim_end_matches(':').to_uppercase();
            described.push((format!("/{path}"), method));
        }
    }
    let routes: Vec<_> = ROUTES
        .iter()
        .map(|(path, method, _)| ((*path).to_owned(), (*method).to_owned()))
        .collect();
    assert_eq!(described, routes);
    for (path, method) in described {
        let status = ask(&method, &path, b"").status;
        assert!(
            matches!(status, 200 | 204 | 409),
            "{method} {path}: {status}"
        );
    }
}

#[test]
fn refusals_say_what_to_do() {
    for (method, path, body, status) in [
        ("PUT", "/machine/resume", &b""[..], 409),
        ("PUT", "/machine/explode", b"", 404),
        ("GET", "/machine/", b"", 404),
        ("DELETE", "/machine", b"", 405),
        ("GET", "/machine/stop", b"", 405),
        ("PUT", "/machine/stop", b"{", 400),
        ("PUT", "/machine/stop", b"[1]", 400),
    ] {
        let response = ask(method, path, body);
        assert_eq!(response.status, status, "{method} {path}");
        let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        assert!(body["error"].is_string() && body["remedy"].is_string());
        assert_eq!(response.allow.is_some(), status == 405);
    }
    assert_eq!(ask("PUT", "/machine/stop", b" {} ").status, 204);
}

#[test]
fn half_clients_and_a_crowd_hold_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    let (_file, listener) = SocketFile::bind(&path).unwrap();
    serve(listener, Arc::new(Mutex::new(Fake::default()))).unwrap();
    let mut half: Vec<_> = (0..15)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    for stream in &mut half {
        stream.write_all(b"GET /mach").unwrap();
    }
    for _ in 0..40 {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"GET /machine HTTP/1.1\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("\"state\":\"running\""), "{text}");
    }
    // A half request can still become a whole one.
    half[0].write_all(b"ine HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    half[0].read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}
