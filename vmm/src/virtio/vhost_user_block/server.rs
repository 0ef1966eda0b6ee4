//! The connection to a disk server: questions that end in time, and the watch over its end.
//!
//! The protocol's library waits for an answer as long as the socket is open, whatever time
//! limit the socket has. So a timer runs beside every question, and when it is over the
//! watcher closes the connection, which ends the wait. Without it a server that hangs would
//! keep the guest's reset, and the end of the whole machine, waiting for ever.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vhost::vhost_user::Frontend;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

use crate::virtio::interrupt::Interrupt;
use crate::virtio::worker::{Events, Service, ServiceError, Worker};

const TOKEN_HANG_UP: u64 = 0;
const TOKEN_DEADLINE: u64 = 1;

/// A disk server that is connected.
pub(super) struct Server {
    // The order of fields is the order of dropping: the watcher holds the connection open
    // until nobody asks any more, and then goes without taking its end for the server's.
    frontend: Frontend,
    shared: Arc<Shared>,
    /// How long a question may take.
    pub(super) patience: Duration,
    _watcher: Worker,
}

struct Shared {
    deadline: Mutex<TimerFd>,
    lost: EventFd,
    /// Whom the loss concerns: the device while its driver uses it.
    interrupt: Mutex<Option<Interrupt>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Talks over `socket`, connected to `path`. A server that leaves a question unanswered for as
    /// long as `patience` is given up; there are at most `queues` queues.
    pub(super) fn new(
        path: &Path,
        socket: UnixStream,
        queues: u16,
        patience: Duration,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            deadline: Mutex::new(TimerFd::new().map_err(from_errno)?),
            lost: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            interrupt: Mutex::new(None),
        });
        let watcher = Watcher {
            path: path.to_owned(),
            socket: socket.try_clone()?,
            shared: shared.clone(),
        };
        Ok(Self {
            frontend: Frontend::from_stream(socket, u64::from(queues)),
            shared,
            patience,
            _watcher: Worker::spawn("vhost-user-watch", watcher, |_| {})?,
        })
    }

    /// Asks the server something.
    pub(super) fn ask<T>(
        &mut self,
        question: impl FnOnce(&mut Frontend) -> vhost::Result<T>,
    ) -> vhost::Result<T> {
        let started = lock(&self.shared.deadline).reset(self.patience, None);
        if let Err(error) = started {
            tracing::warn!(%error, "no time limit on a question to the disk server");
        }
        let answer = question(&mut self.frontend);
        // A timer that cannot be stopped closes the connection, which is said in the log.
        let _ = lock(&self.shared.deadline).clear();
        answer
    }

    /// Readable once the server is gone.
    pub(super) fn lost(&self) -> io::Result<EventFd> {
        self.shared.lost.try_clone()
    }

    /// Says whose driver is to hear of the server's loss; none while no driver is ready.
    pub(super) fn concerns(&self, interrupt: Option<Interrupt>) {
        *lock(&self.shared.interrupt) = interrupt;
    }
}

fn from_errno(errno: vmm_sys_util::errno::Error) -> io::Error {
    io::Error::from_raw_os_error(errno.errno())
}

struct Watcher {
    path: PathBuf,
    socket: UnixStream,
    shared: Arc<Shared>,
}

impl Service for Watcher {
    fn register(&self, events: &Events) -> io::Result<()> {
        events.watch(&*lock(&self.shared.deadline), TOKEN_DEADLINE)?;
        events.watch_hang_up(&self.socket, TOKEN_HANG_UP)
    }

    fn ready(&mut self, events: &Events, token: u64) -> Result<(), ServiceError> {
        if token == TOKEN_DEADLINE {
            tracing::error!(path = %self.path.display(), "the disk server does not answer");
            events.forget(&*lock(&self.shared.deadline))?;
            // Ends the question; the hang-up then ends everything else.
            self.socket.shutdown(Shutdown::Both)?;
            return Ok(());
        }
        events.forget(&self.socket)?;
        tracing::error!(
            path = %self.path.display(),
            "the disk server is gone: the guest's disk does not answer any more"
        );
        self.shared.lost.write(1)?;
        if let Some(interrupt) = &*lock(&self.shared.interrupt) {
            interrupt.demand_reset();
        }
        Ok(())
    }
}
