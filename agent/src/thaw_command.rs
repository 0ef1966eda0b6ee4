//! Thawing what a run left frozen, when run and guard were both killed.

use std::path::PathBuf;

use clap::Args;

use crate::AgentError;
use crate::consistency::left::{Thawing, thaw_left};
use crate::page::{print, print_json};
use crate::state::{DEFAULT_DIR, StateDir};

/// Thaw file systems that a backup froze and left so.
///
/// A guard process thaws them when a backup is killed. Only when both were, for instance by the
/// end of the whole service, is there anything to do for this command. Every backup begins with
/// it, too.
#[derive(Args)]
pub struct ThawArgs {
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    state: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Does what was typed.
pub fn run(args: &ThawArgs) -> Result<(), AgentError> {
    let state = StateDir::new(args.state.clone());
    let thawings = thaw(&state)?;
    if args.json {
        print_json(&thawings)?;
    } else {
        let mut text = String::new();
        for one in &thawings {
            let how = match (&one.failure, one.thawed) {
                (Some(why), _) => format!("cannot be thawed: {why}"),
                (None, true) => "thawed".into(),
                (None, false) => "was not frozen".into(),
            };
            text.push_str(&format!("{}: {how}\n", one.mounted));
        }
        if thawings.is_empty() {
            text.push_str("no backup left anything frozen\n");
        }
        print(text.as_bytes())?;
    }
    let failed = thawings
        .into_iter()
        .find_map(|one| Some((one.mounted, one.failure?)));
    match failed {
        Some((mounted, reason)) => Err(AgentError::LeftFrozen { mounted, reason }),
        None => Ok(()),
    }
}

/// Thaws what an earlier run left, and warns of it.
pub fn before_a_run(state: &StateDir) -> Result<(), AgentError> {
    for one in thaw(state)? {
        match (one.thawed, one.failure) {
            (true, _) => tracing::warn!("{}: an earlier run left it frozen: thawed", one.mounted),
            (_, Some(why)) => {
                tracing::warn!("{}: may be frozen by an earlier run: {why}", one.mounted)
            }
            _ => {}
        }
    }
    Ok(())
}

fn thaw(state: &StateDir) -> Result<Vec<Thawing>, AgentError> {
    let path = state.frozen();
    thaw_left(&path).map_err(|source| AgentError::State { path, source })
}
