//! Tap devices: made, addressed, put on a bridge and removed, in the caller's namespace.
//!
//! By the kernel's ioctls (netdevice(7), `Documentation/networking/tuntap.rst`), so that no
//! other program is needed.

use std::fs::OpenOptions;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::{Cidr, NetworkError};

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
/// `linux/sockios.h`.
const SIOCBRADDIF: libc::c_ulong = 0x89a2;

/// `struct ifreq`: a name and 24 bytes that depend on the request.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

impl Request {
    fn new(name: &str) -> io::Result<Self> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "an interface's name has 1 to 15 characters",
            ));
        }
        let mut request = Self {
            name: [0; libc::IFNAMSIZ],
            value: [0; 24],
        };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        Ok(request)
    }

    fn with_flags(mut self, flags: libc::c_int) -> Self {
        self.value[..2].copy_from_slice(&(flags as u16).to_ne_bytes());
        self
    }

    /// A `struct sockaddr_in` in the value.
    fn with_address(mut self, address: Ipv4Addr) -> Self {
        self.value[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        self.value[4..8].copy_from_slice(&address.octets());
        self
    }

    fn with_index(mut self, index: libc::c_uint) -> Self {
        self.value[..4].copy_from_slice(&index.to_ne_bytes());
        self
    }

    fn call(&mut self, fd: RawFd, request: libc::c_ulong) -> io::Result<()> {
        // SAFETY: the argument is a whole `struct ifreq` (16 + 24 bytes), which is all that
        // these requests read and write.
        let result = unsafe { libc::ioctl(fd, request, &mut *self) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers; the result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made and that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn failed(name: &str, step: &str) -> impl FnOnce(io::Error) -> NetworkError {
    let step = format!("network device {name}: {step}");
    move |source| NetworkError::Kernel { step, source }
}

/// Makes a tap that stays until it is removed or its namespace goes.
pub fn create(name: &str) -> Result<(), NetworkError> {
    persist(name, true).map_err(failed(name, "making the tap"))
}

/// Removes a tap; one that is not there is removed already.
pub fn remove(name: &str) -> Result<(), NetworkError> {
    if !exists(name) {
        return Ok(());
    }
    persist(name, false).map_err(failed(name, "removing the tap"))
}

/// Whether this namespace has a device of that name.
pub fn exists(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

fn persist(name: &str, stay: bool) -> io::Result<()> {
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let mut request = Request::new(name)?.with_flags(flags);
    request.call(tun.as_raw_fd(), TUNSETIFF)?;
    // SAFETY: the argument is a plain number.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETPERSIST, libc::c_ulong::from(stay)) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Switches a device on.
pub fn set_up(name: &str) -> Result<(), NetworkError> {
    let attempt = || {
        let socket = control_socket()?;
        let mut request = Request::new(name)?;
        request.call(socket.as_raw_fd(), libc::SIOCGIFFLAGS as libc::c_ulong)?;
        let flags = u16::from_ne_bytes([request.value[0], request.value[1]]);
        let flags = libc::c_int::from(flags) | libc::IFF_UP;
        Request::new(name)?
            .with_flags(flags)
            .call(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::c_ulong)
    };
    attempt().map_err(failed(name, "switching it on"))
}

/// Gives the host's end an address.
pub fn set_address(name: &str, address: &Cidr) -> Result<(), NetworkError> {
    let attempt = || {
        let socket = control_socket()?;
        let fd = socket.as_raw_fd();
        Request::new(name)?
            .with_address(address.address)
            .call(fd, libc::SIOCSIFADDR as libc::c_ulong)?;
        Request::new(name)?
            .with_address(address.mask())
            .call(fd, libc::SIOCSIFNETMASK as libc::c_ulong)
    };
    attempt().map_err(failed(name, &format!("address {address}")))
}

/// Puts a device on a bridge that exists.
pub fn join_bridge(name: &str, bridge: &str) -> Result<(), NetworkError> {
    let attempt = || {
        let index = nix::net::if_::if_nametoindex(name)?;
        let socket = control_socket()?;
        Request::new(bridge)?
            .with_index(index)
            .call(socket.as_raw_fd(), SIOCBRADDIF)
    };
    attempt().map_err(failed(name, &format!("putting it on bridge {bridge}")))
}
