//! The machine's HTTP API on a Unix socket, described by `docs/vmm-api.yaml`.
//!
//! [`server`](serve) moves bytes, `message` finds requests in them, and this module decides.

mod message;
mod server;

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde_json::json;

pub use self::message::{Progress, Request, Response, parse};
pub use self::server::serve;
use crate::confinement::Confinement;

/// The description, as it is served.
const OPENAPI: &str = include_str!("../../../docs/vmm-api.yaml");

/// What can be asked of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Press the power button; the guest decides what to do.
    PowerButton,
    /// End the machine now, as by pulling the plug.
    Stop,
    /// Reset it, as by its reset button.
    Reset,
    /// Let its vCPUs wait.
    Pause,
    /// Let them run on.
    Resume,
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
    /// Does a command.
    fn command(&mut self, command: Command) -> Result<(), Refusal>;
}

/// A machine shared by signals and the clients of its socket.
pub type SharedMachine = Arc<Mutex<dyn Controlled>>;

#[derive(Clone, Copy)]
enum Route {
    Status,
    Description,
    Do(Command),
}

/// Every path there is, with its one method.
const ROUTES: &[(&str, &str, Route)] = &[
    ("/machine", "GET", Route::Status),
    ("/machine/pause", "PUT", Route::Do(Command::Pause)),
    ("/machine/resume", "PUT", Route::Do(Command::Resume)),
    ("/machine/reset", "PUT", Route::Do(Command::Reset)),
    (
        "/machine/power-button",
        "PUT",
        Route::Do(Command::PowerButton),
    ),
    ("/machine/stop", "PUT", Route::Do(Command::Stop)),
    ("/openapi.yaml", "GET", Route::Description),
];

/// Answers a request.
pub fn answer(request: &Request, machine: &Mutex<dyn Controlled>) -> Response {
    let found = ROUTES.iter().find(|(path, ..)| *path == request.path);
    let Some((_, method, route)) = found else {
        return Response::refusal(404, "there is no such path", "GET /openapi.yaml lists them");
    };
    if *method != request.method {
        let remedy = format!("use {method}");
        return Response {
            allow: Some(method),
            ..Response::refusal(405, "the path has no such method", &remedy)
        };
    }
    if !request.body.is_empty() && !is_empty_object(&request.body) {
        return Response::refusal(400, "the body is no empty JSON object", "send none, or {}");
    }
    let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
    match route {
        Route::Status => Response::json(200, &json!(machine.status())),
        Route::Description => Response {
            status: 200,
            media: "application/yaml",
            allow: None,
            body: OPENAPI.as_bytes().to_vec(),
        },
        Route::Do(command) => match machine.command(*command) {
            Ok(()) => Response {
                status: 204,
                media: "",
                allow: None,
                body: Vec::new(),
            },
            Err(refusal) => Response::json(409, &json!(refusal)),
        },
    }
}

fn is_empty_object(body: &[u8]) -> bool {
    let value = serde_json::from_slice::<serde_json::Value>(body);
    value.is_ok_and(|value| value.as_object().is_some_and(serde_json::Map::is_empty))
}

#[cfg(test)]
#[path = "api_test.rs"]
mod tests;
