//! `relevo-drills`: see [`relevo_drills`].

use std::process::ExitCode;

use clap::Parser;
use relevo_drills::command_line::CommandLine;
use relevo_drills::commands;
use relevo_drills::failure::Exit;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => {
            let usage = error.use_stderr();
            // A terminal that cannot be written has nobody to read it.
            let _ = error.print();
            return if usage { Exit::Usage } else { Exit::Passed }.into();
        }
    };
    let level = match line.verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match commands::execute(&line.command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("error: {}\nremedy: {}", failure.cause, failure.remedy);
            failure.exit.into()
        }
    }
}
