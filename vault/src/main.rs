//! relevo-vault
fn main() {}
