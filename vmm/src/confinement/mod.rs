//! What this process gives up before the guest runs: a guest that takes over its VMM finds a
//! process that can do nothing but run that guest.
//!
//! Everything is opened first; [`apply`] then takes the rights away, from the one thread there
//! is at that time. What is inherited (user, capabilities, limits, namespaces, Landlock, the
//! wide filter) holds for every thread made later; each of those narrows itself by
//! [`enter_thread`].

mod filesystem;
mod namespaces;
mod seccomp;
mod user;

use std::io;

use serde::Serialize;

pub use self::seccomp::{ThreadKind, enter_thread};
pub use self::user::UserOption;
use crate::error::Failure;

/// How much is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfinementOption {
    /// Everything that this host lets a process give up.
    Full,
    /// Nothing.
    Off,
}

/// Most open files: 31 devices with 17 queues' descriptors and interrupts each fit.
const OPEN_FILES: libc::rlim_t = 4096;

/// What was given up, for the operator.
#[derive(Debug, Clone, Serialize)]
pub struct Confinement {
    /// What was asked for.
    pub mode: ConfinementOption,
    /// The user the machine runs as.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// What this host does not let it give up, in words.
    pub missing: Vec<String>,
}

/// Gives up what `mode` says. To be called once, while the process has one thread and holds
/// open whatever it will need.
pub fn apply(mode: ConfinementOption, user: Option<&UserOption>) -> Result<Confinement, Failure> {
    let mut missing = Vec::new();
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| Failure {
            cause: format!("cannot {what}: {error}"),
            remedy: "give --confinement off to run the machine without protection".to_owned(),
        }
    };
    if mode == ConfinementOption::Off {
        if user.is_some() {
            return Err(Failure {
                cause: "--user is part of the confinement, which is off".to_owned(),
                remedy: "leave out --user or --confinement off".to_owned(),
            });
        }
        missing.push("everything: it is switched off".to_owned());
    } else {
        let target = user::choose(user)?;
        limit(libc::RLIMIT_CORE, 0).map_err(failed("forbid core dumps"))?;
        limit(libc::RLIMIT_NOFILE, OPEN_FILES).map_err(failed("limit open files"))?;
        if user::is_root() {
            namespaces::leave(&mut missing);
        } else {
            missing.push("namespaces: only root may make them".to_owned());
        }
        user::drop_bounding_set(&mut missing);
        user::switch(target, user.is_some(), &mut missing)?;
        user::drop_capabilities().map_err(failed("drop capabilities"))?;
        no_new_privileges().map_err(failed("forbid new privileges"))?;
        filesystem::forbid(&mut missing);
    }
    let (uid, gid) = user::effective();
    // Last: from here on even asking who one is ends the process.
    if mode == ConfinementOption::Full {
        seccomp::install().map_err(failed("filter system calls"))?;
    }
    let confinement = Confinement {
        mode,
        uid,
        gid,
        missing,
    };
    match confinement.missing.join("; ") {
        missing if missing.is_empty() => tracing::info!(uid, gid, "confined"),
        missing => tracing::warn!(uid, gid, missing, "confined less than fully"),
    }
    Ok(confinement)
}

/// Lowers a limit of this process to `most`, for good.
fn limit(resource: libc::__rlimit_resource_t, most: libc::rlim_t) -> io::Result<()> {
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `now` is a place for a limit.
    check(unsafe { libc::getrlimit(resource, &raw mut now) })?;
    let value = most.min(now.rlim_max);
    let lowered = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: `lowered` is a valid limit that the call only reads.
    check(unsafe { libc::setrlimit(resource, &raw const lowered) })
}

fn no_new_privileges() -> io::Result<()> {
    // SAFETY: both calls take plain numbers only.
    unsafe {
        // Nobody else of the same user reads the guest's memory out of this process.
        check(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
