//! A laboratory for whole-process tests: the real binaries, a vault on loopback, an enrolled
//! agent and recovery site, real disks.
//!
//! * [`binaries`]: finds the programs under test.
//! * [`program`]: runs one to its end, or in the background until dropped.
//! * [`lab`]: a vault with an agent and a recovery site, torn down whatever happens.
//! * [`namespace`]: a network of the lab's own, to cut.
//! * [`ailing`]: a disk that cannot be read everywhere.
//! * [`mod@line`]: a long, narrow, lossy line in front of a vault.
//! * [`disks`]: the demo server's disk and the site kernel, made once and cached.
//! * [`filesystems`]: real file systems in image files, made, filled and compared.
//! * [`server`]: a server of a test's own, with systemd, to install something on.
//! * [`suite`]: runs cases; one that needs what the host lacks is counted as ignored and says why.
//!
//! Invariant: a test leaves no process, mount, network device or namespace behind.

pub mod ailing;
pub mod binaries;
pub mod disks;
pub mod filesystems;
pub mod lab;
pub mod line;
pub mod namespace;
pub mod program;
pub mod server;
pub mod suite;
