//! What befalls disks and the agent while an image is made costs what it must, and is told.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use relevo_tests::ailing::AilingDisk;
use relevo_tests::binaries;
use relevo_tests::disks::{mixed, noise, sha256, sparse};
use relevo_tests::filesystems::{copy_image, run};
use relevo_tests::lab::Lab;
use relevo_tests::program::{Running, finish};
use relevo_tests::suite::{Need, Suite};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// What the latest recovery point says of a server.
fn inspected(lab: &Lab, server: &str) -> Value {
    finish(lab.recover_command(&["inspect", server, "--json"])).expect_json()
}

/// The content as it must come back: these bytes are zeros.
fn with_zeros(lab: &Lab, content: &Path, bytes: &[(u64, u64)]) -> PathBuf {
    let expected = copy_image(content, &lab.path("expected.raw"));
    let file = fs::OpenOptions::new().write(true).open(&expected);
    let file = file.unwrap_or_else(|e| panic!("{e}"));
    for (start, end) in bytes {
        file.write_all_at(&vec![0; (end - start) as usize], *start)
            .unwrap_or_else(|e| panic!("{e}"));
    }
    expected
}

/// Guards the rest of a disk against its bad sectors, and people against not hearing of them:
/// the bytes that could not be read, and no others, are zeros, and the point names them; when
/// the drive can read them again, the next image has them.
fn what_cannot_be_read_is_zeros_and_named() {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    let content = lab.path("disk.raw");
    noise(&sparse(&content, 40 * MIB), 0, 40 * MIB as usize, 5);
    let disk = AilingDisk::over(&content);
    let bad = [
        (MIB + 512, MIB + 1024),
        (9 * MIB, 9 * MIB + 200 * 1024),
        (40 * MIB - 512, 40 * MIB),
    ];
    disk.fail(&bad.map(|(start, end)| start..end));
    lab.backup("db1", disk.device());
    let faults = &inspected(&lab, "db1")["disks"][0]["faults"];
    assert_eq!(faults["unreadable"], json!(bad), "{faults}");
    let expected = with_zeros(&lab, &content, &bad);
    assert_eq!(sha256(&lab.restore("db1")), sha256(&expected));
    let said = lab.recover(&["inspect", "db1"]);
    assert!(said.stderr.contains("could not be read"), "{said:?}");
    // Nothing was written, and yet they are tried again.
    disk.fail(&[]);
    lab.backup("db1", disk.device());
    let faults = &inspected(&lab, "db1")["disks"][0]["faults"];
    assert!(faults.is_null(), "{faults}");
    assert_eq!(sha256(&lab.restore("db1")), sha256(&content));
    // And when they fail once more, the earlier bytes are not shown as this point's.
    disk.fail(&bad.map(|(start, end)| start..end));
    lab.backup("db1", disk.device());
    let faults = inspected(&lab, "db1")["disks"][0]["faults"].clone();
    match faults.is_null() {
        // What nobody wrote to need not be read.
        true => assert_eq!(sha256(&lab.restore("db1")), sha256(&content)),
        false => assert_eq!(sha256(&lab.restore("db1")), sha256(&expected)),
    }
}

/// Guards image files on ailing storage: the same, in pages.
fn an_image_file_is_read_around_its_bad_pages() {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    let content = lab.path("disk.raw");
    mixed(&content, 24 * MIB, 8);
    let disk = AilingDisk::over(&content);
    let bad = [(4 * MIB + 4096, 4 * MIB + 8192)];
    disk.fail(&bad.map(|(start, end)| start..end));
    lab.backup("db1", &disk.file());
    let faults = &inspected(&lab, "db1")["disks"][0]["faults"];
    assert_eq!(faults["unreadable"], json!(bad), "{faults}");
    let expected = with_zeros(&lab, &content, &bad);
    assert_eq!(sha256(&lab.restore("db1")), sha256(&expected));
}

/// Guards a server's other disks against one that fails in mid-run: they are imaged, and the
/// point says which is missing.
fn a_disk_that_fails_costs_itself_only() {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    let (content, sound) = (lab.path("ailing.raw"), lab.path("sound.raw"));
    noise(&sparse(&content, 96 * MIB), 0, 96 * MIB as usize, 6);
    mixed(&sound, 24 * MIB, 9);
    let disk = AilingDisk::over(&content);
    let backup = || {
        let (state, one, other) = (
            lab.text("db1"),
            format!("{}=sda", disk.device().display()),
            format!("{}=sdb", sound.display()),
        );
        let args = [
            "backup", "--state", &state, "--disk", &one, "--disk", &other,
        ];
        finish(lab.command("relevo-agent", &args))
    };
    disk.fail(std::slice::from_ref(&(MIB..96 * MIB)));
    let said = backup();
    assert!(said.stderr.contains("failing"), "{said:?}");
    let point = inspected(&lab, "db1");
    let gone = &point["disks"][0]["faults"]["gone"];
    assert!(!gone.is_null(), "{point}");
    assert!(point["disks"][1]["faults"].is_null(), "{point}");
    let to = lab.path("restored");
    lab.recover(&[
        "restore",
        "db1",
        "--disk",
        "sdb",
        "--to",
        &to.to_string_lossy(),
    ])
    .expect_success();
    assert_eq!(sha256(&to), sha256(&sound));
    // It comes back, and with it its image.
    disk.fail(&[]);
    backup().expect_success();
    let point = inspected(&lab, "db1");
    assert!(point["disks"][0]["faults"].is_null(), "{point}");
    let to = lab.path("restored-sda");
    lab.recover(&[
        "restore",
        "db1",
        "--disk",
        "sda",
        "--to",
        &to.to_string_lossy(),
    ])
    .expect_success();
    assert_eq!(sha256(&to), sha256(&content));
}

/// Guards disks that are made larger while the server runs: the next image has all of it.
fn a_disk_that_grew_is_imaged_whole() {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    let content = lab.path("disk.raw");
    mixed(&content, 24 * MIB, 4);
    let device = run("losetup", &["--find", "--show", &content.to_string_lossy()]);
    let device = device.trim();
    let path = PathBuf::from(device);
    lab.backup("db1", &path);
    let file = fs::OpenOptions::new().write(true).open(&content);
    let file = file.unwrap_or_else(|e| panic!("{e}"));
    file.set_len(56 * MIB).unwrap_or_else(|e| panic!("{e}"));
    noise(&file, 50 * MIB, MIB as usize, 77);
    run("losetup", &["--set-capacity", device]);
    let report = lab.backup("db1", &path);
    run("losetup", &["--detach", device]);
    assert_eq!(report["disk_bytes"].as_u64(), Some(56 * MIB), "{report}");
    assert_eq!(sha256(&lab.restore("db1")), sha256(&content));
}

/// Guards a run against an update of its own program: it ends as it began, and the next one is
/// the new program's.
fn another_release_in_its_place_does_not_disturb_a_run() {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    let content = lab.path("disk.raw");
    noise(&sparse(&content, 64 * MIB), 0, 64 * MIB as usize, 11);
    let program = lab.path("relevo-agent");
    let install = || {
        let new = lab.path("relevo-agent.new");
        fs::copy(binaries::path("relevo-agent"), &new).unwrap_or_else(|e| panic!("{e}"));
        fs::rename(&new, &program).unwrap_or_else(|e| panic!("{e}"));
    };
    let command = || {
        let mut command = std::process::Command::new(&program);
        let disk = format!("{}=sda", content.display());
        let state = lab.text("db1");
        command.args(["backup", "--state", &state, "--disk", &disk, "--json"]);
        command
    };
    install();
    let mut run = Running::start(command());
    install();
    let (code, report) = run.wait();
    assert_eq!(code, 0, "{report}");
    assert_eq!(sha256(&lab.restore("db1")), sha256(&content));
    let mut first = [0; 4];
    let file = fs::File::open(&program);
    let read = file.and_then(|mut file| file.read_exact(&mut first));
    assert!(read.is_ok() && first == *b"\x7fELF", "{read:?}");
    let second = finish(command()).expect_json();
    assert_eq!(second["sent_bytes"].as_u64(), Some(0), "{second}");
}

fn main() {
    let needs = || {
        [
            Need::root(),
            Need::program("losetup"),
            Need::device("/dev/fuse", "load the fuse module"),
        ]
    };
    Suite::default()
        .case_with(
            "what cannot be read is zeros and named",
            &needs(),
            what_cannot_be_read_is_zeros_and_named,
        )
        .case_with(
            "an image file is read around its bad pages",
            &needs(),
            an_image_file_is_read_around_its_bad_pages,
        )
        .case_with(
            "a disk that fails costs itself only",
            &needs(),
            a_disk_that_fails_costs_itself_only,
        )
        .case_with(
            "a disk that grew is imaged whole",
            &needs(),
            a_disk_that_grew_is_imaged_whole,
        )
        .case(
            "another release in its place does not disturb a run",
            another_release_in_its_place_does_not_disturb_a_run,
        )
        .run()
}
