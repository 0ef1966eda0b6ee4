//! A tap interface of the host (the kernel's `Documentation/networking/tuntap.rst`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use super::frames::HEADER_SIZE;
use super::{F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6};
use crate::virtio::device::DeviceError;

const TUNSETIFF: libc::c_ulong = 0x4004_54CA;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54D0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54D8;
const TUN_F_CSUM: libc::c_ulong = 1;
const TUN_F_TSO4: libc::c_ulong = 2;
const TUN_F_TSO6: libc::c_ulong = 4;
const TUN_F_TSO_ECN: libc::c_ulong = 8;

/// An open queue of a tap interface; every read and write is one frame with a
/// `virtio_net_hdr_v1` before it.
pub(super) struct Tap {
    file: File,
}

impl Tap {
    /// Opens the existing interface `name`.
    pub(super) fn open(name: &str) -> Result<Self, DeviceError> {
        let failed = |step| {
            move |source| DeviceError::Tap {
                name: name.to_owned(),
                step,
                source,
            }
        };
        let mut request = request(name).ok_or_else(|| DeviceError::NoTap {
            name: name.to_owned(),
        })?;
        // Attaching would make a missing interface, one that nobody has given an address
        // or a bridge: better to say that it is missing.
        if !exists(&mut request).map_err(failed("look for"))? {
            return Err(DeviceError::NoTap {
                name: name.to_owned(),
            });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(|source| DeviceError::Open {
                path: "/dev/net/tun".into(),
                source,
            })?;
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes an ifreq, which `request` is.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
        check(result).map_err(failed("attach to"))?;
        let size = HEADER_SIZE as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads an int, which `size` is.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETVNETHDRSZ, &raw const size) };
        check(result).map_err(failed("set the header size of"))?;
        let tap = Self { file };
        tap.set_offloads(0).map_err(failed("set the offloads of"))?;
        Ok(tap)
    }

    /// Lets the host leave to the driver what the driver agreed to do itself.
    pub(super) fn set_offloads(&self, features: u64) -> io::Result<()> {
        let mut offloads = 0;
        if features & F_GUEST_CSUM != 0 {
            offloads |= TUN_F_CSUM;
            for (feature, offload) in [
                (F_GUEST_TSO4, TUN_F_TSO4),
                (F_GUEST_TSO6, TUN_F_TSO6),
                (F_GUEST_ECN, TUN_F_TSO_ECN),
            ] {
                if features & feature != 0 {
                    offloads |= offload;
                }
            }
            // Congestion bits only come with one of the other two.
            if offloads & (TUN_F_TSO4 | TUN_F_TSO6) == 0 {
                offloads &= !TUN_F_TSO_ECN;
            }
        }
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETOFFLOAD, offloads) })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
        })
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// A request about `name`; none if no interface can have that name.
fn request(name: &str) -> Option<libc::ifreq> {
    // SAFETY: an ifreq is plain data; all zeroes is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let fits = !name.is_empty() && name.len() < request.ifr_name.len();
    if !fits || name.bytes().any(|byte| byte == 0) {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Some(request)
}

fn exists(request: &mut libc::ifreq) -> io::Result<bool> {
    // SAFETY: no pointers are involved.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the call above succeeded, so `fd` is open and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: SIOCGIFINDEX reads and writes an ifreq, which `request` is.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCGIFINDEX as libc::c_ulong,
            std::ptr::from_mut(request),
        )
    };
    match check(result) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(error) => Err(error),
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
