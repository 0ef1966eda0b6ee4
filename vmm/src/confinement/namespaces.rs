//! Namespaces of its own: no files, no network, no one else's shared memory.
//!
//! Taps and sockets that are open already keep working: a descriptor belongs to the namespace
//! in which it was made. There is no process namespace, because it would take a second process;
//! the system-call filter lets no process be made and no other process be signalled.

use std::ffi::CStr;
use std::io;

use super::check;

/// Leaves the host's namespaces; what fails is added to `missing`.
pub(super) fn leave(missing: &mut Vec<String>) {
    let each = [
        (libc::CLONE_NEWNET, "network"),
        (libc::CLONE_NEWIPC, "IPC"),
        (libc::CLONE_NEWUTS, "host name"),
    ];
    for (flag, name) in each {
        // SAFETY: takes a plain number; only this thread's namespaces change.
        if let Err(error) = check(unsafe { libc::unshare(flag) }) {
            missing.push(format!("{name} namespace: {error}"));
        }
    }
    if let Err(error) = empty_root() {
        missing.push(format!("mount namespace: {error}"));
    }
}

/// Makes an empty directory the root of the file tree.
fn empty_root() -> io::Result<()> {
    // A directory that every system has, to mount on; in this namespace only.
    const PLACE: &CStr = c"/proc";
    const HERE: &CStr = c".";
    let nothing = std::ptr::null();
    let quiet = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_RDONLY;
    // SAFETY: all pointers are constant C strings, or null where the call allows it.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let root = c"/".as_ptr();
        check(libc::mount(nothing, root, nothing, private, nothing.cast()))?;
        let kind = c"tmpfs".as_ptr();
        let options = c"size=4k,nr_inodes=2,mode=555".as_ptr();
        check(libc::mount(
            kind,
            PLACE.as_ptr(),
            kind,
            quiet,
            options.cast(),
        ))?;
        check(libc::chdir(PLACE.as_ptr()))?;
        // An initramfs cannot be left by pivot_root; there chroot has to do.
        let pivoted = libc::syscall(libc::SYS_pivot_root, HERE.as_ptr(), HERE.as_ptr());
        if pivoted == 0 {
            check(libc::umount2(HERE.as_ptr(), libc::MNT_DETACH))?;
        } else {
            check(libc::chroot(HERE.as_ptr()))?;
        }
        check(libc::chdir(root))
    }
}
