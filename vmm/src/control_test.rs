//! Guards the control protocol: every command, and what is none.
#![allow(clippy::unwrap_used)]

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

#[test]
fn commands_are_done_and_answered() {
    let mut fake = Fake::default();
    let status = answer(r#"{"command":"status"}"#, &mut fake);
    assert_eq!(status["ok"], true);
    assert_eq!(status["state"], "running");
    assert_eq!(status["memory_mib"], 512);
    for command in ["power-button", "stop", "pause"] {
        let reply = answer(&format!(r#"{{"command":"{command}"}}"#), &mut fake);
        assert_eq!(reply, json!({"ok": true}));
    }
    assert_eq!(
        fake.0,
        [Command::PowerButton, Command::Stop, Command::Pause]
    );
}

#[test]
fn refusals_and_nonsense_say_what_to_do() {
    let mut fake = Fake::default();
    let refused = answer(r#"{"command":"resume"}"#, &mut fake);
    assert_eq!(
        refused,
        json!({"ok": false, "error": "not paused", "remedy": "pause first"})
    );
    for line in ["", "{}", "stop", r#"{"command":"explode"}"#, "[1,2"] {
        let reply = answer(line, &mut fake);
        assert_eq!(reply["ok"], false, "{line:?}");
        assert!(reply["remedy"].is_string());
    }
    assert!(fake.0.is_empty());
}

#[test]
fn a_connection_carries_many_commands_and_survives_nonsense() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    let (guard, listener) = SocketFile::bind(&path).unwrap();
    serve(listener, Arc::new(Mutex::new(Fake::default()))).unwrap();
    let stream = UnixStream::connect(&path).unwrap();
    let mut replies = BufReader::new(&stream).lines();
    for (line, ok) in [("nonsense", false), (r#"{"command":"stop"}"#, true)] {
        writeln!(&stream, "{line}").unwrap();
        let reply: Value = serde_json::from_str(&replies.next().unwrap().unwrap()).unwrap();
        assert_eq!(reply["ok"], ok);
    }
    drop(guard);
    assert!(!path.exists());
}
