//! Networks for recovered servers, apart from the host's own.
//!
//! * [`namespace`]: a network namespace under a name, as `ip netns` shows it.
//! * [`tap`]: the virtual cables, and addresses at the host's end.
//! * [`cidr`]: IPv4 addresses with prefix lengths.
//! * [`publish`]: a port of the host's loopback that leads into a namespace.
//!
//! A [`NetworkNamespace`] is torn down when dropped, with every tap in it, unless it was told to
//! persist; what persists is removed by name.

pub mod cidr;
pub mod namespace;
pub mod publish;
pub mod tap;

use std::io;

pub use cidr::Cidr;
pub use namespace::NetworkNamespace;
pub use publish::Publish;

/// Why a network could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The name is taken or cannot be one.
    #[error("network namespace {name}: {reason}")]
    Name {
        /// As asked for.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The kernel refused a step.
    #[error("{step}: {source}")]
    Kernel {
        /// What was being done.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl NetworkError {
    pub(crate) fn kernel(step: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Kernel {
            step: step.into(),
            source: source.into(),
        }
    }

    /// What the operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Name { remedy, .. } => remedy,
            Self::Kernel { source, .. } => match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    "run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN"
                }
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                    "load the kernel's tun module (modprobe tun) and check that /dev/net/tun is there"
                }
                Some(libc::EBUSY | libc::EEXIST | libc::EADDRINUSE) => {
                    "stop what uses that name: see 'relevo-recover status' and 'ip netns list'"
                }
                _ => {
                    "check that this kernel has network namespaces and tun (CONFIG_NET_NS, CONFIG_TUN)"
                }
            },
        }
    }
}

impl From<NetworkError> for crate::failure::Failure {
    fn from(error: NetworkError) -> Self {
        Self::new(error.to_string(), error.remedy())
    }
}
