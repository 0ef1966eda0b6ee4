//! Unix sockets that leave no file behind, and that take over one left by a crash.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// The file of a bound socket; dropping it removes the file, if the process may still write
/// to the directory. The directory is held open: by then its path may mean nothing here.
#[derive(Debug)]
pub struct SocketFile {
    directory: File,
    name: CString,
}

impl SocketFile {
    /// Binds `path`. A socket file that nobody listens on is replaced; anything else that
    /// is there is left alone and is an error.
    pub fn bind(path: &Path) -> io::Result<(Self, UnixListener)> {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let name = CString::new(name)?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(directory)?;
        let listener = match UnixListener::bind(path) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            other => other?,
        };
        Ok((Self { directory, name }, listener))
    }
}

fn is_abandoned(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let refused =
        UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    is_socket && refused
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // SAFETY: the name is a C string that lives through the call.
        let gone = unsafe { libc::unlinkat(self.directory.as_raw_fd(), self.name.as_ptr(), 0) };
        if gone < 0 {
            let error = io::Error::last_os_error();
            tracing::debug!(name = ?self.name, %error, "a socket's file stays; the next start replaces it");
        }
    }
}

#[cfg(test)]
mod tests {
    //! Guards that only an abandoned socket is replaced.
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (guard, _listener) = SocketFile::bind(&path).unwrap();
        assert!(SocketFile::bind(&path).is_err(), "somebody listens");
        drop(guard);
        assert!(!path.exists());
        std::fs::write(&path, b"data").unwrap();
        assert!(SocketFile::bind(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }
}
