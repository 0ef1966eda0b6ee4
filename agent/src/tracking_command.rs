//! What an administrator sees of tracking, and may do about it.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::AgentError;
use crate::disk::DiskArgument;
use crate::inventory;
use crate::page::{print, print_json};
use crate::state::{DEFAULT_DIR, StateDir};
use crate::tracking::{self, Standing, reboot};

/// Look at what the kernel marks as written, or end that.
///
/// 'backup' starts it by itself where the kernel can (Linux 5.15 and later, with BPF): then a run
/// reads only what was written since the last image. Any doubt, a crash or a restart of the
/// server for instance, makes the next run read all; once a week one does so anyway and compares.
#[derive(Args)]
pub struct TrackingArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say of each disk whether the next run can trust the marks, and how much is marked.
    Status(TrackingOptions),
    /// Forget what is known, alarms too: the next run reads all and begins anew.
    Reset(TrackingOptions),
    /// Over a clean restart, step 1: when the agent's service is stopped.
    Prepare(RestartOptions),
    /// Over a clean restart, step 2: when no file system is written any more.
    Keep(RestartOptions),
    /// Over a clean restart, step 3: when the server is up, before file systems are written.
    Resume(RestartOptions),
    /// End marking and forget what is known, before the agent is uninstalled for instance.
    Stop(TrackingOptions),
}

#[derive(Args)]
struct TrackingOptions {
    /// A disk, and its name in the image; can be repeated [default: all local disks].
    #[arg(long = "disk", value_name = "PATH[=NAME]")]
    disks: Vec<DiskArgument>,
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    state: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct RestartOptions {
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    state: PathBuf,
}

/// A disk and how its tracking stands.
#[derive(Serialize)]
struct Line {
    disk: String,
    #[serde(flatten)]
    standing: Standing,
}

/// Does what was typed.
pub fn run(args: TrackingArgs) -> Result<(), AgentError> {
    let (options, stop, reset) = match args.command {
        Command::Status(options) => (options, false, false),
        Command::Reset(options) => (options, false, true),
        Command::Stop(options) => (options, true, true),
        Command::Prepare(options) => return restart(options, "prepared", reboot::prepare),
        Command::Keep(options) => return restart(options, "kept", reboot::keep),
        Command::Resume(options) => return restart(options, "resumed", reboot::resume),
    };
    let state = StateDir::new(options.state);
    let _lock = match reset {
        true => Some(state.lock()?),
        false => None,
    };
    let dir = state.tracking();
    let mut lines = Vec::new();
    for disk in inventory::readable_disks(&options.disks)? {
        if reset {
            tracking::forget(&dir, &disk, stop).map_err(|source| AgentError::State {
                path: dir.clone(),
                source,
            })?;
        }
        lines.push(Line {
            disk: disk.name().into(),
            standing: tracking::standing(&dir, &disk),
        });
    }
    if options.json {
        return print_json(&lines);
    }
    let text: String = lines.iter().map(text_of).collect();
    print(text.as_bytes())
}

fn restart(
    options: RestartOptions,
    done: &str,
    step: impl FnOnce(&Path) -> io::Result<usize>,
) -> Result<(), AgentError> {
    let dir = StateDir::new(options.state).tracking();
    let disks = step(&dir).map_err(|source| AgentError::State {
        path: dir.clone(),
        source,
    })?;
    print(format!("{done}: {disks} disks\n").as_bytes())
}

fn text_of(line: &Line) -> String {
    let written = indicatif::HumanBytes(line.standing.marked_bytes);
    match &line.standing.doubt {
        None => format!("{:<12} tracked, {written} to read\n", line.disk),
        Some(doubt) => format!("{:<12} all is read next time: {doubt}\n", line.disk),
    }
}
