//! What an administrator sees of hooks, and may do about them.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use relevo_wire::manifest::{HookPhase, HookRun};
use serde::Serialize;

use crate::AgentError;
use crate::consistency::MAX_FREEZE;
use crate::hooks::ready::{ALL, How, Ready};
use crate::hooks::scripts::{Script, Standing, in_order};
use crate::hooks::{DIR, Hooks, LIMIT};
use crate::page::{print, print_json};
use crate::state::{DEFAULT_DIR, StateDir};

/// Look at the programs that make applications ready for an image, enable ready ones, try them.
///
/// All executable files of root's in /etc/relevo/hooks/pre.d are run before file systems are
/// frozen, those in post.d after they were thawed, in the order of their names.
#[derive(Args)]
pub struct HooksArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the hooks of this server, and those that come with the agent.
    List(Options),
    /// Put a ready hook into pre.d and post.d: postgresql, mysql or service.
    Enable(ReadyOptions),
    /// Take a ready hook away.
    Disable(ReadyOptions),
    /// Run all hooks, before and after, without an image.
    Test(TestOptions),
}

#[derive(Args)]
struct Options {
    /// Where hooks are.
    #[arg(long = "hooks", value_name = "DIR", default_value = DIR)]
    dir: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ReadyOptions {
    /// postgresql, mysql or service.
    name: String,
    /// For service: which unit of systemd.
    #[arg(long)]
    unit: Option<String>,
    /// For service: stop it, or have its processes stand still.
    #[arg(long, value_enum, default_value = "stop")]
    how: How,
    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
struct TestOptions {
    /// Seconds that one hook may take.
    #[arg(long, value_name = "SECONDS", default_value_t = LIMIT.as_secs())]
    hook_limit: u64,
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    state: PathBuf,
    #[command(flatten)]
    options: Options,
}

#[derive(Serialize)]
struct Listing {
    pre: Vec<Script>,
    post: Vec<Script>,
    ready: Vec<ReadyLine>,
}

#[derive(Serialize)]
struct ReadyLine {
    name: &'static str,
    about: &'static str,
}

/// Does what was typed.
pub fn run(args: HooksArgs) -> Result<(), AgentError> {
    match args.command {
        Command::List(options) => list(&options),
        Command::Enable(given) => {
            let ready = Ready::named(&given.name)?;
            let paths = ready.enable(&given.options.dir, given.unit.as_deref(), given.how)?;
            changed(&paths, "enabled", &given.options)
        }
        Command::Disable(given) => {
            let ready = Ready::named(&given.name)?;
            let paths = ready.disable(&given.options.dir, given.unit.as_deref())?;
            changed(&paths, "removed", &given.options)
        }
        Command::Test(given) => test(&given),
    }
}

fn list(options: &Options) -> Result<(), AgentError> {
    let scripts = |phase: &str| in_order(&options.dir.join(phase));
    let listing = Listing {
        pre: scripts(Hooks::BEFORE),
        post: scripts(Hooks::AFTER),
        ready: ALL
            .iter()
            .map(|one| ReadyLine {
                name: one.name,
                about: one.about,
            })
            .collect(),
    };
    if options.json {
        return print_json(&listing);
    }
    let mut text = String::new();
    for script in listing.pre.iter().chain(&listing.post) {
        let how = match &script.standing {
            Standing::Runs => "is run".into(),
            Standing::Skipped(why) => format!("is not run: {why}"),
            Standing::Refused(why) => format!("is refused: {why}"),
        };
        text.push_str(&format!("{} {how}\n", script.path.display()));
    }
    if text.is_empty() {
        text.push_str(&format!("{} has no hooks\n", options.dir.display()));
    }
    text.push_str("ready to be enabled:\n");
    for one in &listing.ready {
        text.push_str(&format!("  {:<12} {}\n", one.name, one.about));
    }
    print(text.as_bytes())
}

fn changed(paths: &[PathBuf], what: &str, options: &Options) -> Result<(), AgentError> {
    if options.json {
        return print_json(&paths);
    }
    let lines: String = paths
        .iter()
        .map(|path| format!("{what}: {}\n", path.display()))
        .collect();
    match lines.is_empty() {
        true => print(b"nothing was there\n"),
        false => print(lines.as_bytes()),
    }
}

fn test(given: &TestOptions) -> Result<(), AgentError> {
    let state = StateDir::new(given.state.clone());
    let hooks = of(
        &state,
        &given.options.dir,
        given.hook_limit,
        MAX_FREEZE.as_secs(),
    );
    let mut runs = hooks.before();
    let after = hooks.after(&runs);
    runs.extend(after);
    let failed = runs.iter().filter(|run| run.failure.is_some()).count();
    if given.options.json {
        print_json(&runs)?;
    } else {
        let lines: String = runs.iter().map(line).collect();
        print(match lines.is_empty() {
            true => b"no hook is enabled\n",
            false => lines.as_bytes(),
        })?;
    }
    match failed {
        0 => Ok(()),
        failed => Err(AgentError::HooksFailed(failed)),
    }
}

fn line(run: &HookRun) -> String {
    let phase = match run.phase {
        HookPhase::Pre => Hooks::BEFORE,
        HookPhase::Post => Hooks::AFTER,
    };
    let how = run.failure.as_deref().unwrap_or("done");
    format!("{phase}/{}: {how}, {} ms\n", run.name, run.took_ms)
}

/// The hooks of a directory.
pub fn of(state: &StateDir, dir: &Path, limit_s: u64, hold_s: u64) -> Hooks {
    Hooks {
        dir: dir.to_path_buf(),
        scratch: state.hooks_scratch(),
        limit: std::time::Duration::from_secs(limit_s),
        hold: std::time::Duration::from_secs(hold_s),
    }
}
