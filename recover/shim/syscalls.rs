//! The system calls of the shim, each behind a safe function. Declared by hand because the shim
//! is built without crates.

use std::ffi::{c_char, c_int, c_long, c_ulong, c_void};
use std::io;
use std::os::fd::AsRawFd;

use super::c_string;

pub const MS_RDONLY: u64 = 1;
pub const MS_MOVE: u64 = 8192;
const SYS_INIT_MODULE: c_long = 175;
const SYS_FINIT_MODULE: c_long = 313;
const EEXIST: i32 = 17;
const ENOSYS: i32 = 38;
const AF_INET: c_int = 2;
const SOCK_DGRAM_CLOEXEC: c_int = 2 | 0o2000000;
const O_WRONLY_NOCTTY: c_int = 1 | 0o400;
const RB_AUTOBOOT: c_int = 0x0123_4567;
const CONSOLE: c_int = 2;

unsafe extern "C" {
    #[link_name = "mount"]
    fn c_mount(
        from: *const c_char,
        at: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn umount2(at: *const c_char, flags: c_int) -> c_int;
    fn chdir(path: *const c_char) -> c_int;
    fn chroot(path: *const c_char) -> c_int;
    fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char)
    -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn write(fd: c_int, from: *const c_void, len: usize) -> isize;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn tcdrain(fd: c_int) -> c_int;
    fn reboot(how: c_int) -> c_int;
    fn usleep(microseconds: u32) -> c_int;
    fn pause() -> c_int;
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

pub fn mount(from: &str, at: &str, kind: &str, flags: u64, options: &str) -> io::Result<()> {
    let (from, at, kind, options) = (
        c_string(from),
        c_string(at),
        c_string(kind),
        c_string(options),
    );
    // SAFETY: all pointers are to NUL-terminated strings that live to the end of the call.
    check(unsafe {
        c_mount(
            from.as_ptr(),
            at.as_ptr(),
            kind.as_ptr(),
            flags,
            options.as_ptr().cast(),
        )
    })
}

pub fn unmount(at: &str) -> io::Result<()> {
    let at = c_string(at);
    // SAFETY: the path is NUL-terminated and lives to the end of the call.
    check(unsafe { umount2(at.as_ptr(), 0) })
}

pub fn change_directory(path: &str) -> io::Result<()> {
    let path = c_string(path);
    // SAFETY: the path is NUL-terminated and lives to the end of the call.
    check(unsafe { chdir(path.as_ptr()) })
}

pub fn change_root(path: &str) -> io::Result<()> {
    let path = c_string(path);
    // SAFETY: the path is NUL-terminated and lives to the end of the call.
    check(unsafe { chroot(path.as_ptr()) })
}

/// Becomes `path` with the arguments that the kernel gave, under its own name. Returns only the error.
pub fn execute(path: &str, argv: *const *const c_char, envp: *const *const c_char) -> io::Error {
    let path = c_string(path);
    let mut arguments = vec![path.as_ptr()];
    // SAFETY: the kernel and C library hand over `argv` as an array that ends with a null pointer;
    // it is read up to there and no further.
    unsafe {
        let mut next = argv;
        if !next.is_null() && !(*next).is_null() {
            next = next.add(1);
            while !(*next).is_null() {
                arguments.push(*next);
                next = next.add(1);
            }
        }
    }
    arguments.push(std::ptr::null());
    // SAFETY: both arrays end with a null pointer and hold NUL-terminated strings; on success this
    // does not return.
    unsafe { execve(path.as_ptr(), arguments.as_ptr(), envp) };
    io::Error::last_os_error()
}

/// Loads a module; one that is there already is no error.
pub fn load_module(path: &str) -> io::Result<()> {
    let file = std::fs::File::open(path)?;
    // SAFETY: the descriptor is open and the parameters are an empty NUL-terminated string.
    let mut result = unsafe { syscall(SYS_FINIT_MODULE, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result < 0 && io::Error::last_os_error().raw_os_error() == Some(ENOSYS) {
        // Kernels before 3.8.
        let image = std::fs::read(path)?;
        // SAFETY: the image lives to the end of the call and its length is right.
        result = unsafe { syscall(SYS_INIT_MODULE, image.as_ptr(), image.len(), c"".as_ptr()) };
    }
    match io::Error::last_os_error() {
        _ if result >= 0 => Ok(()),
        error if error.raw_os_error() == Some(EEXIST) => Ok(()),
        error => Err(error),
    }
}

/// Whether a mount failed because its device is not there (yet): ENOENT, ENXIO, ENOTBLK.
pub fn waits_for_device(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(2 | 6 | 15))
}

pub fn sleep_a_tenth() {
    // SAFETY: no pointer is involved.
    unsafe { usleep(100_000) };
}

pub fn open_socket() -> Option<i32> {
    // SAFETY: no pointer is involved.
    let fd = unsafe { socket(AF_INET, SOCK_DGRAM_CLOEXEC, 0) };
    (fd >= 0).then_some(fd)
}

/// An ioctl on a socket; `argument` is at least as long as the request's structure.
pub fn control(socket: i32, request: u64, argument: &mut [u8]) -> io::Result<()> {
    // SAFETY: callers pass `struct ifreq` (40 bytes) or `struct rtentry` (120 bytes) as the
    // request demands; the kernel touches no more than that.
    check(unsafe { ioctl(socket, request, argument.as_mut_ptr()) })
}

/// Writes to the console that the kernel opened for the first program, or opens it.
pub fn write_to_console(text: &str) {
    // SAFETY: the buffer lives to the end of the call and its length is right.
    if unsafe { write(CONSOLE, text.as_ptr().cast(), text.len()) } >= 0 {
        return;
    }
    // SAFETY: the path is a NUL-terminated constant; the buffer as above. A failed open gives a
    // descriptor that write refuses.
    unsafe {
        let fd = open(c"/dev/console".as_ptr(), O_WRONLY_NOCTTY);
        write(fd, text.as_ptr().cast(), text.len());
    }
}

/// Resets the machine once the console has shown everything.
pub fn reset() -> ! {
    // SAFETY: no pointer is involved.
    unsafe {
        tcdrain(CONSOLE);
        reboot(RB_AUTOBOOT);
        loop {
            pause();
        }
    }
}
