//! SIGINT, SIGTERM and SIGHUP: the operator's way to stop a machine without its socket.

use std::io;

use vmm_sys_util::signal::create_sigset;

use crate::confinement::{ThreadKind, enter_thread};

const SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

fn set() -> io::Result<libc::sigset_t> {
    create_sigset(&SIGNALS).map_err(|e| io::Error::from_raw_os_error(e.errno()))
}

/// Keeps the signals from ending this thread and those it starts from now on.
pub fn block() -> io::Result<()> {
    let set = set()?;
    // SAFETY: `set` is an initialised signal set, and no old mask is asked for.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    match result {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Sends this process one of the signals.
pub fn send() {
    // SAFETY: raising a signal for the own process touches no memory.
    unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
}

/// Calls `stop` for each of the signals, from a thread of its own. The signals must be
/// blocked.
pub fn watch(stop: impl Fn() + Send + 'static) -> io::Result<()> {
    let set = set()?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            enter_thread(ThreadKind::Control);
            let mut signal = 0;
            // SAFETY: `set` is an initialised signal set and `signal` a place for a number.
            while unsafe { libc::sigwait(&set, &mut signal) } == 0 {
                tracing::info!(signal, "stopping the machine");
                stop();
            }
        })
        .map(drop)
}
