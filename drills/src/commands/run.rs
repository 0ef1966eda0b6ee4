//! `relevo-drills run`.

use std::path::PathBuf;

use super::{json, print};
use crate::command_line::Run;
use crate::failover::Failover;
use crate::failure::{Exit, Failure};
use crate::interruption::Interruption;
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::progress::{Progress, Terminal};
use crate::report::{self, Report};
use crate::runner::{self, Means};

pub(super) fn run(options: &Run) -> Result<Exit, Failure> {
    let plan = Plan::load(&options.plan)?;
    let plan_file = options.plan.display().to_string();
    crate::failover::check(&plan, &plan_file)?;
    // Listening begins before anything is made, and goes on until everything is removed.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| Failure::io("asynchronous runtime", &e))?;
    let interruption = Interruption::default();
    runtime
        .block_on(async { interruption.listen() })
        .map_err(|e| Failure::io("signals", &e))?;
    let rehearsal = Failover::open(&options.state, &interruption)?;
    let ledger = Ledger::open(&options.state)?;
    let mut progress = Terminal::new();
    for cleaned in ledger.clean()? {
        progress.end(
            cleaned.left_behind.is_empty(),
            &format!("removed what drill {} left when it was killed", cleaned.id),
        );
    }
    let report = runner::run(
        &plan,
        &plan_file,
        Means {
            rehearsal: &rehearsal,
            ledger: &ledger,
            interruption: &interruption,
            progress: &mut progress,
        },
    )?;
    drop(progress);
    let dir = report_dir(options, &report);
    // A report that cannot be written must not hide how the drill ended.
    let written = report::write(&report, &dir);
    if options.json {
        print(&json(&report)?)?;
    } else {
        let mut closing = report::summary(&report);
        if written.is_ok() {
            closing.push_str(&format!(
                "  report   {}\n",
                dir.join("report.html").display()
            ));
        }
        print(&closing)?;
    }
    written?;
    Ok(runner::exit_of(&report, &interruption))
}

fn report_dir(options: &Run, report: &Report) -> PathBuf {
    options.report.clone().unwrap_or_else(|| {
        let seconds = report.started.to_string();
        let seconds = seconds
            .split('.')
            .next()
            .unwrap_or_default()
            .replace(':', "");
        options
            .state
            .join("reports")
            .join(&report.name)
            .join(format!("{seconds}Z-{}", report.id))
    })
}
