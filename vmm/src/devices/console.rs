//! Where the serial port's output goes, and where its input comes from.
//!
//! A machine has any number of consoles; each gets all output. A socket's client that
//! connects late is first given the recent output, and one that does not read is cut off
//! rather than waited for: the guest never stops for a spectator.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::terminal::Terminal;

use super::console_log::ConsoleLog;
use super::serial::{self, SharedSerial};
use crate::confinement::{ThreadKind, enter_thread};
use crate::options::ConsoleOption;
use crate::socket_file::SocketFile;
use crate::stop_signals;

/// How much past output a new client of a socket is shown, in bytes.
const BACKLOG: usize = 64 << 10;

/// Why a console could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// A file could not be opened or a socket not bound.
    #[error("cannot open the console {path}")]
    Open {
        /// File or socket.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The reading thread could not be started.
    #[error("cannot start a console's thread")]
    Thread(#[source] io::Error),
}

#[derive(Default)]
struct Spectators {
    backlog: VecDeque<u8>,
    clients: Vec<UnixStream>,
}

impl Spectators {
    fn show(&mut self, bytes: &[u8]) {
        self.backlog.extend(bytes);
        let surplus = self.backlog.len().saturating_sub(BACKLOG);
        self.backlog.drain(..surplus);
        self.clients
            .retain_mut(|client| client.write_all(bytes).is_ok());
    }

    fn join(&mut self, mut client: UnixStream) {
        let past = self.backlog.make_contiguous();
        if client.write_all(past).is_ok() {
            self.clients.push(client);
        }
    }
}

/// All consoles of a machine.
pub struct Consoles {
    files: Vec<ConsoleLog>,
    sockets: Vec<(SocketFile, UnixListener)>,
    spectators: Arc<Mutex<Spectators>>,
    stdio: bool,
}

/// The consoles' output side, to be given to the serial port.
struct Output {
    files: Vec<ConsoleLog>,
    spectators: Option<Arc<Mutex<Spectators>>>,
    stdio: bool,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // One console's failure is not the others' loss.
        let mut failed = None;
        for file in &mut self.files {
            if let Err(error) = file.write_all(bytes) {
                failed = Some(error);
            }
        }
        if let Some(spectators) = &self.spectators {
            lock(spectators).show(bytes);
        }
        if self.stdio {
            let mut out = io::stdout().lock();
            if let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
                failed = Some(error);
            }
        }
        failed.map_or(Ok(bytes.len()), Err)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lock(spectators: &Mutex<Spectators>) -> std::sync::MutexGuard<'_, Spectators> {
    spectators.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Consoles {
    /// Opens files and binds sockets.
    pub fn open(options: &[ConsoleOption]) -> Result<Self, ConsoleError> {
        let mut consoles = Self {
            files: Vec::new(),
            sockets: Vec::new(),
            spectators: Arc::default(),
            stdio: false,
        };
        for option in options {
            let failed = |path: &Path| {
                let path = path.to_owned();
                move |source| ConsoleError::Open { path, source }
            };
            match option {
                ConsoleOption::File(path) => {
                    let file = ConsoleLog::open(path).map_err(failed(path))?;
                    consoles.files.push(file);
                }
                ConsoleOption::Socket(path) => {
                    let bound = SocketFile::bind(path).map_err(failed(path))?;
                    consoles.sockets.push(bound);
                }
                ConsoleOption::Stdio => consoles.stdio = true,
            }
        }
        Ok(consoles)
    }

    /// The writer that shows a serial port's output on all consoles.
    pub fn output(&self) -> Result<Box<dyn Write + Send>, ConsoleError> {
        let files = self.files.iter().map(ConsoleLog::try_clone);
        Ok(Box::new(Output {
            files: files
                .collect::<Result<_, _>>()
                .map_err(ConsoleError::Thread)?,
            spectators: (!self.sockets.is_empty()).then(|| self.spectators.clone()),
            stdio: self.stdio,
        }))
    }

    /// Starts what types at whichever serial port `current` holds.
    ///
    /// The returned guard puts the terminal back into its former mode when dropped.
    pub fn start_input(&self, current: CurrentSerial) -> Result<TerminalGuard, ConsoleError> {
        for (_, listener) in &self.sockets {
            let listener = listener.try_clone().map_err(ConsoleError::Thread)?;
            let (spectators, current) = (self.spectators.clone(), current.clone());
            spawn("console-accept", move || {
                for client in listener.incoming().flatten() {
                    admit(client, &spectators, &current);
                }
            })?;
        }
        if !self.stdio {
            return Ok(TerminalGuard(false));
        }
        // Not a terminal: input still works, and there is no mode to change.
        let raw = io::stdin().lock().set_raw_mode().is_ok();
        spawn("console-stdin", move || {
            pump(WithEscape(io::stdin(), raw), &current);
        })?;
        Ok(TerminalGuard(raw))
    }
}

/// The serial port that consoles type into; another one after the machine was restarted.
pub type CurrentSerial = Arc<Mutex<Option<SharedSerial>>>;

/// Restores the terminal's mode.
pub struct TerminalGuard(bool);

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        if self.0 {
            let _ = io::stdin().lock().set_canon_mode();
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), ConsoleError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            enter_thread(ThreadKind::Console);
            body();
        })
        .map(drop)
        .map_err(ConsoleError::Thread)
}

fn admit(client: UnixStream, spectators: &Arc<Mutex<Spectators>>, current: &CurrentSerial) {
    let Ok(writer) = client.try_clone() else {
        return;
    };
    // A full socket buffer ends the connection instead of stopping the guest. Reading is
    // done on a thread of its own, which a time limit on writing does not concern.
    let limit = Some(std::time::Duration::from_millis(50));
    if writer.set_write_timeout(limit).is_err() {
        return;
    }
    lock(spectators).join(writer);
    let current = current.clone();
    if let Err(error) = spawn("console-client", move || pump(client, &current)) {
        tracing::warn!(%error, "a console client cannot type");
    }
}

/// A terminal whose every key goes to the guest but the one that stops the machine: in raw
/// mode the terminal itself makes no signals.
struct WithEscape<R>(R, bool);

/// Ctrl-], as in telnet and virsh.
const ESCAPE: u8 = 0x1d;

impl<R: Read> Read for WithEscape<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buffer)?;
        if self.1 && buffer[..n].contains(&ESCAPE) {
            stop_signals::send();
        }
        Ok(n)
    }
}

fn pump(mut from: impl Read, current: &CurrentSerial) {
    let mut buffer = [0; 256];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let serial = current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(serial) = serial {
            serial::type_into(&serial, &buffer[..n]);
        }
    }
}

#[cfg(test)]
mod tests {
    //! Guards that every console sees everything, also one that comes late.
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn file_and_late_client_see_all_output() {
        let dir = tempfile::tempdir().unwrap();
        let (file, socket) = (dir.path().join("log"), dir.path().join("sock"));
        let options = [
            ConsoleOption::File(file.clone()),
            ConsoleOption::Socket(socket.clone()),
        ];
        let consoles = Consoles::open(&options).unwrap();
        let _guard = consoles.start_input(CurrentSerial::default()).unwrap();
        let mut output = consoles.output().unwrap();
        output.write_all(b"early ").unwrap();

        let mut client = UnixStream::connect(&socket).unwrap();
        let mut seen = [0; 6];
        client.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"early ");
        output.write_all(b"later!").unwrap();
        client.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"later!");
        assert_eq!(std::fs::read(&file).unwrap(), b"early later!");

        drop(client);
        output.write_all(b"and on").unwrap();
        output.write_all(b"and on").unwrap();
    }
}
