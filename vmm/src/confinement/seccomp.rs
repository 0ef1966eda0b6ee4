//! Which system calls each kind of thread may make. Any other ends the process at once, and
//! the kernel writes a line to its log: `audit: type=1326 … comm="relevo-vmm" … syscall=N`.
//!
//! Filters stack: the whole process has the widest one, which is the main thread's; a thread
//! adds its own. So a kind that starts threads must be allowed what those are.

use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadKind {
    /// Builds machines and waits for their end.
    Main,
    /// Runs a vCPU and answers its accesses; starts devices.
    Vcpu,
    /// Works on a device's queues, timer or watch.
    Device,
    /// Moves what is typed and shown.
    Console,
    /// Takes the operator's commands and signals.
    Control,
}

/// The filters; empty while the process is not confined.
static FILTERS: OnceLock<Filters> = OnceLock::new();

struct Filters {
    vcpu: BpfProgram,
    device: BpfProgram,
    console: BpfProgram,
    control: BpfProgram,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Memory, time, locks and the thread's own end: what the language needs anywhere.
const ANY: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Work on open files and sockets of disks, taps and disk servers.
const DEVICE: &[i64] = &[
    libc::SYS_epoll_ctl,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
];

/// What a device is started with, and files that a console looks at.
const VCPU: &[i64] = &[
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
];

/// Sockets' clients.
const CLIENTS: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

/// Memory for another machine, and the end.
const MAIN: &[i64] = &[
    libc::SYS_memfd_create,
    libc::SYS_timerfd_create,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rt_sigtimedwait,
];

/// `KVMIO`, the type of all of KVM's requests (`linux/kvm.h`).
const KVMIO: u64 = 0xae00;
/// Of a virtual machine: IRQ_LINE, SET_GSI_ROUTING, IRQFD, IOEVENTFD. Of a vCPU: RUN, registers,
/// MSRs, translation, debugging, events, debug registers, TSC rate, clock.
const KVM_WHILE_RUNNING: &[u64] = &[
    0x61, 0x67, 0x6a, 0x76, 0x79, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x88, 0x89, 0x9b, 0x9f, 0xa0,
    0xa1, 0xa2, 0xa3, 0xad,
];
const TUNSETOFFLOAD: u64 = 0x4004_54D0;
/// The C library's own signal, whose handler it sets when the first thread is made.
const SIGSETXID: u64 = 33;
const FIONBIO: u64 = 0x5421;
/// `BLKDISCARD` of `linux/fs.h`: a disk that is a block device.
const BLKDISCARD: u64 = 0x1277;
/// The terminal's mode: TCGETS, TCSETS, TCSETSW, TCSETSF, TIOCGWINSZ.
const TERMINAL: &[u64] = &[0x5401, 0x5402, 0x5403, 0x5404, 0x5413];

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

fn condition(argument: u8, op: SeccompCmpOp, value: u64) -> io::Result<SeccompRule> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value);
    SeccompRule::new(vec![condition.map_err(invalid)?]).map_err(invalid)
}

fn with(mut rules: Rules, calls: &[i64]) -> Rules {
    rules.extend(calls.iter().map(|call| (*call, Vec::new())));
    rules
}

fn add(rules: &mut Rules, call: i64, rule: SeccompRule) {
    rules.entry(call).or_default().push(rule);
}

fn any() -> io::Result<Rules> {
    let mut rules = with(Rules::new(), ANY);
    let executable = libc::PROT_EXEC as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let rule = condition(2, SeccompCmpOp::MaskedEq(executable), 0)?;
        add(&mut rules, call, rule);
    }
    // The own threads: to interrupt a vCPU, or to abort.
    let own = condition(0, SeccompCmpOp::Eq, u64::from(std::process::id()))?;
    add(&mut rules, libc::SYS_tgkill, own);
    // Refused rather than fatal, by `refusals`.
    Ok(with(
        rules,
        &[libc::SYS_open, libc::SYS_openat, libc::SYS_clone3],
    ))
}

/// To make threads, never processes, and to confine them.
fn add_threads(rules: &mut Rules) -> io::Result<()> {
    let thread = libc::CLONE_THREAD as u64;
    let rule = condition(0, SeccompCmpOp::MaskedEq(thread), thread)?;
    add(rules, libc::SYS_clone, rule);
    for option in [libc::PR_SET_NAME, libc::PR_SET_NO_NEW_PRIVS] {
        let rule = condition(0, SeccompCmpOp::Eq, option as u64)?;
        add(rules, libc::SYS_prctl, rule);
    }
    rules.insert(libc::SYS_seccomp, Vec::new());
    Ok(())
}

fn add_requests(rules: &mut Rules, requests: impl Iterator<Item = u64>) -> io::Result<()> {
    for request in requests {
        let rule = condition(1, SeccompCmpOp::Eq, request)?;
        add(rules, libc::SYS_ioctl, rule);
    }
    Ok(())
}

fn add_kvm(rules: &mut Rules, numbers: &[u64]) -> io::Result<()> {
    for number in numbers {
        // The upper half is the argument's size and direction.
        let rule = condition(1, SeccompCmpOp::MaskedEq(0xffff), KVMIO | number)?;
        add(rules, libc::SYS_ioctl, rule);
    }
    Ok(())
}

fn rules(kind: ThreadKind) -> io::Result<Rules> {
    let mut rules = any()?;
    // To send the process a signal of its own, as the console's escape does.
    let own = || condition(0, SeccompCmpOp::Eq, u64::from(std::process::id()));
    match kind {
        ThreadKind::Device => {
            rules = with(rules, DEVICE);
            add_requests(&mut rules, [FIONBIO, BLKDISCARD].into_iter())?;
        }
        ThreadKind::Vcpu => {
            rules = with(with(rules, DEVICE), VCPU);
            add_threads(&mut rules)?;
            add_kvm(&mut rules, KVM_WHILE_RUNNING)?;
            add_requests(&mut rules, [TUNSETOFFLOAD, FIONBIO, BLKDISCARD].into_iter())?;
        }
        ThreadKind::Console => {
            rules = with(rules, CLIENTS);
            add_threads(&mut rules)?;
            add_requests(&mut rules, [FIONBIO].into_iter())?;
            add(&mut rules, libc::SYS_kill, own()?);
        }
        ThreadKind::Control => {
            rules = with(rules, CLIENTS);
            rules.insert(libc::SYS_rt_sigtimedwait, Vec::new());
            add_threads(&mut rules)?;
            add_kvm(&mut rules, &[0x61, 0x67])?;
            add_requests(&mut rules, [FIONBIO].into_iter())?;
        }
        ThreadKind::Main => {
            for calls in [DEVICE, VCPU, CLIENTS, MAIN] {
                rules = with(rules, calls);
            }
            add_threads(&mut rules)?;
            let any_kvm = condition(1, SeccompCmpOp::MaskedEq(0xff00), KVMIO)?;
            add(&mut rules, libc::SYS_ioctl, any_kvm);
            let others = [TUNSETOFFLOAD, FIONBIO, BLKDISCARD].iter().chain(TERMINAL);
            add_requests(&mut rules, others.copied())?;
            add(&mut rules, libc::SYS_kill, own()?);
            let first_thread = condition(0, SeccompCmpOp::Eq, SIGSETXID)?;
            add(&mut rules, libc::SYS_rt_sigaction, first_thread);
        }
    }
    Ok(rules)
}

fn compile(
    rules: Rules,
    mismatch: SeccompAction,
    matched: SeccompAction,
) -> io::Result<BpfProgram> {
    SeccompFilter::new(rules, mismatch, matched, TargetArch::x86_64)
        .map_err(invalid)?
        .try_into()
        .map_err(invalid)
}

fn allowing(kind: ThreadKind) -> io::Result<BpfProgram> {
    let kill = SeccompAction::KillProcess;
    compile(rules(kind)?, kill, SeccompAction::Allow)
}

/// Calls that the C library tries and does without: opening the kernel's settings when memory
/// is given back, and the newer way to make a thread, whose flags a filter cannot see.
fn refusals() -> io::Result<[BpfProgram; 2]> {
    let refuse = |calls: &[i64], errno: libc::c_int| {
        let errno = SeccompAction::Errno(errno as u32);
        compile(with(Rules::new(), calls), SeccompAction::Allow, errno)
    };
    Ok([
        refuse(&[libc::SYS_open, libc::SYS_openat], libc::EACCES)?,
        refuse(&[libc::SYS_clone3], libc::ENOSYS)?,
    ])
}

/// Confines the process to what the main thread may do, and the threads made from now on to
/// what [`enter_thread`] says.
pub(super) fn install() -> io::Result<()> {
    let filters = Filters {
        vcpu: allowing(ThreadKind::Vcpu)?,
        device: allowing(ThreadKind::Device)?,
        console: allowing(ThreadKind::Console)?,
        control: allowing(ThreadKind::Control)?,
    };
    let main = allowing(ThreadKind::Main)?;
    for refusal in refusals()? {
        apply_filter(&refusal).map_err(invalid)?;
    }
    apply_filter(&main).map_err(invalid)?;
    // A second call would find the filter above in its way.
    let _ = FILTERS.set(filters);
    Ok(())
}

/// Confines the calling thread to its kind; nothing happens in a process that is not confined.
/// A thread that cannot be confined ends the process: it must not serve a guest.
pub fn enter_thread(kind: ThreadKind) {
    let Some(filters) = FILTERS.get() else {
        return;
    };
    let filter = match kind {
        ThreadKind::Main => return,
        ThreadKind::Vcpu => &filters.vcpu,
        ThreadKind::Device => &filters.device,
        ThreadKind::Console => &filters.console,
        ThreadKind::Control => &filters.control,
    };
    if let Err(error) = apply_filter(filter) {
        tracing::error!(?kind, %error, "a thread cannot be confined");
        std::process::abort();
    }
}

#[cfg(test)]
#[path = "seccomp_test.rs"]
mod tests;
