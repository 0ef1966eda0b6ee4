//! Guards that no kind of thread can open, execute, connect, trace or signal others: in forked
//! children, because what a filter stops is the whole process.
#![allow(clippy::unwrap_used)]

use super::*;

/// How a child ended that was confined to `kind` and then made `call`.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Killed,
    Returned(i32),
}

type Attempt = fn() -> i64;

fn after(kind: ThreadKind, call: Attempt) -> End {
    // Compiled before the fork: the child must not allocate.
    let (refusals, filter) = (refusals().unwrap(), allowing(kind).unwrap());
    // SAFETY: the child only makes system calls and ends by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let installed = refusals
            .iter()
            .chain([&filter])
            .all(|f| apply_filter(f).is_ok());
        // 0 for success, 1 for an error of the call.
        let code = if !installed {
            99
        } else {
            i32::from(call() < 0)
        };
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` is a place for a number, and the child is this process's.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    if libc::WIFSIGNALED(status) {
        assert_eq!(libc::WTERMSIG(status), libc::SIGSYS);
        return End::Killed;
    }
    End::Returned(libc::WEXITSTATUS(status))
}

const KINDS: [ThreadKind; 5] = [
    ThreadKind::Main,
    ThreadKind::Vcpu,
    ThreadKind::Device,
    ThreadKind::Console,
    ThreadKind::Control,
];

fn raw(call: i64, arguments: [i64; 3]) -> i64 {
    let [a, b, c] = arguments;
    // SAFETY: only calls that the filter stops, or whose arguments are numbers, null or constant.
    unsafe { libc::syscall(call, a, b, c, 0, 0, 0) }
}

#[test]
fn what_an_intruder_needs_ends_the_process() {
    let attempts: [(&str, Attempt); 14] = [
        ("execve", || raw(libc::SYS_execve, [0; 3])),
        ("execveat", || raw(libc::SYS_execveat, [0; 3])),
        ("fork", || raw(libc::SYS_fork, [0; 3])),
        ("clone", || raw(libc::SYS_clone, [17, 0, 0])),
        ("socket", || raw(libc::SYS_socket, [1, 1, 0])),
        ("connect", || raw(libc::SYS_connect, [0; 3])),
        ("ptrace", || raw(libc::SYS_ptrace, [0; 3])),
        ("process_vm_writev", || {
            raw(libc::SYS_process_vm_writev, [0; 3])
        }),
        ("setuid", || raw(libc::SYS_setuid, [0; 3])),
        ("mount", || raw(libc::SYS_mount, [0; 3])),
        ("bpf", || raw(libc::SYS_bpf, [0; 3])),
        ("kill of the parent", || {
            // SAFETY: asks for a number.
            let parent = i64::from(unsafe { libc::getppid() });
            raw(libc::SYS_kill, [parent, 0, 0])
        }),
        ("executable memory", || raw(libc::SYS_mprotect, [0, 0, 4])),
        ("TIOCSTI", || raw(libc::SYS_ioctl, [0, 0x5412, 0])),
    ];
    for kind in KINDS {
        for (name, attempt) in attempts {
            assert_eq!(after(kind, attempt), End::Killed, "{name} by {kind:?}");
        }
    }
}

#[test]
fn opening_is_refused_and_ordinary_work_goes_on() {
    for kind in KINDS {
        let open = || raw(libc::SYS_openat, [-100, c"/".as_ptr() as i64, 0]);
        assert_eq!(after(kind, open), End::Returned(1), "{kind:?}");
        let yields = || raw(libc::SYS_sched_yield, [0; 3]);
        assert_eq!(after(kind, yields), End::Returned(0), "{kind:?}");
    }
}

#[test]
fn only_who_builds_machines_makes_virtual_machines() {
    // KVM_CREATE_VM, on standard input: an error where it is let through.
    let create = || raw(libc::SYS_ioctl, [0, 0xae01, 0]);
    for kind in KINDS {
        let expected = match kind {
            ThreadKind::Main => End::Returned(1),
            _ => End::Killed,
        };
        assert_eq!(after(kind, create), expected, "{kind:?}");
    }
}
