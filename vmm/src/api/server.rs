//! One thread that serves all clients of the control socket, none of whom can hold it up.
//!
//! A connection carries one request. What it sends and takes is bounded, in bytes and in time;
//! when there are too many connections the newest waits in the listener's queue.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use super::message::{Progress, Response, parse};
use super::{SharedMachine, answer};
use crate::confinement::{ThreadKind, enter_thread};

/// Most connections at a time.
const MOST: usize = 16;
/// From the connection to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts to serve `machine` on a socket that was bound.
pub fn serve(listener: UnixListener, machine: SharedMachine) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            enter_thread(ThreadKind::Control);
            let mut connections = Vec::new();
            loop {
                if let Err(error) = turn(&listener, &mut connections, &machine) {
                    tracing::error!(%error, "the control socket is served no more");
                    return;
                }
            }
        })
        .map(drop)
}

struct Connection {
    stream: UnixStream,
    until: Instant,
    read: Vec<u8>,
    /// What is left of the answer, once there is one.
    answer: Option<Vec<u8>>,
}

/// Waits until something can be done, and does it.
fn turn(
    listener: &UnixListener,
    connections: &mut Vec<Connection>,
    machine: &SharedMachine,
) -> io::Result<()> {
    let waits = |fd: &dyn AsRawFd, events| libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    let mut waiting: Vec<_> = connections
        .iter()
        .map(|c| match c.answer {
            None => waits(&c.stream, libc::POLLIN),
            Some(_) => waits(&c.stream, libc::POLLOUT),
        })
        .collect();
    let has_room = connections.len() < MOST;
    if has_room {
        waiting.push(waits(listener, libc::POLLIN));
    }
    let next = connections.iter().map(|c| c.until).min();
    let timeout = next.map_or(-1, |at| {
        let left = at.saturating_duration_since(Instant::now());
        left.as_millis() as libc::c_int + 1
    });
    // SAFETY: the pointer and the count are those of one vector.
    let ready = unsafe { libc::poll(waiting.as_mut_ptr(), waiting.len() as libc::nfds_t, timeout) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            _ => Err(error),
        };
    }
    let mut events = waiting.iter().map(|w| w.revents != 0);
    let now = Instant::now();
    connections.retain_mut(|connection| {
        let is_ready = events.next().unwrap_or(false);
        let goes_on = !is_ready || connection.step(machine).unwrap_or(false);
        goes_on && now < connection.until
    });
    if has_room && events.next().unwrap_or(false) {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                connections.push(Connection {
                    stream,
                    until: now + PATIENCE,
                    read: Vec::new(),
                    answer: None,
                });
            }
            // A client that has gone again, or no descriptors left for a moment.
            Err(error) => tracing::debug!(%error, "no control connection"),
        }
    }
    Ok(())
}

impl Connection {
    /// Reads or writes what can be; false when the connection has done its duty.
    fn step(&mut self, machine: &SharedMachine) -> io::Result<bool> {
        if self.answer.is_none() {
            let mut piece = [0; 4096];
            let n = self.stream.read(&mut piece)?;
            self.read.extend_from_slice(&piece[..n]);
            let response = match parse(&self.read) {
                Progress::Partial if n == 0 => return Ok(false),
                Progress::Partial => return Ok(true),
                Progress::Refused(response) => response,
                Progress::Whole(request) => answer(&request, machine),
            };
            self.read = Vec::new();
            self.answer = Some(Response::bytes(&response));
        }
        let Some(answer) = &mut self.answer else {
            return Ok(false);
        };
        let written = match self.stream.write(answer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            other => other?,
        };
        answer.drain(..written);
        if answer.is_empty() {
            self.stream.shutdown(std::net::Shutdown::Write)?;
        }
        Ok(!answer.is_empty())
    }
}
