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
        "{} is not built: 'cargo build --workspace --bins' builds all but the static one, 'make test' \
         that too",
        program.display()
    );
    program
}

/// Where what takes long to make is kept.
pub fn cache() -> PathBuf {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let told = std::env::var_os("RELEVO_CACHE").map(PathBuf::from);
    told.unwrap_or_else(|| Path::new(&home).join(".cache/relevo"))
}

/// The root of the source tree.
pub fn source_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}
