//! Plans made from real partition tables and file systems, written by `sfdisk`, `sgdisk` and
//! `mkfs`. A test whose tools are missing says which and is counted as skipped.
#![allow(clippy::unwrap_used)]

mod boot_loader;
mod damage;
mod kernel;
mod lab;
mod refusal;

use std::path::Path;

use libtest_mimic::{Arguments, Trial};
use relevo_recover::plan::{BootPlan, InitrdSegment, PlanError, PlanInput, plan};

use lab::{disks, installed};

/// Name, tools that it needs, and what it does.
type Test = (&'static str, &'static [&'static str], fn());

fn main() {
    let arguments = Arguments::from_args();
    let tests = [
        boot_loader::TESTS,
        kernel::TESTS,
        damage::TESTS,
        refusal::TESTS,
    ];
    let trials = tests
        .into_iter()
        .flatten()
        .map(|&(name, tools, run)| {
            let missing: Vec<&str> = tools.iter().copied().filter(|t| !installed(t)).collect();
            if !missing.is_empty() {
                eprintln!("{name}: skipped, missing {}", missing.join(", "));
            }
            Trial::test(name, move || {
                run();
                Ok(())
            })
            .with_ignored_flag(!missing.is_empty())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn plan_of(path: &Path) -> Result<BootPlan, PlanError> {
    plan(&PlanInput::new(disks(&[("sda", path)]), true))
}

fn instructions(plan: &BootPlan) -> &str {
    match &plan.initrd[0] {
        InitrdSegment::Relevo { instructions, .. } => instructions,
        InitrdSegment::Image(file) => panic!("the first segment is {file:?}"),
    }
}

fn has_finding(plan: &BootPlan, text: &str) -> bool {
    plan.findings
        .iter()
        .any(|f| f.found.contains(text) || f.change.as_ref().is_some_and(|c| c.contains(text)))
}
