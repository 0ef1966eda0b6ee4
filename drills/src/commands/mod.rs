//! What the commands do. Results go to standard output, everything else to standard error.

mod run;

use std::io::Write;

use clap::CommandFactory;
use serde::Serialize;

use crate::command_line::{Check, Clean, Command, CommandLine};
use crate::failure::{Exit, Failure};
use crate::ledger::{Cleaned, Ledger};
use crate::plan::{Plan, in_words};

/// Carries out a command.
pub fn execute(command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::Run(options) => run::run(options),
        Command::Check(options) => check(options),
        Command::Clean(options) => clean(options),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(
                *shell,
                &mut CommandLine::command(),
                "relevo-drills",
                &mut script,
            );
            print_bytes(&script)
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(CommandLine::command())
                .render(&mut page)
                .map_err(|e| Failure::io("manual page", &e))?;
            print_bytes(&page)
        }
    }
}

fn print(text: &str) -> Result<Exit, Failure> {
    print_bytes(text.as_bytes())
}

/// A reader that has gone, such as `head`, has seen enough.
fn print_bytes(bytes: &[u8]) -> Result<Exit, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::io("standard output", &e))
        }
        _ => Ok(Exit::Passed),
    }
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|e| {
            Failure::error(
                format!("the result cannot be encoded: {e}"),
                "report this as a bug",
            )
        })
}

/// What `check --json` prints.
#[derive(Serialize)]
struct PlanFacts<'a> {
    name: &'a str,
    time_limit_ms: u64,
    servers: Vec<ServerFacts<'a>>,
}

#[derive(Serialize)]
struct ServerFacts<'a> {
    server: &'a str,
    point: &'a str,
    checks: Vec<CheckFacts<'a>>,
}

#[derive(Serialize)]
struct CheckFacts<'a> {
    name: &'a str,
    kind: &'a str,
    expectation: String,
    required: bool,
    timeout_ms: u64,
}

fn check(options: &Check) -> Result<Exit, Failure> {
    let plan = Plan::load(&options.plan)?;
    crate::failover::check(&plan, &options.plan.display().to_string())?;
    if options.json {
        return print(&json(&facts(&plan))?);
    }
    let mut out = format!(
        "{}: a valid plan of drill {}\n",
        options.plan.display(),
        plan.name
    );
    for server in &plan.servers {
        out.push_str(&format!(
            "  starts {} at its point {}\n",
            server.server, server.point
        ));
        for check in &server.checks {
            let required = if check.required {
                ""
            } else {
                " (not required)"
            };
            out.push_str(&format!(
                "    waits up to {} for {}{required}\n",
                in_words(check.timeout),
                check.kind.expectation()
            ));
        }
    }
    out.push_str(&format!(
        "  is given up after {}\n",
        in_words(plan.time_limit)
    ));
    print(&out)
}

fn facts(plan: &Plan) -> PlanFacts<'_> {
    let check = |check: &'_ crate::plan::Check| {
        (
            check.kind.expectation(),
            crate::report::millis(check.timeout),
        )
    };
    PlanFacts {
        name: &plan.name,
        time_limit_ms: crate::report::millis(plan.time_limit),
        servers: plan
            .servers
            .iter()
            .map(|server| ServerFacts {
                server: &server.server,
                point: &server.point,
                checks: server
                    .checks
                    .iter()
                    .map(|it| {
                        let (expectation, timeout_ms) = check(it);
                        CheckFacts {
                            name: &it.name,
                            kind: it.kind.word(),
                            expectation,
                            required: it.required,
                            timeout_ms,
                        }
                    })
                    .collect(),
            })
            .collect(),
    }
}

fn clean(options: &Clean) -> Result<Exit, Failure> {
    let cleaned = Ledger::open(&options.state)?.clean()?;
    if options.json {
        print(&json(&cleaned)?)?;
    } else if cleaned.is_empty() {
        print("nothing to clean: no drill left anything behind\n")?;
    } else {
        print(&cleaned.iter().map(words).collect::<String>())?;
    }
    match cleaned.iter().flat_map(|c| &c.left_behind).next() {
        None => Ok(Exit::Passed),
        Some(left) => Err(Failure::error(
            format!("not everything could be removed: {left}"),
            "run as root; a process that does not end waits for the kernel, see `dmesg`",
        )),
    }
}

fn words(cleaned: &Cleaned) -> String {
    let name = cleaned.name.as_deref().unwrap_or("of unknown name");
    let mut out = format!("drill {} ({name}), whose process is gone:\n", cleaned.id);
    for what in &cleaned.removed {
        out.push_str(&format!("  removed {what}\n"));
    }
    for what in &cleaned.left_behind {
        out.push_str(&format!("  LEFT    {what}\n"));
    }
    out
}
