//! The control socket: one JSON object a line in, one a line out.
//!
//! `{"command":"status"}` → `{"ok":true,"state":"running",…}`; a command that cannot be
//! done is answered with `{"ok":false,"error":…,"remedy":…}`. Any number of clients may be
//! connected; the machine does one command after another.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::confinement::{Confinement, ThreadKind, enter_thread};

/// Longest line that is read, in bytes.
const LINE_MAX: u64 = 64 << 10;

/// What can be asked of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Tell how it is.
    Status,
    /// Press the power button; the guest decides what to do.
    PowerButton,
    /// End the machine now, as by pulling the plug.
    Stop,
    /// Let its vCPUs wait.
    Pause,
    /// Let them run on.
    Resume,
}

#[derive(Deserialize)]
struct Request {
    command: Command,
}

/// How a machine is.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// `starting`, `running`, `paused` or `stopped`.
    pub state: &'static str,
    /// Number of vCPUs.
    pub cpus: u8,
    /// RAM in MiB.
    pub memory_mib: u64,
    /// The machine's UUID.
    pub uuid: String,
    /// Time since the machine was started, in milliseconds.
    pub uptime_ms: u64,
    /// How often the machine was reset and started again.
    pub resets: u32,
    /// The measures for KVM without VT-x or AMD-V are in use.
    pub quirks: bool,
    /// What the process has given up, and what it could not.
    pub confinement: Confinement,
}

/// Why a command was not done.
#[derive(Debug, Serialize)]
pub struct Refusal {
    /// What happened.
    pub error: String,
    /// What to do about it.
    pub remedy: String,
}

/// A machine that takes commands.
pub trait Controlled: Send {
    /// How it is.
    fn status(&self) -> Status;
    /// Does one of the commands other than [`Command::Status`].
    fn command(&mut self, command: Command) -> Result<(), Refusal>;
}

/// Answers one line.
pub fn answer(line: &str, machine: &mut dyn Controlled) -> Value {
    let done = match serde_json::from_str(line) {
        Ok(Request {
            command: Command::Status,
        }) => Ok(json!(machine.status())),
        Ok(Request { command }) => machine.command(command).map(|()| json!({})),
        Err(error) => Err(Refusal {
            error: format!("not a command: {error}"),
            remedy: "send {\"command\":\"status\"}, power-button, stop, pause or resume".to_owned(),
        }),
    };
    let (ok, mut reply) = match done {
        Ok(facts) => (true, facts),
        Err(refusal) => (false, json!(refusal)),
    };
    reply["ok"] = json!(ok);
    reply
}

/// A machine shared by the clients of its control socket.
pub type SharedMachine = Arc<Mutex<dyn Controlled>>;

/// Starts to serve `machine` on a socket that was bound.
pub fn serve(listener: UnixListener, machine: SharedMachine) -> io::Result<()> {
    std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            enter_thread(ThreadKind::Control);
            for client in listener.incoming().flatten() {
                let machine = machine.clone();
                let talk = move || {
                    if let Err(error) = talk(&client, &machine) {
                        tracing::debug!(%error, "a control connection ended");
                    }
                };
                let name = "control-client".to_owned();
                if let Err(error) = std::thread::Builder::new().name(name).spawn(talk) {
                    tracing::warn!(%error, "a control connection was refused");
                }
            }
        })
        .map(drop)
}

fn talk(mut stream: &UnixStream, machine: &Mutex<dyn Controlled>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.by_ref().take(LINE_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            continue;
        }
        let reply = {
            let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
            answer(&line, &mut *machine)
        };
        writeln!(stream, "{reply}")?;
    }
}

#[cfg(test)]
#[path = "control_test.rs"]
mod tests;
