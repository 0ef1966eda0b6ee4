//! The command line: the one definition that help, completions and manual page come from.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;

/// Where the recovery site keeps its state unless told otherwise.
pub const DEFAULT_STATE: &str = "/var/lib/relevo/recover";

const ABOUT: &str = "\
Rehearses the recovery of servers and writes the evidence.

A drill boots servers from their recovery points, straight from the vault, in a network of its own \
that has no way out; waits until the checks of its plan hold; measures how old the data was (RPO) \
and how long the recovery took (RTO); tears everything down; and writes a report. The servers \
themselves, their images and a real recovery are not touched.";

const EXIT_CODES: &str = "\
Exit codes:
  0    done; the drill passed
  1    the command could not be carried out
  2    the drill failed: the first failing check is named, with what was seen
  3    refused: the server is really running at this site
  5    this host has no usable KVM
  64   wrong usage
  130  interrupted by SIGINT      143  ended by SIGTERM";

const PLAN: &str = "\
A whole plan:
  name = \"weekly\"
  server = \"web1\"              # name or id, as relevo-recover list shows it

  [[check]]
  kind = \"http\"                # or \"tcp\" with a port, \"console\" with a pattern
  port = 80
  path = \"/\"
  status = 200
  body_contains = \"Welcome\"
  timeout = \"10m\"              # tried until it holds, at most so long

What else it can say (docs/drills.md has all keys):
  point = \"latest\"             # or an id, or a time such as \"2026-11-22T08:00:00Z\"
  memory_mib = 2048
  cpus = 2
  site_kernel = \"/path/vmlinux\"  # where the server's own kernel cannot run
  time_limit = \"1h\"            # of the whole drill

  [network]
  gateway = \"10.1.2.1/24\"      # the drill's end; derived from the server when absent
  address = \"10.1.2.10/24\"     # the server's, where its image does not say it

  [objectives]
  rpo = \"24h\"
  rto = \"30m\"
  required = true              # missing one fails the drill

  [[check]]
  kind = \"console\"
  pattern = \"login:\"           # a regular expression for one line

Several servers are [[server]] tables with name and [[server.check]]; they start in that order, \
each when the one before has recovered.";

/// The program.
#[derive(Debug, Parser)]
#[command(name = "relevo-drills", version, about = "Rehearses the recovery of servers and writes the evidence", long_about = ABOUT, after_long_help = EXIT_CODES, max_term_width = 100)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Log more on standard error: -v steps, -vv everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hold the drill that a plan describes
    #[command(after_long_help = PLAN)]
    Run(Run),
    /// Check a plan without holding the drill
    #[command(after_long_help = PLAN)]
    Check(Check),
    /// Remove what drills left that were killed
    ///
    /// Virtual machines, disk processes, network namespaces and run directories of drills whose
    /// own process is gone. Every `run` does this first. Drills that are being held are not
    /// touched.
    Clean(Clean),
    /// Print a completion script for a shell
    ///
    /// For bash: relevo-drills completions bash > /etc/bash_completion.d/relevo-drills
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page (roff); read it with: relevo-drills man | man -l -
    Man,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The plan, a TOML file; see below
    pub plan: PathBuf,
    /// Directory for report.json and report.html [default: STATE/reports/NAME/TIME-ID]
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// State directory of the recovery site that `relevo-recover enroll` made
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// Print the report as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The plan, a TOML file; see below
    pub plan: PathBuf,
    /// Print what the plan means as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `clean`.
#[derive(Debug, Args)]
pub struct Clean {
    /// State directory of the recovery site
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// Print what was removed as JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        CommandLine::command().debug_assert();
    }

    /// Guards: help and documentation list exactly the codes that there are.
    #[test]
    fn every_exit_code_is_documented() {
        use crate::failure::Exit::*;
        let all = [
            Passed,
            Error,
            Failed,
            Refused,
            NoKvm,
            Usage,
            Interrupted,
            Terminated,
        ];
        for exit in all {
            match exit {
                // Whoever adds a code adds it above.
                Passed | Error | Failed | Refused | NoKvm | Usage | Interrupted | Terminated => {}
            }
        }
        let codes = all.map(|exit| exit as u32).to_vec();
        let numbers = |text: &str| -> Vec<u32> {
            text.split(|c: char| !c.is_ascii_digit())
                .filter_map(|word| word.parse().ok())
                .collect()
        };
        assert_eq!(numbers(EXIT_CODES), codes);
        let docs = include_str!("../../docs/drills.md");
        let start = docs.find("## Exit codes").unwrap();
        let end = start + docs[start..].find("## The plan").unwrap();
        let listed: Vec<u32> = docs[start..end]
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.split_once(" |"))
            .flat_map(|(cell, _)| numbers(cell))
            .collect();
        assert_eq!(listed, codes);
    }

    /// Guards: the plan that the help shows is one.
    #[test]
    fn the_plan_in_the_help_is_valid() {
        let toml = |from: &str, to: &str| {
            let start = PLAN.find(from).unwrap() + from.len();
            let end = PLAN[start..].find(to).unwrap() + start;
            PLAN[start..end].to_owned()
        };
        let short = toml("A whole plan:\n", "What else");
        let (top, tables) = short.split_once("\n\n").unwrap();
        let more = toml("has all keys):\n", "Several servers");
        let more = more.replace("site_kernel", "# site_kernel");
        let (more_top, more_tables) = more.split_once("\n\n").unwrap();
        let whole = format!("{top}\n{more_top}\n{tables}\n{more_tables}");
        let plan = crate::plan::Plan::parse(&whole, "help", std::path::Path::new(".")).unwrap();
        assert_eq!(plan.servers[0].checks.len(), 2);
        assert!(plan.objectives.required);
    }
}
