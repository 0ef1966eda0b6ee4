//! A report's files: `report.json` for programs, `report.html` for people.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::Report;
use crate::failure::Failure;

/// Writes both into `dir`, which is made. A file is there whole or not at all.
pub fn write(report: &Report, dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|e| Failure::io(dir.display(), &e))?;
    let mut json = serde_json::to_vec_pretty(report).map_err(|e| {
        Failure::error(
            format!("the report cannot be encoded: {e}"),
            "report this as a bug",
        )
    })?;
    json.push(b'\n');
    place(dir, "report.html", super::page(report).as_bytes())?;
    // Last, so that whoever waits for it finds the page too.
    place(dir, "report.json", &json)
}

fn place(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    let path = dir.join(name);
    let unfinished = dir.join(format!(".{name}.{}", std::process::id()));
    let written = File::create(&unfinished)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&unfinished, &path));
    written.map_err(|e| {
        let _ = fs::remove_file(&unfinished);
        Failure::io(path.display(), &e)
    })
}
