//! relevo-recover: see `relevo_recover::command`.

fn main() -> std::process::ExitCode {
    relevo_recover::command::main()
}
