//! Applications are made ready, in time or not at all, and always go on.

use relevo_tests::program::finish;
use relevo_tests::suite::{Need, Suite};
use serde_json::Value;

use super::server::Server;
use super::writers::Writers;

fn said(server: &Server, name: &str) -> String {
    std::fs::read_to_string(server.lab.path(name)).unwrap_or_default()
}

fn hooks_of(report: &Value) -> Vec<(String, bool)> {
    let hooks = report["hooks"].as_array().cloned().unwrap_or_default();
    let told = hooks.iter().map(|hook| {
        let (phase, name) = (&hook["phase"], &hook["name"]);
        let name = format!(
            "{}/{}",
            phase.as_str().unwrap_or(""),
            name.as_str().unwrap_or("")
        );
        (name, hook["failure"].is_null())
    });
    told.collect()
}

/// Guards the claim that applications were ready: hooks run in order around the freeze, and a
/// single one that fails, late or refused, takes the claim away and nothing else.
fn a_point_claims_ready_applications_only_if_every_hook_was_well() {
    let server = Server::new("ext4", 128);
    let log = server.lab.text("said");
    let note = |what: &str| format!("echo {what}-$RELEVO_PHASE >> {log}");
    server.hook("pre.d/10-first", &note("first"));
    server.hook(
        "pre.d/20-second",
        &format!("{}; cat /proc/mounts > /dev/null", note("second")),
    );
    server.hook("post.d/10-first", &note("first"));
    server.hook("post.d/90-last", &note("last"));
    let writers = Writers::start(server.path());
    let report = server.backup(&[]);
    assert_eq!(report["consistency"], "application", "{report}");
    let inspected = server.inspect();
    assert_eq!(inspected["held"]["hooks"], report["hooks"]);
    assert_eq!(
        said(&server, "said"),
        "first-pre\nsecond-pre\nfirst-post\nlast-post\n"
    );

    // Not asked for, they are not run.
    let report = server.backup(&["--no-hooks"]);
    assert_eq!(report["consistency"], "file-system", "{report}");
    assert_eq!(said(&server, "said").lines().count(), 4);

    server.hook(
        "pre.d/10-first",
        &format!("{}; echo broken; exit 7", note("first")),
    );
    let late = server.hook("pre.d/15-late", "exec sleep 600");
    let report = server.backup(&["--hook-limit", "1"]);
    assert_eq!(report["consistency"], "file-system", "{report}");
    let expected = [
        ("pre/10-first", false),
        ("pre/15-late", false),
        ("pre/20-second", true),
        ("post/10-first", true),
        ("post/90-last", true),
    ];
    let expected: Vec<_> = expected
        .map(|(name, well)| (name.to_string(), well))
        .to_vec();
    assert_eq!(hooks_of(&report), expected);
    let reasons = report["reasons"].to_string();
    for words in [
        "pre.d/10-first",
        "exit status: 7",
        "pre.d/15-late",
        "ended after 1 s",
    ] {
        assert!(reasons.contains(words), "'{words}' is not said: {report}");
    }
    std::fs::remove_file(late).unwrap_or_else(|e| panic!("{e}"));

    // What others could have written is not run.
    let open = server.hook("pre.d/10-first", &note("stranger"));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(open, mode).unwrap_or_else(|e| panic!("{e}"));
    let report = server.backup(&[]);
    assert_eq!(report["consistency"], "file-system", "{report}");
    assert!(
        report["reasons"].to_string().contains("refused"),
        "{report}"
    );
    assert!(!said(&server, "said").contains("stranger-pre"));
    writers.stop();
}

/// Guards the administrator's commands.
fn hooks_are_listed_enabled_tried_and_taken_away() {
    let server = Server::new("ext4", 64);
    let dir = server.lab.text("hooks");
    let hooks = |args: &[&str]| {
        let state = server.lab.text("db1");
        let mut command = server
            .lab
            .command("relevo-agent", &[&["hooks"], args].concat());
        command.args(["--hooks", &dir, "--json"]);
        if args[0] == "test" {
            command.args(["--state", &state]);
        }
        finish(command)
    };
    let ready = hooks(&["list"]).expect_json();
    assert_eq!(ready["ready"].as_array().map(Vec::len), Some(3), "{ready}");
    for args in [
        &["enable", "postgresql"][..],
        &[
            "enable",
            "service",
            "--unit",
            "cron.service",
            "--how",
            "pause",
        ],
    ] {
        assert_eq!(hooks(args).expect_json().as_array().map(Vec::len), Some(2));
    }
    let listed = hooks(&["list"]).expect_json();
    let names = |phase: &str| {
        let all = listed[phase].as_array().cloned().unwrap_or_default();
        all.iter()
            .map(|hook| hook["name"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("pre"), ["50-postgresql", "50-service-cron.service"]);
    assert_eq!(names("pre"), names("post"));
    hooks(&["enable", "service"]).expect_refusal(&["unit"]);
    hooks(&["enable", "oracle"]).expect_refusal(&["oracle", "hooks list"]);
    for args in [
        &["disable", "postgresql"][..],
        &["disable", "service", "--unit", "cron.service"],
    ] {
        hooks(args).expect_success();
    }
    assert!(
        hooks(&["test"])
            .expect_json()
            .as_array()
            .is_some_and(Vec::is_empty)
    );
    server.hook("pre.d/10-broken", "exit 1");
    let tried = hooks(&["test"]);
    assert!(tried.stdout.contains("10-broken"), "{tried:?}");
    tried.expect_refusal(&["1 hooks failed"]);
}

pub fn cases(suite: Suite) -> Suite {
    let kernel = || [Need::root(), Need::tracepoints()];
    suite
        .case_with(
            "a_point_claims_ready_applications_only_if_every_hook_was_well",
            &kernel(),
            a_point_claims_ready_applications_only_if_every_hook_was_well,
        )
        .case_with(
            "hooks_are_listed_enabled_tried_and_taken_away",
            &kernel(),
            hooks_are_listed_enabled_tried_and_taken_away,
        )
}
