//! Who may use a disk's file: one writer, or any number of readers.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// Locks the file until it is closed, shared when `read_only`. False when somebody else has
/// locked it.
pub(super) fn lock(file: &File, read_only: bool) -> io::Result<bool> {
    let locked = if read_only {
        file.try_lock_shared()
    } else {
        file.try_lock()
    };
    match locked {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// What the operator can do about it.
pub(super) fn remedy(path: &Path) -> String {
    format!(
        "stop the process that uses {} (`fuser {0}` names it) or use a copy",
        path.display()
    )
}
