//! relevo-vmm
fn main() {}
