//! Work done inside a network namespace.
//!
//! A namespace belongs to a thread, so each piece of work has a thread of its own that enters
//! the namespace and ends in it; the rest of the process stays where it is. Sockets keep the
//! namespace in which they were made.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns};

/// Runs `work` on a new thread inside the namespace whose file is `path`, or inside the
/// process's own when there is none.
pub fn spawn_in<T: Send + 'static>(
    path: Option<&Path>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<io::Result<T>>> {
    let namespace = path.map(File::open).transpose()?;
    std::thread::Builder::new()
        .name("in-namespace".into())
        .spawn(move || {
            if let Some(namespace) = namespace {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
            }
            Ok(work())
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::path::PathBuf;

    /// Guards that work happens in the given namespace and nowhere else: a listener of this
    /// namespace is not there in a new one.
    #[test]
    fn work_happens_inside_the_namespace() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let connects = move || TcpStream::connect(address).is_ok();
        assert!(spawn_in(None, connects).unwrap().join().unwrap().unwrap());

        let (tell, hear) = std::sync::mpsc::channel();
        let (end, until_end) = std::sync::mpsc::channel::<()>();
        let holder = std::thread::spawn(move || {
            let made = nix::sched::unshare(CloneFlags::CLONE_NEWNET);
            let path = PathBuf::from(format!(
                "/proc/{}/task/{}/ns/net",
                std::process::id(),
                nix::unistd::gettid()
            ));
            tell.send(made.map(|()| path)).unwrap();
            let _ = until_end.recv();
        });
        match hear.recv().unwrap() {
            Ok(path) => {
                let inside = spawn_in(Some(&path), connects).unwrap();
                assert!(
                    !inside.join().unwrap().unwrap(),
                    "reached a listener outside"
                );
            }
            Err(error) => eprintln!("skipped: no new network namespace here ({error})"),
        }
        drop(end);
        holder.join().unwrap();
    }
}
