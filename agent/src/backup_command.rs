//! `backup`: one image, and what it leaves in the history.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use relevo_wire::policy::BackupPolicy;
use relevo_wire::upload::UploadLimits;

use crate::AgentError;
use crate::backup::BackupRun;
use crate::command::runtime;
use crate::consistency::{Freezing, Holding};
use crate::daemon::history::{self, Noted};
use crate::daemon_command::PolicyOptions;
use crate::disk::{Disk, DiskArgument};
use crate::enroll::renewed;
use crate::hooks;
use crate::hooks_command;
use crate::install::network;
use crate::inventory;
use crate::page::{print, print_json};
use crate::pipeline::Counters;
use crate::policy::{self, Known};
use crate::progress;
use crate::state::{DEFAULT_DIR, StateDir};
use crate::stop::Stop;
use crate::thaw_command;
use crate::uplink::{Patience, VaultDial};

/// Most threads that read and seal. Each has a span in memory, of 64 MiB that a run takes at most;
/// three seal more than a line of 1 Gbit/s takes.
const MAX_WORKERS: usize = 3;

/// Take an image of the disks and make it a recovery point.
///
/// It is visible in the vault only when it is whole and on stable storage there. An interrupted
/// run (Ctrl-C and SIGTERM end one with exit code 130) leaves nothing half-done: run it again,
/// and what arrived is not sent again.
#[derive(Args)]
pub struct BackupArgs {
    /// A disk or raw image file, and its name in the image; can be repeated [default: all local
    /// disks].
    #[arg(long = "disk", value_name = "PATH[=NAME]")]
    disks: Vec<DiskArgument>,
    /// A JSON object whose fields replace those of the inventory found ('relevo-agent inventory
    /// --json' shows them).
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    state: PathBuf,
    /// Read all of every disk, and do not have the kernel mark what is written from now on.
    #[arg(long)]
    no_tracking: bool,
    #[command(flatten)]
    holding: HoldingArgs,
    /// Read blocks that no file system uses, too. Without it they are zeros in the image.
    #[arg(long)]
    all_blocks: bool,
    #[command(flatten)]
    policy: PolicyOptions,
    /// Print the result as one line of JSON.
    #[arg(long)]
    json: bool,
}

/// How the server is held still for an image of one instant.
#[derive(Args)]
struct HoldingArgs {
    /// Seconds for which file systems are frozen at most; 1 to 60 [default: as the vault says].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    max_freeze: Option<u64>,
    /// Do not freeze file systems: the image is as after a power cut, if it can be had of one
    /// instant at all.
    #[arg(long)]
    no_freeze: bool,
    /// Do not run the hooks that make applications ready.
    #[arg(long)]
    no_hooks: bool,
    /// Where hooks are.
    #[arg(long, value_name = "DIR", default_value = hooks::DIR)]
    hooks: PathBuf,
    /// Seconds that one hook may take.
    #[arg(long, value_name = "SECONDS", default_value_t = hooks::LIMIT.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    hook_limit: u64,
}

impl HoldingArgs {
    fn holding(&self, state: &StateDir, policy: &BackupPolicy) -> Holding {
        let limit = match self.max_freeze {
            Some(seconds) => Duration::from_secs(seconds),
            None => Duration::from_millis(policy.max_freeze),
        };
        let hooks = || hooks_command::of(state, &self.hooks, self.hook_limit, limit.as_secs());
        Holding {
            freeze: (!self.no_freeze).then(|| Freezing {
                program: "/proc/self/exe".into(),
                note: state.frozen(),
            }),
            limit,
            hooks: (!self.no_hooks).then(hooks),
        }
    }
}

/// Does what was typed, and notes it.
pub fn run(args: BackupArgs) -> Result<(), AgentError> {
    let noted = Noted::begin(&args.state, args.policy.retry());
    let done = image(args, &noted);
    noted.end(&done);
    done
}

fn image(args: BackupArgs, noted: &Noted) -> Result<(), AgentError> {
    args.policy.begin()?;
    let state = StateDir::new(args.state);
    let enrolled = state.read()?;
    let _lock = state.lock()?;
    thaw_command::before_a_run(&state)?;
    let mut disks = inventory::open_disks(&args.disks)?;
    for disk in &mut disks {
        if args.all_blocks {
            disk.read_all_blocks();
        }
    }
    let mut found = inventory::of_disks(&disks, &state.load());
    if let Some(path) = &args.inventory {
        found = inventory::merge(found, path)?;
    }
    yield_to_others();
    let pace = args.policy.pace(&state);
    let policy = Known::read(&state.policy()).policy;
    let counters = Arc::new(Counters {
        pace: pace.clone(),
        ..Counters::default()
    });
    let imaged = history::imaged(&disks);
    let size = disks.iter().map(Disk::size).sum();
    let stop = Stop::default();
    let run = BackupRun {
        server: enrolled.server,
        tenant: enrolled.tenant,
        keys: enrolled.keys,
        disks,
        inventory: found,
        cache: state.cache(),
        tracking: (!args.no_tracking).then(|| state.tracking()),
        proof_every: Duration::from_secs(policy.proof_every),
        holding: args.holding.holding(&state, &policy),
        workers: std::thread::available_parallelism().map_or(2, |n| (n.get() + 1).min(MAX_WORKERS)),
        limits: pace.limits(UploadLimits::default()),
        patience: Patience::default(),
        counters: counters.clone(),
        stop: stop.clone(),
    };
    let report = runtime()?.block_on(async {
        stop.on_signals()
            .map_err(|e| AgentError::Internal(e.to_string()))?;
        let progress = progress::show(size, &counters);
        network::renew(&enrolled.enrollment.vault).await;
        let enrollment = renewed(&state, enrolled.enrollment).await;
        // Beside the run, not before it: on a long line each question costs.
        let asked = async {
            let asked = tokio::select! {
                asked = policy::ask(&state, &enrollment) => asked,
                () = stop.wait() => return,
            };
            match asked {
                Ok(_) => pace.look_again(),
                Err(error) => tracing::info!("the policy known counts: {error}"),
            }
        };
        let dial = VaultDial(&enrollment, pace.clone());
        let (done, ()) = tokio::join!(run.run(&dial), asked);
        drop(progress);
        let (report, link) = done?;
        warn_if_clocks_differ(link.clock_ahead());
        link.close().await;
        Ok::<_, AgentError>(report)
    })?;
    noted.done(&report, imaged);
    if args.json {
        print_json(&report)
    } else {
        print(format!("{report}\n").as_bytes())
    }
}

/// A vault that is minutes off gives recovery points misleading times.
fn warn_if_clocks_differ(ahead: i64) {
    if ahead.abs() > 60_000 {
        let (seconds, way) = (
            ahead.abs() / 1000,
            if ahead > 0 { "ahead" } else { "behind" },
        );
        tracing::warn!("the vault's clock is {seconds} s {way} of this server's: check both");
    }
}

/// Leaves processor and disk to the server's own work: the kernel takes the priority of I/O
/// from the niceness too (ioprio_set(2)). Threads started later inherit it.
fn yield_to_others() {
    if let Err(error) = rustix::process::setpriority_process(None, 5) {
        tracing::debug!("priority unchanged: {error}");
    }
}
