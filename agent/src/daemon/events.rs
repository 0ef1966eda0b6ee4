//! What the daemon sleeps for: signals, files that change in its directory, and one timer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

/// What woke the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// It is to end.
    pub end: bool,
    /// It is to ask the vault for its policy (SIGHUP).
    pub reload: bool,
}

/// The sources.
pub struct Events {
    signals: SignalFd,
    files: OwnedFd,
}

impl Events {
    /// Listens to signals and to files that come or go in this directory. Signals are blocked
    /// from now on: they wait until they are read. Programs that are started inherit that.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let mut wanted = SigSet::empty();
        for signal in [
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGCHLD,
        ] {
            wanted.add(signal);
        }
        wanted.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&wanted, flags)?;
        let files = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        // Files are put in each other's place, never written where they are.
        let changes = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::DELETE;
        inotify::add_watch(&files, dir, changes)?;
        Ok(Self { signals, files })
    }

    /// Sleeps until something happens, at most so long. A child that ended and a file that
    /// changed wake without saying so: whoever is awake looks.
    pub fn wait(&mut self, longest: Duration) -> io::Result<Woken> {
        let timeout = Timespec {
            tv_sec: i64::try_from(longest.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: longest.subsec_nanos().into(),
        };
        let mut sources = [
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::new(&self.files, PollFlags::IN),
        ];
        match poll(&mut sources, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.drain_files()?;
        self.read_signals()
    }

    fn read_signals(&mut self) -> io::Result<Woken> {
        let mut woken = Woken::default();
        while let Some(info) = self.signals.read_signal()? {
            match Signal::try_from(info.ssi_signo.cast_signed()) {
                Ok(Signal::SIGTERM | Signal::SIGINT) => woken.end = true,
                Ok(Signal::SIGHUP) => woken.reload = true,
                _ => {}
            }
        }
        Ok(woken)
    }

    fn drain_files(&mut self) -> io::Result<()> {
        let mut buffer = [0u8; 4096];
        loop {
            match rustix::io::read(&self.files, &mut buffer) {
                Ok(0) | Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
