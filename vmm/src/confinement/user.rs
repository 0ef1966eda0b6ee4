//! The user a machine runs as, and capabilities.

use std::ffi::CString;
use std::io;
use std::str::FromStr;

use super::check;
use crate::error::Failure;

/// `--user`: a name, or numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserOption {
    /// A user of this system, with its own group.
    Name(String),
    /// A user and a group, which need no name.
    Ids(u32, u32),
}

/// Why a `--user` is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UserError {
    /// Neither a name nor two numbers.
    #[error("`{0}` is neither a user's name nor UID:GID")]
    Unknown(String),
    /// Root is what is to be got rid of.
    #[error("a machine is not run as root by --user; leave the option out")]
    Root,
}

/// Users from here on belong to nobody else: above those that systemd and containers give out.
const FIRST_OWN: u32 = 2_000_000_000;

impl FromStr for UserOption {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self, UserError> {
        let unknown = || UserError::Unknown(text.to_owned());
        if let Some((uid, gid)) = text.split_once(':') {
            let number = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
            let (uid, gid) = number(uid).zip(number(gid)).ok_or_else(unknown)?;
            if uid == 0 || gid == 0 {
                return Err(UserError::Root);
            }
            return Ok(Self::Ids(uid, gid));
        }
        match text {
            "" => Err(unknown()),
            "root" => Err(UserError::Root),
            name => Ok(Self::Name(name.to_owned())),
        }
    }
}

/// Whether this process runs as root.
pub(super) fn is_root() -> bool {
    effective().0 == 0
}

/// User and group of this process.
pub(super) fn effective() -> (u32, u32) {
    // SAFETY: both calls take nothing and always succeed.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// The user to become; none when the process is no root and stays who it is.
pub(super) fn choose(option: Option<&UserOption>) -> Result<Option<(u32, u32)>, Failure> {
    let Some(option) = option else {
        // A user for each machine: one that is taken over cannot touch the others.
        let own = FIRST_OWN + std::process::id();
        return Ok(is_root().then_some((own, own)));
    };
    if !is_root() {
        return Err(Failure {
            cause: "only root may run a machine as another user".to_owned(),
            remedy: "leave --user out, or start relevo-vmm as root".to_owned(),
        });
    }
    match option {
        UserOption::Ids(uid, gid) => Ok(Some((*uid, *gid))),
        UserOption::Name(name) => {
            let (uid, gid) = look_up(name).ok_or_else(|| Failure {
                cause: format!("there is no user {name}"),
                remedy: format!("make it: useradd --system {name}; or give UID:GID"),
            })?;
            if uid == 0 {
                return Err(Failure {
                    cause: format!("{name} is root by another name"),
                    remedy: "give a user without privileges".to_owned(),
                });
            }
            Ok(Some((uid, gid)))
        }
    }
}

fn look_up(name: &str) -> Option<(u32, u32)> {
    let name = CString::new(name).ok()?;
    // SAFETY: a passwd is plain data; all zeroes is a valid one.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    let mut text = vec![0; 16 << 10];
    // SAFETY: every pointer is to a live place, and the length is that of `text`.
    let result = unsafe {
        libc::getpwnam_r(
            name.as_ptr(),
            &raw mut entry,
            text.as_mut_ptr(),
            text.len(),
            &raw mut found,
        )
    };
    (result == 0 && !found.is_null()).then_some((entry.pw_uid, entry.pw_gid))
}

/// Becomes `target` for good. Without a user that was asked for, a host that has no such user
/// (a user namespace that does not map it) leaves root, which has no capabilities then.
pub(super) fn switch(
    target: Option<(u32, u32)>,
    asked: bool,
    missing: &mut Vec<String>,
) -> Result<(), Failure> {
    let Some((uid, gid)) = target else {
        return Ok(());
    };
    // SAFETY: an empty list of groups is not read; the other calls take plain numbers.
    let result = unsafe {
        check(libc::setgroups(0, std::ptr::null()))
            .and_then(|()| check(libc::setresgid(gid, gid, gid)))
            .and_then(|()| check(libc::setresuid(uid, uid, uid)))
    };
    match result {
        Err(error) if asked => Err(Failure {
            cause: format!("cannot become user {uid}:{gid}: {error}"),
            remedy: "give a user that exists in this user namespace, or leave --user out"
                .to_owned(),
        }),
        Err(error) => {
            missing.push(format!("a user of its own: {error}"));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Takes capabilities out of what any program may ever have again.
pub(super) fn drop_bounding_set(missing: &mut Vec<String>) {
    let mut capability = 0;
    // SAFETY: the calls take plain numbers only.
    unsafe {
        while libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) >= 0 {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 {
                if is_root() {
                    let error = io::Error::last_os_error();
                    missing.push(format!("the capability bounding set: {error}"));
                }
                return;
            }
            capability += 1;
        }
    }
}

/// Drops all capabilities of this thread and of those it makes.
pub(super) fn drop_capabilities() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`: two 32-bit words for each set.
    const VERSION: u32 = 0x2008_0522;
    let header = [VERSION, 0];
    let none = [0_u32; 6];
    // SAFETY: header and sets have the layout of capset(2), version 3, and are only read.
    unsafe {
        let ambient = libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        );
        check(ambient)?;
        check(libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) as libc::c_int)
    }
}

#[cfg(test)]
mod tests {
    //! Guards what `--user` accepts: never root.
    use super::*;

    #[test]
    fn users_are_read_and_root_is_none() {
        assert_eq!("70000:70001".parse(), Ok(UserOption::Ids(70000, 70001)));
        assert_eq!("nobody".parse(), Ok(UserOption::Name("nobody".to_owned())));
        for root in ["root", "0:5", "5:0"] {
            assert_eq!(root.parse::<UserOption>(), Err(UserError::Root), "{root}");
        }
        for wrong in ["", "1:", ":1", "1:-1", "4294967295:1", "a:b"] {
            assert!(wrong.parse::<UserOption>().is_err(), "{wrong}");
        }
    }
}
