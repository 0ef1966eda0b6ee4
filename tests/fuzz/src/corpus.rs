//! The kept inputs.

use std::path::PathBuf;

/// Where a target's inputs are.
pub fn directory(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target)
}

/// A target's inputs with their names, in the order of these.
///
/// # Panics
/// When they cannot be read.
pub fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = directory(target);
    let fail = |e: std::io::Error| -> ! { panic!("{}: {e}", directory.display()) };
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|e| fail(e));
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap_or_else(|e| fail(e)).path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let bytes = std::fs::read(&path).unwrap_or_else(|e| fail(e));
            (name.into_owned(), bytes)
        })
        .collect();
    inputs.sort();
    inputs
}
