//! What the kernel is told to hold file systems still.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc::c_int;

mod call {
    #![allow(missing_docs)]
    use nix::libc::c_int;
    // FIFREEZE, FITHAW (linux/fs.h), BTRFS_IOC_FS_INFO (linux/btrfs.h).
    nix::ioctl_readwrite!(freeze, b'X', 119, c_int);
    nix::ioctl_readwrite!(thaw, b'X', 120, c_int);
    nix::ioctl_read!(btrfs_info, 0x94, 31, [u8; 1024]);
}

/// What freezing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freeze {
    /// It takes no write until it is thawed; what was written before is on its devices.
    Frozen,
    /// Somebody else holds it frozen, and will thaw it.
    ByAnother,
    /// This kind of file system cannot be frozen.
    Unsupported,
}

/// Freezes the file system of a file: whoever writes to it waits from now on, and all that was
/// written before is on its devices when this returns.
pub fn freeze(file: &File) -> io::Result<Freeze> {
    let mut unused: c_int = 0;
    // SAFETY: the descriptor is open, and the kernel neither reads nor writes the argument.
    match unsafe { call::freeze(file.as_raw_fd(), &mut unused) } {
        Ok(_) => Ok(Freeze::Frozen),
        Err(nix::Error::EBUSY) => Ok(Freeze::ByAnother),
        Err(nix::Error::EOPNOTSUPP | nix::Error::ENOTTY) => Ok(Freeze::Unsupported),
        Err(error) => Err(error.into()),
    }
}

/// Thaws it. Says whether it was frozen.
pub fn thaw(file: &File) -> io::Result<bool> {
    let mut unused: c_int = 0;
    // SAFETY: as above.
    match unsafe { call::thaw(file.as_raw_fd(), &mut unused) } {
        Ok(_) => Ok(true),
        Err(nix::Error::EINVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The UUID of a btrfs, in hexadecimal digits.
pub fn btrfs_uuid(file: &File) -> Option<String> {
    let mut info = [0; 1024];
    // SAFETY: the descriptor is open, and the kernel writes its 1024 bytes, which are there.
    unsafe { call::btrfs_info(file.as_raw_fd(), &mut info) }.ok()?;
    // struct btrfs_ioctl_fs_info_args: two numbers of 8 bytes, then the UUID.
    Some(
        info[16..32]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
    )
}
