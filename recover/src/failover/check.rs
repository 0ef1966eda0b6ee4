//! Evidence that a recovered server works: a text on its console, a port, a page.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::network::publish::connect_in;

const CONNECT: Duration = Duration::from_secs(5);
/// A server that just started, on a slow host, may take its time for the first page.
const ANSWER: Duration = Duration::from_secs(60);
const MOST_OF_A_PAGE: u64 = 1 << 20;
/// Bytes of the console that are searched: all that a boot prints.
const MOST_OF_A_CONSOLE: u64 = 16 << 20;

/// What to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The console shows this text.
    Console(String),
    /// The port accepts connections.
    Tcp(u16),
    /// The page is there.
    Http {
        /// Port.
        port: u16,
        /// Path, with its first `/`.
        path: String,
        /// Text in the page.
        text: Option<String>,
    },
}

impl Check {
    /// Reads `[:PORT]/PATH[=TEXT]`.
    pub fn http(text: &str) -> Result<Self, String> {
        let (port, rest) = match text.strip_prefix(':') {
            Some(rest) => {
                let (port, _) = rest.split_once('/').unwrap_or((rest, ""));
                let number = port
                    .parse()
                    .map_err(|_| format!("'{port}' is not a port"))?;
                (number, &rest[port.len()..])
            }
            None => (80, text),
        };
        let (path, expected) = match rest.split_once('=') {
            Some((path, expected)) => (path, Some(expected.to_string())),
            None => (rest, None),
        };
        let clean = path.starts_with('/') && path.chars().all(|c| c.is_ascii_graphic());
        if !clean {
            return Err(format!(
                "'{text}' is not /PATH or /PATH=TEXT or :PORT/PATH=TEXT"
            ));
        }
        Ok(Self::Http {
            port,
            path: path.into(),
            text: expected,
        })
    }

    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Self::Console(text) => format!("the console shows '{text}'"),
            Self::Tcp(port) => format!("TCP port {port} answers"),
            Self::Http { port, path, text } => {
                let page = match port {
                    80 => format!("http {path} answers"),
                    other => format!("http :{other}{path} answers"),
                };
                match text {
                    Some(text) => format!("{page} with '{text}'"),
                    None => page,
                }
            }
        }
    }
}

/// Where to look for evidence.
#[derive(Clone, Debug)]
pub struct Witness {
    /// The console's file.
    pub console: PathBuf,
    /// The namespace's file.
    pub namespace: Option<PathBuf>,
    /// The server's addresses.
    pub addresses: Vec<IpAddr>,
}

impl Witness {
    /// Looks once. What is missing is said in words.
    pub fn look(&self, check: &Check) -> Result<(), String> {
        match check {
            Check::Console(text) => self.console_shows(text),
            Check::Tcp(port) => self.connect(*port).map(drop),
            Check::Http { port, path, text } => {
                let stream = self.connect(*port)?;
                get(stream, path, text.as_deref())
            }
        }
    }

    fn console_shows(&self, text: &str) -> Result<(), String> {
        let console = read_console(&self.console).map_err(|e| format!("console: {e}"))?;
        let found = console
            .windows(text.len().max(1))
            .any(|window| window == text.as_bytes());
        if found || text.is_empty() {
            return Ok(());
        }
        let last = last_lines(&console, 1).pop().unwrap_or_default();
        Err(format!(
            "the console does not show it; its last line: {last}"
        ))
    }

    fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let mut reason = "the server's address is not known".to_string();
        for address in &self.addresses {
            let target = SocketAddr::new(*address, port);
            match connect_in(self.namespace.as_deref(), target, CONNECT) {
                Ok(stream) => return Ok(stream),
                Err(error) => reason = format!("{target}: {error}"),
            }
        }
        Err(reason)
    }
}

/// The end of a console's output.
pub fn read_console(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = match std::fs::File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let length = file.metadata()?.len();
    if length > MOST_OF_A_CONSOLE {
        io::Seek::seek(&mut file, io::SeekFrom::Start(length - MOST_OF_A_CONSOLE))?;
    }
    let mut bytes = Vec::new();
    file.take(MOST_OF_A_CONSOLE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Its last lines that are not empty, without control characters.
pub fn last_lines(console: &[u8], count: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(console);
    let clean = |line: &str| -> String {
        line.chars()
            .filter(|c| !c.is_control())
            .collect::<String>()
            .trim_end()
            .to_string()
    };
    let mut lines: Vec<String> = text
        .lines()
        .rev()
        .map(clean)
        .filter(|line| !line.is_empty())
        .take(count)
        .collect();
    lines.reverse();
    lines
}

/// One GET by HTTP/1.0, so that the answer ends with the connection.
fn get(mut stream: TcpStream, path: &str, expected: Option<&str>) -> Result<(), String> {
    let peer = stream
        .peer_addr()
        .map_or_else(|_| "server".into(), |a| a.to_string());
    let attempt = || -> io::Result<Vec<u8>> {
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let request = format!(
            "GET {path} HTTP/1.0\r\nHost: {peer}\r\nUser-Agent: relevo\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        match stream.take(MOST_OF_A_PAGE).read_to_end(&mut answer) {
            // Some servers end with a reset what they have answered in full.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset && !answer.is_empty() => {}
            other => drop(other?),
        }
        Ok(answer)
    };
    let answer = attempt().map_err(|e| format!("{peer}: {e}"))?;
    judge(&answer, expected)
}

fn judge(answer: &[u8], expected: Option<&str>) -> Result<(), String> {
    let text = String::from_utf8_lossy(answer);
    let status = text
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split_whitespace().nth(1))
        .and_then(|code| code.parse::<u16>().ok())
        .ok_or_else(|| "the answer is not HTTP".to_string())?;
    if !(200..400).contains(&status) {
        return Err(format!("the answer has status {status}"));
    }
    let body = text
        .split_once("\r\n\r\n")
        .or_else(|| text.split_once("\n\n"))
        .map_or("", |(_, body)| body);
    match expected {
        Some(expected) if !body.contains(expected) => {
            Err(format!("the page does not contain '{expected}'"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn http_checks_are_read() {
        let check = |text: &str| Check::http(text).unwrap();
        let http = |port, path: &str, text: Option<&str>| Check::Http {
            port,
            path: path.into(),
            text: text.map(Into::into),
        };
        assert_eq!(check("/"), http(80, "/", None));
        assert_eq!(check("/=db1"), http(80, "/", Some("db1")));
        assert_eq!(
            check(":8080/health=a=b"),
            http(8080, "/health", Some("a=b"))
        );
        for wrong in ["", "x", ":x/", ":80", "/a b"] {
            assert!(Check::http(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pages_are_judged_by_status_and_body() {
        let page = b"HTTP/1.1 200 OK\r\nX: db1\r\n\r\nhello web1";
        assert_eq!(judge(page, None), Ok(()));
        assert_eq!(judge(page, Some("web1")), Ok(()));
        assert!(
            judge(page, Some("db1")).is_err(),
            "found in the head, not in the page"
        );
        assert!(judge(b"HTTP/1.0 503 no\r\n\r\nweb1", Some("web1")).is_err());
        assert!(judge(b"SSH-2.0-OpenSSH\r\n", None).is_err());
        assert!(judge(b"", None).is_err());
    }

    #[test]
    fn a_console_is_searched_and_shown() {
        let dir = tempfile::tempdir().unwrap();
        let console = dir.path().join("console");
        let witness = Witness {
            console: console.clone(),
            namespace: None,
            addresses: vec![],
        };
        assert!(
            witness.look(&Check::Console("login:".into())).is_err(),
            "no file yet"
        );
        std::fs::write(&console, b"Linux\r\n\x1b[1mdb1 login: ").unwrap();
        assert_eq!(witness.look(&Check::Console("login:".into())), Ok(()));
        assert_eq!(
            last_lines(&read_console(&console).unwrap(), 2),
            ["Linux", "[1mdb1 login:"]
        );
        assert!(
            witness
                .look(&Check::Tcp(80))
                .unwrap_err()
                .contains("not known")
        );
    }
}
