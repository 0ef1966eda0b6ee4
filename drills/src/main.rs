//! relevo-drills
fn main() {}
