//! The vault's command line.

mod arguments;
mod keeping;
mod run;

use std::process::ExitCode;

fn main() -> ExitCode {
    run::run(arguments::parse())
}
