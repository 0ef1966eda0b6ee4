//! Images that are taken by themselves, as the vault's settings say, with the real processes.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use relevo_tests::disks::{mixed, noise, sha256};
use relevo_tests::lab::Lab;
use relevo_tests::program::{Finished, finish, wait_while};
use relevo_tests::suite::Suite;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Ceilings that a test's machine, which is busy, would reach.
const AT_ANY_LOAD: &str = "spread = \"0s\"\npressure = { io = 0, cpu = 0, memory = 0 }\n";

fn main() {
    Suite::default()
        .case(
            "a daemon takes images by itself and takes up a new policy",
            a_daemon_takes_images,
        )
        .case(
            "a pause is kept over restarts and ends a run",
            a_pause_is_kept,
        )
        .case(
            "a vault that goes and comes changes nothing",
            a_vault_that_goes_and_comes,
        )
        .case("a killed daemon leaves nothing half-done", a_killed_daemon)
        .case("status says what is wrong", status_says_what_is_wrong)
        .case(
            "what cannot be a policy is refused with its line",
            wrong_settings,
        )
        .run()
}

/// A lab with a server, its disk and settings.
struct Site {
    lab: Lab,
    disk: PathBuf,
}

impl Site {
    fn new(settings: &str) -> Self {
        let lab = Lab::new();
        let site = Self {
            disk: lab.path("disk.raw"),
            lab,
        };
        site.settings(settings);
        site.lab.enroll_agent("db1");
        mixed(&site.disk, 8 * MIB, 5);
        site
    }

    fn settings(&self, backup: &str) {
        let path = self.lab.path("vault/settings.toml");
        let new = path.with_extension("new");
        let text = format!("[backup]\n{AT_ANY_LOAD}{backup}");
        fs::write(&new, text).unwrap_or_else(|e| panic!("{}: {e}", new.display()));
        fs::rename(&new, &path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    fn state(&self) -> String {
        self.lab.text("db1")
    }

    fn daemon(&self) -> Daemon {
        let disk = format!("{}=sda", self.disk.display());
        let state = self.state();
        let args = [
            "run",
            "--state",
            &state,
            "--",
            "--disk",
            &disk,
            "--no-tracking",
        ];
        Daemon(spawn(self.lab.command("relevo-agent", &args)))
    }

    fn agent(&self, args: &[&str]) -> Finished {
        let state = self.state();
        let all = [&args[..1], &["--state", &state], &args[1..]].concat();
        finish(self.lab.command("relevo-agent", &all))
    }

    /// The status as JSON, whatever its exit code.
    fn status(&self) -> Value {
        let found = self.agent(&["status", "--json"]);
        let status: Value = serde_json::from_str(&found.stdout)
            .unwrap_or_else(|e| panic!("no JSON ({e}): {found:?}"));
        let fine = status["fine"].as_bool();
        assert_eq!(fine, Some(found.code == 0), "{found:?}");
        status
    }

    /// The recovery points in the vault.
    fn points(&self) -> usize {
        let dir = self.lab.text("vault");
        let args = ["images", "--dir", &dir, "--json"];
        let images = finish(self.lab.command("relevo-vault", &args)).expect_json();
        images.as_array().map_or(0, Vec::len)
    }

    /// What a file of the schedule says.
    fn file(&self, name: &str) -> Value {
        let path = self.lab.path("db1").join(name);
        let text = fs::read(&path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or(Value::Null)
    }

    fn history(&self) -> Value {
        self.file("schedule/history.json")
    }
}

/// Ends when dropped.
struct Daemon(Child);

impl Daemon {
    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let _ = Command::new("kill").args(["-s", name, &pid]).status();
    }

    /// Ends it as a service manager would.
    fn stop(mut self) {
        self.signal("TERM");
        let status = self.0.wait().unwrap_or_else(|e| panic!("{e}"));
        assert!(status.success(), "{status}");
    }

    fn kill(mut self) {
        let _ = self.0.kill();
        let status = self.0.wait().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(status.signal(), Some(9), "{status}");
    }

    /// The process of the run that is under way.
    fn run(&self) -> Option<u32> {
        let task = format!("/proc/{0}/task/{0}/children", self.0.id());
        let children = fs::read_to_string(task).unwrap_or_default();
        let children = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        children.into_iter().find(|pid| is_backup(*pid))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_backup(pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(b"backup")
}

fn spawn(mut command: Command) -> Child {
    let spawned = command.stdout(Stdio::null()).spawn();
    spawned.unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

fn change(disk: &Path, seed: u64) {
    let file = fs::OpenOptions::new().write(true).open(disk);
    let file = file.unwrap_or_else(|e| panic!("{}: {e}", disk.display()));
    noise(&file, seed % 8 * MIB, 64 * 1024, seed);
}

/// Guards the whole way from a line in the vault's settings to recovery points, and that a policy
/// that changes counts without anybody's touching the server.
fn a_daemon_takes_images() {
    let site = Site::new("rpo = \"2s\"\n");
    let daemon = site.daemon();
    wait_while(|| site.points() < 3);
    let again = site.agent(&["run"]);
    again.expect_refusal(&["another 'relevo-agent run'"]);

    // Once an hour from now on: the target in the status is the new one.
    site.settings("rpo = \"1h\"\nretries = 7\n");
    daemon.signal("HUP");
    wait_while(|| site.status()["policy"]["policy"]["retries"] != 7);
    // Not the run that was under way when the policy changed.
    wait_while(|| {
        let status = site.status();
        status["running"] != Value::Null || status["next_why"] != "target"
    });
    let status = site.status();
    assert_eq!(status["newest"]["target_seconds"], 3600, "{status}");
    assert_eq!(status["newest"]["band"], "within", "{status}");
    assert_eq!(status["fine"], true, "{status}");
    assert_eq!(status["disks"][0]["name"], "sda", "{status}");
    assert_eq!(status["disks"][0]["size"], 8 * MIB, "{status}");
    assert!(status["next"].is_string(), "{status}");
    let page = site.agent(&["status"]).expect_success();
    assert!(
        page.contains("fine") && page.contains("rpo 60 min"),
        "{page}"
    );
    let shown = site.agent(&["policy"]).expect_success();
    assert!(shown.contains("7 retries"), "{shown}");
    let dir = site.lab.text("vault");
    let args = ["policy", "--dir", &dir, "--server", "db1"];
    let why = finish(site.lab.command("relevo-vault", &args)).expect_success();
    assert!(why.contains("[backup]") && why.contains("default"), "{why}");

    // A calendar of its own for this server, in the place of the general target.
    site.settings(
        "rpo = \"1h\"\n[[server]]\nname = \"db1\"\nbackup = { calendar = \"*:*:0/2\" }\n",
    );
    let before = site.points();
    daemon.signal("HUP");
    wait_while(|| site.points() < before + 2);
    assert_eq!(site.status()["next_why"], "calendar");
    daemon.stop();
    assert_eq!(sha256(&site.lab.restore("db1")), sha256(&site.disk));
}

/// Guards the administrator's word: nothing is imaged while it is paused, also after restarts.
fn a_pause_is_kept() {
    // So slow that the first run does not end by itself.
    let site = Site::new("rpo = \"1s\"\nline = \"8 kbit/s\"\n");
    let daemon = site.daemon();
    wait_while(|| daemon.run().is_none());
    site.agent(&["pause"]).expect_success();
    wait_while(|| site.history()["scheduled"]["outcome"] != "interrupted");
    wait_while(|| site.file("daemon.json")["why"] != "paused");
    daemon.stop();
    let daemon = site.daemon();
    wait_while(|| site.file("daemon.json")["why"] != "paused");
    let status = site.status();
    assert!(status["paused"]["since"].is_string(), "{status}");
    assert_eq!(status["paused"]["until"], Value::Null, "{status}");
    assert_eq!(daemon.run(), None);
    assert_eq!(site.points(), 0);
    // A run by hand works all the same, and without ceilings it ends.
    let disk = format!("{}=sda", site.disk.display());
    let by_hand = ["backup", "--disk", &disk, "--no-tracking", "--no-limits"];
    site.agent(&by_hand).expect_success();
    assert_eq!(site.points(), 1);
    site.settings("rpo = \"1s\"\n");
    site.agent(&["resume"]).expect_success();
    change(&site.disk, 7);
    wait_while(|| site.points() < 3);
    let until = site
        .agent(&["pause", "--for", "4h", "--json"])
        .expect_json();
    assert!(until["until"].is_string(), "{until}");
    assert_eq!(site.agent(&["pause", "--for", "soon"]).code, 2);
    daemon.stop();
}

/// Guards a server whose vault is away when its time comes, and one whose vault goes meanwhile.
fn a_vault_that_goes_and_comes() {
    let mut site = Site::new("rpo = \"1s\"\nretry-after = \"1s\"\nretries = 2\n");
    let daemon = site.daemon();
    wait_while(|| site.points() < 1);
    site.lab.kill_vault();
    wait_while(|| site.history()["failures"].as_u64() < Some(1));
    let status = site.status();
    assert_eq!(status["fine"], false, "{status}");
    let wrong = status["wrong"].to_string();
    assert!(
        wrong.contains("the last run failed") && wrong.contains("remedy"),
        "{wrong}"
    );
    site.lab.start_vault();
    let before = site.points();
    wait_while(|| site.points() < before + 2);
    assert_eq!(site.history()["failures"], 0);
    // In the midst of a run: it goes on when the vault is back.
    site.settings("rpo = \"1s\"\nline = \"400 kbit/s\"\nretry-after = \"1s\"\n");
    mixed(&site.disk, 8 * MIB, 77);
    daemon.signal("HUP");
    wait_while(|| site.file("schedule/policy.json")["policy"]["line"] == Value::Array(vec![]));
    wait_while(|| daemon.run().is_none());
    site.lab.stop_vault();
    site.settings("rpo = \"1s\"\nretry-after = \"1s\"\n");
    site.lab.start_vault();
    let before = site.points();
    daemon.signal("HUP");
    wait_while(|| site.points() < before + 2);
    daemon.stop();
    assert_eq!(sha256(&site.lab.restore("db1")), sha256(&site.disk));
    assert_eq!(site.lab.verify().expect_json()["intact"], true);
}

/// Guards against a run that goes on without its daemon, two runs at once, and half an image.
fn a_killed_daemon() {
    let site = Site::new("rpo = \"1s\"\nline = \"8 kbit/s\"\nretry-after = \"1s\"\n");
    let daemon = site.daemon();
    wait_while(|| daemon.run().is_none());
    let run = daemon.run().unwrap_or_else(|| panic!("the run ended"));
    daemon.kill();
    wait_while(|| is_backup(run));
    assert_eq!(site.points(), 0);

    let daemon = site.daemon();
    wait_while(|| daemon.run().is_none());
    let run = daemon.run().unwrap_or_else(|| panic!("the run ended"));
    // As the kernel does for want of memory.
    let _ = Command::new("kill")
        .args(["-s", "KILL", &run.to_string()])
        .status();
    wait_while(|| site.history()["scheduled"]["outcome"] != "failed");
    let error = site.history()["scheduled"]["error"].to_string();
    assert!(error.contains("signal: 9"), "{error}");
    assert_eq!(site.points(), 0);
    // And is made again.
    site.settings("rpo = \"1s\"\nretry-after = \"1s\"\n");
    daemon.signal("HUP");
    wait_while(|| site.points() < 1);
    daemon.stop();
    assert_eq!(sha256(&site.lab.restore("db1")), sha256(&site.disk));
}

/// Guards monitoring: exit codes, and a remedy for each thing that is wrong.
fn status_says_what_is_wrong() {
    let site = Site::new("rpo = \"1s\"\n");
    let status = site.status();
    assert_eq!(
        (&status["fine"], &status["daemon"]),
        (&Value::Bool(false), &Value::Null)
    );
    let wrong = |status: &Value| status["wrong"].to_string();
    assert!(wrong(&status).contains("no daemon runs"), "{status}");
    assert!(wrong(&status).contains("no recovery point"), "{status}");
    site.lab.backup("db1", &site.disk);
    // The state grows old with nobody there.
    site.agent(&["policy", "--fetch"]).expect_success();
    wait_while(|| site.status()["newest"]["band"] != "missed");
    let status = site.status();
    assert!(wrong(&status).contains("four times the target"), "{status}");
    let page = site.agent(&["status"]);
    assert_eq!(page.code, 1, "{page:?}");
    assert!(
        page.stdout.contains("WRONG") && page.stdout.contains("remedy"),
        "{}",
        page.stdout
    );
    finish(
        site.lab
            .command("relevo-agent", &["status", "--state", "/nonexistent"]),
    )
    .expect_refusal(&["not enrolled"]);
    site.agent(&["run", "--", "--no-such-option"])
        .expect_refusal(&["--no-such-option"]);
}

/// Guards the operator against a policy that means something else than was written.
fn wrong_settings() {
    let site = Site::new("rpo = \"1h\"\n");
    // Read when they are used.
    site.agent(&["policy", "--fetch"]).expect_success();
    for (text, words) in [
        ("calendar = \"Fri..Mon 22:00\"\n", "calendar event"),
        ("calendar = []\n", "calendar"),
        ("rpo = \"0s\"\n", "rpo"),
        ("window = \"20-6\"\n", "20:00-06:00"),
        ("line = \"100 MB\"\n", "Mbit/s"),
        ("cpu = \"200%\"\n", "share of the processors"),
        ("time-zone = \"Mars/Base\"\n", "Mars/Base"),
        ("rpoo = \"1h\"\n", "rpoo"),
    ] {
        site.settings(text);
        let dir = site.lab.text("vault");
        let args = ["policy", "--dir", &dir];
        finish(site.lab.command("relevo-vault", &args)).expect_refusal(&[words]);
        // The vault that serves keeps the settings it has.
        let known = site.agent(&["policy", "--fetch", "--json"]).expect_json();
        assert_eq!(known["policy"]["rpo"], 3600, "{known}");
    }
}
