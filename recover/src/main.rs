//! relevo-recover: see `relevo_recover::command`.

fn main() -> std::process::ExitCode {
    relevo_wire::allocator::share_heaps();
    relevo_recover::command::main()
}
