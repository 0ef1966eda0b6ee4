//! The command line: options in, words or JSON out. What is done is done elsewhere.

mod access;
mod images;
mod key_options;
mod keys;
mod options;
mod running;
mod serving;
mod words;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;
use crate::site;
use options::{Cli, Command};

/// The whole program.
pub fn main() -> ExitCode {
    let start = running::Start::now();
    let cli = Cli::parse();
    log_to_stderr(cli.verbose);
    match dispatch(cli, start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = format!("error: {}\nremedy: {}", failure.cause, failure.remedy);
            eprintln!("{}", words::harmless(&text));
            ExitCode::from(failure.code)
        }
    }
}

fn log_to_stderr(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "relevo_recover=info,warn",
        2 => "relevo_recover=debug,info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("RELEVO_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}

fn dispatch(cli: Cli, start: running::Start) -> Result<(), Failure> {
    let state = &site::absolute(&cli.state);
    match cli.command {
        Command::Keygen(args) => keys::keygen(&args),
        Command::Keys(command) => keys::run(state, &command),
        Command::Enroll(args) => images::enroll(state, &args),
        Command::List(args) => images::list(state, &args),
        Command::Inspect(args) => images::inspect(state, &args),
        Command::Restore(args) => images::restore(state, &args),
        Command::Plan(args) => images::plan(state, &args),
        Command::Export(args) => serving::export(state, &args),
        Command::Failover(args) => running::failover(state, &args, start),
        Command::Status(args) => running::status(state, &args),
        Command::Stop(args) => running::stop(state, &args),
        Command::ServeDisk(args) => serving::serve_disk(state, &args),
        Command::Publish(args) => serving::publish(&args),
        Command::Completions { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(
                shell,
                &mut command,
                "relevo-recover",
                &mut std::io::stdout(),
            );
            Ok(())
        }
        Command::Man => words::manual(Cli::command()).and_then(|page| words::print(&page)),
    }
}
