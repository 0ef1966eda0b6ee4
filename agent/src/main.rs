//! relevo-agent
fn main() {}
