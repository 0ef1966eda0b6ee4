//! The command line, from which help, shell completions and the manual page are made.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::confinement::{ConfinementOption, UserOption};
use crate::options::{ConsoleOption, DiskOption, NetOption, OnReset, QuirksOption, TickOption};
use crate::uuid::Uuid;

/// Runs recovered servers as virtual machines on KVM.
#[derive(Debug, Parser)]
#[command(
    name = "relevo-vmm",
    version,
    about = "Runs a recovered server as a virtual machine on KVM",
    long_about = "Runs a recovered server as a virtual machine on KVM.\n\n\
        One process is one machine. It holds no keys and makes no connection: a disk is a \
        file or the socket of a vhost-user server, a network card is a tap device that \
        exists already. The guest's Linux kernel is started directly, without firmware \
        or boot loader.",
    after_long_help = "EXAMPLES:\n  \
        Look at the host:\n      relevo-vmm probe\n\n  \
        Boot a disk image with its own kernel, console on this terminal:\n      \
        relevo-vmm run --kernel vmlinuz --initrd initrd.img \\\n          \
        --cmdline 'root=/dev/vda1 console=ttyS0' --memory 1024 \\\n          \
        --disk path=server.raw --console stdio\n\n  \
        The same from a disk server, with a network card and a control socket:\n      \
        relevo-vmm run --kernel vmlinuz --initrd initrd.img \\\n          \
        --cmdline 'root=/dev/vda1 console=ttyS0' --memory 1024 --cpus 2 \\\n          \
        --disk vhost-user=/run/disk.sock --net tap=tap0 \\\n          \
        --console file=/var/log/server.console --control /run/server.sock\n      \
        curl --unix-socket /run/server.sock -X PUT http://localhost/machine/power-button\n\n\
        ENVIRONMENT:\n  \
        RELEVO_LOG   what is logged to standard error (default: info), e.g. debug\n\n\
        EXIT CODES of run:\n  \
        0   the guest powered the machine off, or it was stopped\n  \
        1   the machine could not be started, or the VMM failed\n  \
        3   the guest reset the machine (with --on-reset exit)\n  \
        4   the guest crashed\n  \
        64  the command line was not understood"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a machine until it ends
    Run(Box<RunArgs>),
    /// Say what this host's KVM can do
    ///
    /// Exit code 0 when machines can be run here, 1 when not.
    Probe {
        /// Print one JSON object: kvm, reason, remedy, hardware_virtualization, max_cpus
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell
    ///
    /// For bash: relevo-vmm completions bash > /etc/bash_completion.d/relevo-vmm
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    ///
    /// To read it: relevo-vmm man | man -l -
    Man,
}

/// The options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The guest's kernel: vmlinux (ELF) or vmlinuz (bzImage)
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,

    /// An initramfs; several are put behind each other in the order given
    #[arg(long, value_name = "FILE")]
    pub initrd: Vec<PathBuf>,

    /// The kernel's command line
    #[arg(
        long,
        value_name = "STRING",
        default_value = "",
        allow_hyphen_values = true
    )]
    pub cmdline: String,

    /// The machine's memory in MiB, at least 64
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    pub memory: u64,

    /// Number of vCPUs
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=i64::from(crate::machine::MAX_CPUS)))]
    pub cpus: u8,

    /// A disk: `path=FILE[,format=raw|qcow2][,readonly][,serial=S]` or `vhost-user=SOCKET`
    ///
    /// The first one is /dev/vda, the next /dev/vdb, and so on. A vhost-user server decides
    /// itself about serial number and whether its disk can be written.
    #[arg(long, value_name = "DISK")]
    pub disk: Vec<DiskOption>,

    /// A network card: tap=NAME[,mac=AA:BB:CC:DD:EE:FF]
    ///
    /// The tap device must exist. Without mac the address is made from the tap's name.
    #[arg(long, value_name = "NET")]
    pub net: Vec<NetOption>,

    /// Where the serial console goes: file=PATH (appended; the last 32 to 64 MiB), socket=PATH or stdio
    ///
    /// May be given several times. Input comes from the socket's clients and from stdio,
    /// where Ctrl-] stops the machine.
    #[arg(long, value_name = "CONSOLE")]
    pub console: Vec<ConsoleOption>,

    /// A Unix socket with the machine's HTTP API
    ///
    /// GET /machine; PUT /machine/pause, resume, reset, power-button or stop. GET
    /// /openapi.yaml describes it.
    #[arg(long, value_name = "SOCKET")]
    pub control: Option<PathBuf>,

    /// What the process gives up before the guest runs
    ///
    /// full: it runs as a user of its own when started as root, with no capabilities, in
    /// namespaces of its own, and may neither open anything nor make a system call that a
    /// machine does not need. What this host cannot do is said in the log and in the status.
    #[arg(long, value_enum, default_value_t = ConfinementOption::Full)]
    pub confinement: ConfinementOption,

    /// The user to run as, when started as root: NAME or UID:GID
    ///
    /// Without it a number of its own that no other machine has. Files, taps and sockets are
    /// opened before, so the user needs no right to them.
    #[arg(long, value_name = "USER")]
    pub user: Option<UserOption>,

    /// The machine's UUID, as the guest's DMI shows it; random if not given
    #[arg(long, value_name = "UUID")]
    pub uuid: Option<Uuid>,

    /// What to do when the guest resets itself
    #[arg(long, value_enum, default_value_t = OnReset::Exit)]
    pub on_reset: OnReset,

    /// Measures for KVM on a CPU without VT-x or AMD-V
    ///
    /// There guest kernels are interpreted and need help. auto: exactly on such hosts.
    #[arg(long, value_enum, default_value_t = QuirksOption::Auto)]
    pub quirks: QuirksOption,

    /// The guest's timer interrupt while quirks are in use: auto, kvm, or a rate in Hz
    ///
    /// kvm: as often as the guest wants. A rate: no more often than that, and the guest's
    /// time runs slow. auto: kvm for kernels built for at most 100 ticks a second.
    #[arg(long, value_name = "TICK", default_value = "auto")]
    pub tick: TickOption,
}
