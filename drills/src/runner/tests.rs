//! The runner with a recovery that fails wherever it can.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use super::lab::{Fault, Lab};
use crate::failure::Exit;
use crate::report::{CheckStatus, Verdict};

const GONE: Vec<PathBuf> = Vec::new();

#[test]
fn a_drill_that_passes_measures_and_leaves_nothing() {
    let lab = Lab::new();
    let plan = lab.plan(
        "[objectives]\nrpo = \"2h\"\nrto = \"1h\"\nrequired = true",
        "",
    );
    let held = lab.hold(&plan, &lab.fake(Fault::None, 0));
    let report = held.result.unwrap();
    assert_eq!(report.verdict, Verdict::Passed, "{:?}", report.reason);
    assert_eq!(held.exit, Some(Exit::Passed));
    assert_eq!(
        held.journal,
        ["start db", "start web", "stop web", "stop db"]
    );
    assert!(
        report
            .rpo_ms
            .is_some_and(|ms| (3_600_000..7_200_000).contains(&ms))
    );
    assert_eq!(report.rto_ms, report.servers[1].recovered_ms);
    assert!(report.rto_ms >= report.servers[0].recovered_ms);
    assert_eq!(report.objectives.rpo.met, Some(true));
    for server in &report.servers {
        let names: Vec<_> = server.steps.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names.first(), Some(&"plan"));
        assert_eq!(names.last(), Some(&"service"));
        assert!(
            names.contains(&"disk") && names.contains(&"boot"),
            "{names:?}"
        );
        // The steps are without gaps and end where the server has recovered.
        let end = server
            .steps
            .last()
            .map(|s| s.started_ms + s.duration_ms)
            .unwrap();
        assert!(
            end.abs_diff(server.recovered_ms.unwrap()) <= 2,
            "{server:?}"
        );
        assert_eq!(server.console_tail, ["booting", "ready"]);
    }
    assert!(report.teardown.clean);
    assert_eq!(lab.left(), GONE);
}

/// Guards: at whatever step the recovery fails, at whichever server, all that was started is
/// stopped in reverse order and nothing stays on disk.
#[test]
fn every_fault_at_every_server_tears_everything_down() {
    use Fault::*;
    for fault in [
        Start,
        StartRefused,
        StartInterrupted,
        MachineEnds,
        StopFails,
        Signal,
    ] {
        for at in 0..2 {
            let lab = Lab::new();
            // Only a machine that is not ready yet can end before it is.
            let never = if fault == MachineEnds {
                "expect = \"never\""
            } else {
                ""
            };
            let mut plan = lab.plan("", never);
            if fault == MachineEnds && at == 0 {
                plan.servers.swap(0, 1);
            }
            let held = lab.hold(&plan, &lab.fake(fault, at));
            let case = format!("{fault:?} at server {at}: {:?}", held.journal);
            let starts = held
                .journal
                .iter()
                .filter(|l| l.starts_with("start"))
                .map(|l| &l[6..]);
            let mut stops: Vec<_> = held
                .journal
                .iter()
                .filter(|l| l.starts_with("stop"))
                .map(|l| &l[5..])
                .collect();
            stops.reverse();
            assert_eq!(starts.collect::<Vec<_>>(), stops, "{case}");
            assert_eq!(lab.left(), GONE, "{case}");
            match fault {
                StartRefused => assert_eq!(held.result.unwrap_err().exit, Exit::Refused, "{case}"),
                Start | MachineEnds => assert_eq!(held.exit, Some(Exit::Failed), "{case}"),
                StartInterrupted => assert_eq!(held.exit, Some(Exit::Interrupted), "{case}"),
                // The signal comes while the machine starts; its checks are not waited for. A
                // check that holds at its first look is not taken back.
                Signal => assert!(held.exit.is_some(), "{case}"),
                _ => assert_eq!(held.exit, Some(Exit::Passed), "{case}"),
            }
        }
    }
}

/// Guards: even a panic of the recovery leaves nothing running.
#[test]
fn a_panic_tears_everything_down() {
    for fault in [
        Fault::StartPanics,
        Fault::FactsPanic,
        Fault::MachineEndsWithPanic,
    ] {
        for at in 0..2 {
            let lab = Lab::new();
            let plan = lab.plan("", "");
            let fake = lab.fake(fault, at);
            let panicked =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lab.hold(&plan, &fake)));
            assert!(panicked.is_err(), "{fault:?} at {at}");
            let journal = fake.journal.borrow();
            let count = |word: &str| journal.iter().filter(|l| l.starts_with(word)).count();
            assert_eq!(count("start"), count("stop"), "{journal:?}");
            assert_eq!(lab.left(), GONE);
        }
    }
}

#[test]
fn the_first_failing_check_is_named_with_its_evidence() {
    let lab = Lab::new();
    let more = "expect = \"never said\"\ntimeout = \"1s\"\nname = \"greeting\"\n\
                [[server.check]]\nkind = \"console\"\npattern = \"ready\"\n";
    let plan = lab.plan("", more);
    let held = lab.hold(&plan, &lab.fake(Fault::None, 0));
    let report = held.result.unwrap();
    assert_eq!(held.exit, Some(Exit::Failed));
    assert_eq!(report.rto_ms, None);
    let failed = report.failed_check.unwrap();
    assert_eq!(
        (failed.server.as_str(), failed.check.as_str()),
        ("web", "greeting")
    );
    assert_eq!(failed.evidence.console_tail, ["booting", "ready"]);
    assert!(report.reason.unwrap().contains("greeting"));
    let states: Vec<_> = report.servers[1].checks.iter().map(|c| c.status).collect();
    assert_eq!(states, [CheckStatus::Failed, CheckStatus::NotRun]);
}

#[test]
fn a_check_that_is_not_required_is_reported_only() {
    let lab = Lab::new();
    let more = "[[server.check]]\nkind = \"console\"\npattern = \"never\"\ntimeout = \"1s\"\nrequired = false\n";
    let report = lab
        .hold(&lab.plan("", more), &lab.fake(Fault::None, 0))
        .result
        .unwrap();
    assert_eq!(report.verdict, Verdict::Passed);
    assert_eq!(report.servers[1].checks[1].status, CheckStatus::Failed);
}

#[test]
fn a_missed_objective_fails_only_where_it_is_required() {
    let lab = Lab::new();
    let wanted = "[objectives]\nrpo = \"5m\"\n";
    let report = lab
        .hold(&lab.plan(wanted, ""), &lab.fake(Fault::None, 0))
        .result
        .unwrap();
    assert_eq!(report.verdict, Verdict::Passed);
    assert_eq!(report.objectives.rpo.met, Some(false));

    let required = format!("{wanted}required = true");
    let held = lab.hold(&lab.plan(&required, ""), &lab.fake(Fault::None, 0));
    let report = held.result.unwrap();
    assert_eq!(held.exit, Some(Exit::Failed));
    assert!(report.reason.unwrap().contains("RPO is 1 h"));
    assert!(report.failed_check.is_none());
}

#[test]
fn the_time_limit_of_the_drill_ends_a_patient_check() {
    let lab = Lab::new();
    let plan = lab.plan(
        "time_limit = \"1s\"",
        "expect = \"never\"\ntimeout = \"1h\"",
    );
    let report = lab.hold(&plan, &lab.fake(Fault::None, 0)).result.unwrap();
    assert!(report.reason.unwrap().contains("time limit of 1.0 s"));
}

#[test]
fn a_signal_while_a_check_waits_interrupts_the_drill() {
    let lab = Lab::new();
    let plan = lab.plan(
        "[objectives]\nrto = \"1h\"",
        "expect = \"never\"\ntimeout = \"1h\"",
    );
    let held = lab.hold(&plan, &lab.fake(Fault::Signal, 1));
    assert_eq!(held.exit, Some(Exit::Terminated));
    let report = held.result.unwrap();
    assert_eq!(report.verdict, Verdict::Interrupted);
    assert!(report.reason.unwrap().contains("SIGTERM"));
    assert_eq!(report.objectives.rto.met, None, "nothing was missed");
    assert_eq!(lab.left(), GONE);
}
