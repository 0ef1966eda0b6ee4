//! Real file systems in image files, through loop devices: made, filled, culled and compared.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disks::noise;

/// What fills files that are deleted again: every 16 bytes of them.
const MARKER: &[u8; 16] = b"a freed block...";

/// Runs a program of the system and returns what it prints.
///
/// # Panics
/// When it fails.
pub fn run(program: &str, arguments: &[&str]) -> String {
    run_with(program, arguments, &[0])
}

/// The same; these exit codes are as good.
///
/// # Panics
/// When it ends with another.
pub fn run_with(program: &str, arguments: &[&str], good: &[i32]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env("MTOOLS_SKIP_CHECK", "1");
    match command.output() {
        Ok(output)
            if output
                .status
                .code()
                .is_some_and(|code| good.contains(&code)) =>
        {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        other => panic!("{command:?}: {other:?}"),
    }
}

/// A loop device over a part of a file; gone when dropped.
pub struct Loop(String);

impl Loop {
    /// Over `length` bytes from `offset`; over all behind when `length` is 0.
    pub fn over(file: &Path, offset: u64, length: u64) -> Self {
        let (offset, length) = (offset.to_string(), length.to_string());
        let file = file.to_string_lossy();
        let mut arguments = vec!["--find", "--show", "--offset", &offset];
        if length != "0" {
            arguments.extend(["--sizelimit", &length]);
        }
        arguments.push(&file);
        Self(run("losetup", &arguments).trim().to_string())
    }

    /// The device.
    pub fn device(&self) -> &str {
        &self.0
    }

    /// Mounts it.
    pub fn mount(self, kind: &str, options: &str) -> Mount {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("no directory: {e}"));
        let target = dir.path().to_string_lossy().into_owned();
        match kind {
            "ntfs" => run("ntfs-3g", &[&self.0, &target, "-o", options]),
            _ => run("mount", &["-t", kind, "-o", options, &self.0, &target]),
        };
        Mount {
            dir: Some(dir),
            _loop: self,
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).output();
    }
}

/// A mounted file system; unmounted when dropped.
pub struct Mount {
    dir: Option<tempfile::TempDir>,
    // Dropped after the file system is unmounted.
    _loop: Loop,
}

impl Mount {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir
            .as_ref()
            .map_or(Path::new("/nowhere"), |dir| dir.path())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let target = self.path().to_string_lossy().into_owned();
        let unmounted = Command::new("umount").arg(&target).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            // What is still mounted must not be removed.
            eprintln!("{target} could not be unmounted");
            if let Some(dir) = self.dir.take() {
                let _ = dir.keep();
            }
        }
    }
}

/// Files to keep, in a directory outside; `seed` makes them differ.
pub fn plant(dir: &Path, seed: u64) {
    let fail = |e: std::io::Error| -> ! { panic!("{}: {e}", dir.display()) };
    for number in 0..40u64 {
        let folder = dir.join(format!("folder-{}", number % 7));
        std::fs::create_dir_all(&folder).unwrap_or_else(|e| fail(e));
        let length = [17, 700, 5000, 70_000][number as usize % 4];
        let file = File::create(folder.join(format!("file-{number}.txt")));
        noise(&file.unwrap_or_else(|e| fail(e)), 0, length, seed + number);
    }
    let big = File::create(dir.join("big.bin")).unwrap_or_else(|e| fail(e));
    noise(&big, 0, 1 << 20, seed + 100);
}

/// Writes files that are to be deleted, of `length` bytes in all.
pub fn write_marked(dir: &Path, length: usize) {
    let block = MARKER.repeat(4096);
    for number in 0..4 {
        let file = File::create(dir.join(format!("marked-{number}")));
        let mut file = file.unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        for _ in 0..length / 4 / block.len() {
            file.write_all(&block).unwrap_or_else(|e| panic!("{e}"));
        }
        file.sync_all().unwrap_or_else(|e| panic!("{e}"));
    }
}

/// Deletes them.
pub fn delete_marked(dir: &Path) {
    for number in 0..4 {
        let file = dir.join(format!("marked-{number}"));
        std::fs::remove_file(file).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// Copies a directory's contents, links and all.
pub fn copy(from: &Path, to: &Path) {
    let from = format!("{}/.", from.display());
    run("cp", &["-a", &from, &to.to_string_lossy()]);
}

/// Compares directories file by file.
///
/// # Panics
/// When they differ.
pub fn compare(one: &Path, other: &Path) {
    let (one, other) = (one.to_string_lossy(), other.to_string_lossy());
    run(
        "diff",
        &["-r", "--no-dereference", "-x", "lost+found", &one, &other],
    );
}

/// How many sectors of a file's part are filled with what was deleted.
pub fn marked_sectors(file: &Path, offset: u64, length: u64) -> u64 {
    let file = File::open(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut bytes = vec![0; 1 << 20];
    let (mut at, mut found) = (offset, 0);
    while at < offset + length {
        let part = bytes.len().min((offset + length - at) as usize);
        let read = file.read_at(&mut bytes[..part], at).unwrap_or(0);
        if read == 0 {
            break;
        }
        let sectors = bytes[..read].chunks_exact(512);
        found += sectors
            .filter(|s| s.as_chunks::<16>().0.iter().all(|c| c == MARKER))
            .count();
        at += read as u64;
    }
    found as u64
}

/// A copy of a file, holes and all.
pub fn copy_image(from: &Path, to: &Path) -> PathBuf {
    let (source, target) = (from.to_string_lossy(), to.to_string_lossy());
    run("cp", &["--sparse=always", &source, &target]);
    to.to_path_buf()
}
