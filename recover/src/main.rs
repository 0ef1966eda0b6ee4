//! relevo-recover
fn main() {}
