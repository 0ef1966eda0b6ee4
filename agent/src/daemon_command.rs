//! The commands around the daemon: run, status, pause, resume, policy.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::AgentError;
use crate::command::runtime;
use crate::daemon::pause::{self, Pause};
use crate::daemon::{Daemon, child, clock::Now, status};
use crate::enroll::renewed;
use crate::pace::Pace;
use crate::page::{print, print_json};
use crate::policy::{self, Known};
use crate::state::{DEFAULT_DIR, StateDir};

/// Take images when the vault's policy says so, until SIGTERM.
///
/// The policy is the [backup] section of the vault's settings.toml: a target for the age of the
/// newest state, or a calendar; windows and ceilings. It is asked for at the start, every few
/// minutes, before each run, and at SIGHUP. When the vault is away the last one that is known
/// counts. Runs are processes of their own, 'relevo-agent backup'.
#[derive(Args)]
#[command(after_help = "\
relevo-agent run                                       as a service does
relevo-agent run -- --disk /dev/sda --all-blocks       with options of 'relevo-agent backup'")]
pub struct RunArgs {
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    state: PathBuf,
    /// Options of 'relevo-agent backup' that each run is given.
    #[arg(last = true, value_name = "OPTION")]
    options: Vec<OsString>,
}

/// Say in one screen what is protected, how old it is, and what is wrong.
///
/// Ends with 0 when all is well, with 1 when something is wrong: no daemon runs, the newest state
/// is older than its target, the last run failed, changes were not marked, the certificate ends.
#[derive(Args)]
pub struct StatusArgs {
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    state: PathBuf,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

/// Take no images by itself any more, until 'relevo-agent resume'.
///
/// A run of the daemon that is under way ends; what has arrived is not sent again. It stays so
/// over restarts. 'relevo-agent backup' by hand works all the same.
#[derive(Args)]
pub struct PauseArgs {
    /// Only for so long: 90s, 30m, 4h, 2d.
    #[arg(long = "for", value_name = "TIME", value_parser = length)]
    length: Option<Duration>,
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    state: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// End a pause.
#[derive(Args)]
pub struct ResumeArgs {
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    state: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Show the policy in force: the last that the vault has said.
#[derive(Args)]
pub struct PolicyArgs {
    /// Ask the vault first.
    #[arg(long)]
    fetch: bool,
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    state: PathBuf,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
    /// The daemon that asks.
    #[arg(long, hide = true, value_name = "PID")]
    started_by: Option<u32>,
}

/// How a run obeys the policy, and who began it.
#[derive(Args)]
pub struct PolicyOptions {
    /// As fast as it goes, whatever the policy's ceilings.
    #[arg(long)]
    no_limits: bool,
    /// The daemon that begins it.
    #[arg(long, hide = true, value_name = "PID", requires = "try_number")]
    started_by: Option<u32>,
    /// Which try at the same time of the schedule.
    #[arg(
        long = "try",
        hide = true,
        value_name = "NUMBER",
        requires = "started_by"
    )]
    try_number: Option<u32>,
}

impl PolicyOptions {
    /// Which try it is, when the daemon began it.
    pub fn retry(&self) -> Option<u32> {
        self.try_number
    }

    /// Has a run of the daemon end with it.
    pub fn begin(&self) -> Result<(), AgentError> {
        self.started_by.map_or(Ok(()), child::end_with)
    }

    /// How fast it may go.
    pub fn pace(&self, state: &StateDir) -> Pace {
        match self.no_limits {
            true => Pace::default(),
            false => Pace::by(state.policy()),
        }
    }
}

/// Starts the daemon.
pub fn run(args: RunArgs) -> Result<(), AgentError> {
    crate::command::check_backup_options(&args.options)?;
    Daemon::new(StateDir::new(args.state), args.options)?.work()
}

/// Prints how it stands.
pub fn status(args: StatusArgs) -> Result<ExitCode, AgentError> {
    let found = status::gather(&StateDir::new(args.state))?;
    match args.json {
        true => print_json(&found)?,
        false => print(found.to_string().as_bytes())?,
    }
    Ok(match found.fine {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// What a pause came to.
#[derive(Serialize)]
struct PauseReport {
    paused: bool,
    until: Option<relevo_wire::Timestamp>,
}

/// Pauses.
pub fn pause(args: PauseArgs) -> Result<(), AgentError> {
    let state = StateDir::new(args.state);
    state.read()?;
    let pause: Pause = pause::pause(&state, args.length)?;
    let until = pause.until(&Now::read());
    if args.json {
        return print_json(&PauseReport {
            paused: true,
            until,
        });
    }
    let until = until.map_or("'relevo-agent resume'".into(), |until| until.to_string());
    print(format!("no images are taken by themselves until {until}\n").as_bytes())
}

/// Ends a pause.
pub fn resume(args: ResumeArgs) -> Result<(), AgentError> {
    let state = StateDir::new(args.state);
    state.read()?;
    let was = pause::resume(&state)?;
    if args.json {
        return print_json(&PauseReport {
            paused: false,
            until: None,
        });
    }
    let text = match was {
        true => "images are taken again, as the policy says\n",
        false => "it was not paused\n",
    };
    print(text.as_bytes())
}

/// Prints the policy.
pub fn policy(args: PolicyArgs) -> Result<(), AgentError> {
    args.started_by.map_or(Ok(()), child::end_with)?;
    let state = StateDir::new(args.state);
    let enrolled = state.read()?;
    let known = match args.fetch {
        true => runtime()?.block_on(async {
            let enrollment = renewed(&state, enrolled.enrollment).await;
            policy::ask(&state, &enrollment).await
        })?,
        false => Known::read(&state.policy()),
    };
    if args.json {
        return print_json(&known);
    }
    let mut text = match known.told {
        Some(told) => format!("as the vault said {told}\n"),
        None => "default: the vault has said nothing yet\n".into(),
    };
    for line in crate::daemon::policy_lines(&known.policy) {
        text += &format!("  {line}\n");
    }
    if let Some(trouble) = known.trouble {
        text += &format!("the last question brought none: {trouble}\n");
    }
    print(text.as_bytes())
}

/// `90s`, `30m`, `4h`, `2d`.
fn length(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no length of time: write for instance 90s, 30m, 4h, 2d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return Err(wrong()),
    };
    let number = text[..text.len() - 1].trim_end();
    let number: u64 = match number.bytes().all(|b| b.is_ascii_digit()) {
        true => number.parse().map_err(|_| wrong())?,
        false => return Err(wrong()),
    };
    let total = number.checked_mul(seconds).filter(|total| *total > 0);
    total.map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_a_pause_are_read_and_nonsense_is_refused() {
        assert_eq!(length("4h"), Ok(Duration::from_secs(4 * 3600)));
        assert_eq!(length("90 s"), Ok(Duration::from_secs(90)));
        for wrong in [
            "",
            "4",
            "h",
            "0s",
            "-1h",
            "1.5h",
            "4µ",
            "99999999999999999999d",
        ] {
            assert!(length(wrong).is_err(), "{wrong}");
        }
    }
}
