//! Finds the programs under test beside the test itself.

use std::path::{Path, PathBuf};

/// The program `name` that was built with this test.
///
/// # Panics
/// When it was not built: `cargo build --workspace --bins` does.
pub fn path(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    // Tests are in target/PROFILE/deps, the programs and what measures them one above.
    let mut beside = test.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    let program = beside
        .find(|program| program.is_file())
        .unwrap_or_else(|| PathBuf::from(name));
    assert!(
        program.exists(),
        "{} is not built: run 'cargo build --workspace --bins' first",
        program.display()
    );
    program
}

/// The root of the source tree.
pub fn source_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}
