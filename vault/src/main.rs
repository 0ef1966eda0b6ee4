//! The vault's command line.

mod arguments;
mod checking;
mod governing;
mod keeping;
mod remote_command;
mod run;

use std::process::ExitCode;

fn main() -> ExitCode {
    relevo_wire::allocator::share_heaps();
    run::run(arguments::parse())
}
