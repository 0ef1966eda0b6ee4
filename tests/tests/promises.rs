//! The page of promises names the test behind each; this looks whether they are there.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All Rust sources below a directory, but for what cargo builds.
fn sources(dir: &Path, found: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// What stands in back quotes in the last column of the page's tables.
fn named(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter(|line| line.starts_with('|'));
    let last = rows.filter_map(|row| row.trim_end_matches('|').rsplit('|').next());
    let quoted = last.flat_map(|column| column.split('`').skip(1).step_by(2));
    let words = quoted.filter(|word| word.matches('_').count() >= 2 && !word.contains(' '));
    words.map(String::from).collect()
}

/// Guards against promises that nothing proves any more.
#[test]
fn every_promise_names_a_test_that_is_there() {
    let page = std::fs::read_to_string(root().join("docs/durability.md")).unwrap();
    let named = named(&page);
    assert!(named.len() > 20, "the page names few tests: {named:?}");
    let mut code = String::new();
    sources(&root(), &mut code);
    let there = |name: &&String| {
        let function =
            code.contains(&format!("fn {name}(")) || code.contains(&format!("fn {name}<"));
        function || code.contains(&format!("\"{name}\""))
    };
    let missing: Vec<_> = named.iter().filter(|name| !there(name)).collect();
    assert!(missing.is_empty(), "no test is named so: {missing:?}");
}
