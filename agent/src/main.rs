//! `relevo-agent`: see `relevo-agent --help`.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use relevo_agent::command::Cli;
use relevo_agent::progress::LogOutput;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    relevo_wire::allocator::share_heaps();
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => cli.level(),
        1 => "relevo_agent=debug,relevo_wire=debug,info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(LogOutput::default)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}\nremedy: {}", error.remedy());
            ExitCode::from(error.exit_code())
        }
    }
}
