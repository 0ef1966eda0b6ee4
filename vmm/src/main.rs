//! `relevo-vmm`: parses the command line and calls the library.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use relevo_vmm::cli::{Cli, Command};
use relevo_vmm::error::Failure;
use relevo_vmm::run::{EXIT_FAILED, EXIT_USAGE};
use relevo_vmm::{manual, print_failure, probe, run};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let filter = EnvFilter::try_from_env("RELEVO_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    match dispatch(cli) {
        Ok(code) => code,
        Err(failure) => {
            print_failure(&failure);
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let unwritable = |e: io::Error| Failure::new(&e, "check where standard output goes");
    let mut out = io::stdout().lock();
    match cli.command {
        Command::Run(args) => {
            drop(out);
            run::run(&args)
        }
        Command::Probe { json } => {
            let report = probe::report();
            let text = if json { report.json() } else { report.text() };
            writeln!(out, "{text}").map_err(unwritable)?;
            Ok(ExitCode::from(if report.kvm { 0 } else { EXIT_FAILED }))
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "relevo-vmm", &mut out);
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => {
            manual::write(&Cli::command(), &mut out).map_err(unwritable)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
