//! A report with every field filled, for tests.

use super::*;
use crate::rehearsal::Finding;

/// A drill of one server whose second check failed; `text` stands wherever a guest or a user
/// decides on the content.
pub fn failed(text: &str) -> Report {
    let started = Timestamp::from_millis(1_795_305_600_000);
    let evidence = Evidence {
        summary: format!("HTTP 200, but {text}"),
        address: Some("10.77.0.10:80".into()),
        http_status: Some(200),
        received: Some(text.into()),
        console_line: None,
        console_tail: vec![text.into(), text.into()],
    };
    let check = |name: &str, status, reason: Option<&str>| CheckReport {
        name: name.into(),
        kind: "http",
        expectation: format!("GET / answers with {text}"),
        required: true,
        status,
        reason: reason.map(str::to_owned),
        started_ms: Some(3_100),
        duration_ms: Some(21_900),
        timeout_ms: 300_000,
        attempts: 17,
        evidence: Some(evidence.clone()),
    };
    let step = |name: &str, started_ms, duration_ms| Step {
        name: name.into(),
        started_ms,
        duration_ms,
    };
    Report {
        schema: SCHEMA,
        schema_version: SCHEMA_VERSION,
        id: "0badcafe".into(),
        name: "weekly".into(),
        description: Some(text.into()),
        plan_file: text.into(),
        verdict: Verdict::Failed,
        reason: Some(format!("the check \"page\" of web1 did not hold: {text}")),
        remedy: Some(text.into()),
        failed_check: Some(FailedCheck {
            server: "web1".into(),
            check: "page".into(),
            reason: text.into(),
            evidence: evidence.clone(),
        }),
        started,
        finished: started.plus(Duration::from_secs(27)),
        duration_ms: 27_000,
        rpo_ms: Some(7_800_000),
        rto_ms: None,
        objectives: ObjectivesReport::new(
            &Objectives {
                rpo: Some(Duration::from_secs(86_400)),
                rto: Some(Duration::from_secs(900)),
                required: true,
            },
            Some(7_800_000),
            None,
        ),
        servers: vec![ServerReport {
            server: "web1".into(),
            id: Some("00112233445566778899aabbccddeeff".into()),
            name: Some(text.into()),
            os: Some("Debian GNU/Linux 12 (bookworm)".into()),
            point: Some(PointReport {
                id: "8f14e45fceea167a5a36dedd4bea2543".into(),
                taken: Some(Timestamp::from_millis(1_795_297_800_000)),
                age_ms: Some(7_800_000),
            }),
            machine: Some(MachineReport {
                kernel: Some(text.into()),
                command_line: Some("root=UUID=5a36 console=ttyS0".into()),
                memory_mib: Some(1024),
                cpus: Some(2),
            }),
            addresses: vec!["10.77.0.10".into()],
            findings: vec![
                Finding {
                    step: "disks".into(),
                    found: "a GPT with 3 partitions; the root file system (ext4) is on the third"
                        .into(),
                    change: None,
                    why: "the root is booted from there".into(),
                },
                Finding {
                    step: "network".into(),
                    found: text.into(),
                    change: Some(text.into()),
                    why: text.into(),
                },
            ],
            start_error: None,
            steps: vec![
                step("plan", 0, 900),
                step("disk", 900, 400),
                step("boot", 1_300, 14_200),
                step("service", 15_500, 9_500),
            ],
            checks: vec![
                check("login prompt", CheckStatus::Held, None),
                check(
                    "page",
                    CheckStatus::Failed,
                    Some("did not hold within 5 min"),
                ),
                check(text, CheckStatus::NotRun, None),
            ],
            recovered_ms: None,
            console_tail: vec!["[    0.000000] Linux version 6.12".into(), text.into()],
        }],
        teardown: Teardown {
            clean: false,
            duration_ms: 800,
            left_behind: vec![text.into()],
        },
        host: Host::look(),
        versions: Versions::default(),
    }
}
