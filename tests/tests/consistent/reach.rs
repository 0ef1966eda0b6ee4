//! Which file systems are held, and what is said where none can be.

use std::path::Path;
use std::process::Command;

use relevo_tests::disks::sparse;
use relevo_tests::filesystems::run;
use relevo_tests::program::Running;
use relevo_tests::suite::{Need, Suite};
use serde_json::json;

use super::server::{MIB, Server};
use super::writers::{Writers, assert_of_one_instant};

/// Guards file systems that only a container sees.
fn what_is_mounted_in_another_namespace_is_frozen_too() {
    let mut server = Server::new("ext4", 128);
    server.unmount();
    let point = server.path().to_string_lossy().into_owned();
    let mut container = Command::new("unshare");
    let script = "mount -t ext4 \"$1\" \"$2\" && echo mounted && while :; do \
                  echo more >> \"$2/log\"; sync \"$2/log\"; done";
    container.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        script,
        "sh",
    ]);
    container.arg(server.device()).arg(&point);
    let mut container = Running::start(container);
    assert_eq!(container.next_line(), "mounted\n");
    let report = server.backup(&[]);
    assert_eq!(report["consistency"], "file-system", "{report}");
    assert_eq!(report["frozen"], json!([point]), "{report}");
    container.kill();
    server.lose_and_restore();
    assert!(server.path().join("log").exists());
}

/// Guards file systems in files, of which some is still in memory when what holds them is frozen.
fn a_file_system_in_a_file_is_frozen_before_what_holds_it() {
    let mut server = Server::new("ext4", 256);
    let (file, inner) = (server.path().join("inner.raw"), server.lab.path("inner"));
    sparse(&file, 64 * MIB);
    run("mkfs.ext4", &["-q", &file.to_string_lossy()]);
    std::fs::create_dir(&inner).unwrap_or_else(|e| panic!("{e}"));
    let point = inner.to_string_lossy().into_owned();
    run("mount", &["-o", "loop", &file.to_string_lossy(), &point]);
    let writers = Writers::start(&inner);
    let report = server.backup(&[]);
    writers.stop();
    run("umount", &[&point]);
    assert_eq!(report["consistency"], "file-system", "{report}");
    let outer = server.path().to_string_lossy();
    assert_eq!(report["frozen"], json!([point, outer]), "{report}");
    server.lose_and_restore();
    let file = server.path().join("inner.raw");
    run("mount", &["-o", "loop", &file.to_string_lossy(), &point]);
    let checked = std::panic::catch_unwind(|| assert_of_one_instant(Path::new(&point)));
    run("umount", &[&point]);
    assert!(checked.is_ok(), "the inner file system is of no instant");
}

/// Guards what cannot be frozen: the marks alone tell that it stood still.
fn fat_is_held_by_its_marks() {
    let mut server = Server::new("vfat", 64);
    let write = |text: &str| {
        std::fs::write(server.path().join("loader"), text).unwrap_or_else(|e| panic!("{e}"));
    };
    write("first");
    server.backup(&[]);
    write("second");
    // It is in memory only when the run begins.
    let report = server.backup(&[]);
    assert_eq!(report["consistency"], "file-system", "{report}");
    assert_eq!(report["frozen"], json!([]), "{report}");
    server.lose_and_restore();
    let text = std::fs::read_to_string(server.path().join("loader"));
    assert_eq!(text.unwrap_or_default(), "second");
}

/// Guards against claims without grounds: not frozen is as after a power cut at best, and what
/// is not tracked while it is written is of no instant.
fn what_is_not_held_is_said() {
    let mut server = Server::new("ext4", 128);
    let writers = Writers::start(server.path());
    let report = server.backup(&["--no-tracking"]);
    assert_eq!(report["consistency"], "fuzzy", "{report}");
    assert!(report["instant"].is_null(), "{report}");
    assert!(
        report["reasons"].to_string().contains("not tracked"),
        "{report}"
    );
    writers.stop();
    let report = server.backup(&["--no-freeze"]);
    assert_eq!(report["consistency"], "crash", "{report}");
    assert_eq!(report["frozen"], json!([]), "{report}");
    assert!(
        report["reasons"].to_string().contains("not to be frozen"),
        "{report}"
    );
    server.lose_and_restore();
    assert_of_one_instant(server.path());
}

pub fn cases(mut suite: Suite) -> Suite {
    let cases: [(&str, fn()); 3] = [
        (
            "what_is_mounted_in_another_namespace_is_frozen_too",
            what_is_mounted_in_another_namespace_is_frozen_too,
        ),
        (
            "a_file_system_in_a_file_is_frozen_before_what_holds_it",
            a_file_system_in_a_file_is_frozen_before_what_holds_it,
        ),
        ("what_is_not_held_is_said", what_is_not_held_is_said),
    ];
    for (name, case) in cases {
        suite = suite.case_with(name, &[Need::root(), Need::tracepoints()], case);
    }
    let fat = [Need::root(), Need::tracepoints(), Need::file_system("vfat")];
    suite.case_with("fat_is_held_by_its_marks", &fat, fat_is_held_by_its_marks)
}
