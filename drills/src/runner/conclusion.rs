//! What a drill comes to: its measures against its objectives, and the verdict.

use std::time::Duration;

use relevo_wire::Timestamp;

use super::{Drill, Shortfall};
use crate::plan::in_words;
use crate::report::{
    Host, ObjectivesReport, Report, SCHEMA, SCHEMA_VERSION, Teardown, Verdict, Versions, millis,
};

impl Drill<'_> {
    /// The report of a drill whose servers are gone.
    pub(super) fn report(mut self, id: String, plan_file: &str, teardown: Teardown) -> Report {
        let rpo_ms = self
            .servers
            .iter()
            .filter_map(|s| s.point.as_ref())
            .filter_map(|point| point.age_ms)
            .max();
        let rto_ms = match self.verdict {
            None => self.servers.iter().filter_map(|s| s.recovered_ms).max(),
            Some(_) => None,
        };
        let mut objectives = ObjectivesReport::new(&self.plan.objectives, rpo_ms, rto_ms);
        if self.verdict.as_ref().is_some_and(|s| s.interrupted) {
            // What there was no time to measure was not missed.
            for objective in [&mut objectives.rpo, &mut objectives.rto] {
                objective.met = objective.met.filter(|_| objective.measured_ms.is_some());
            }
        }
        if objectives.required && self.verdict.is_none() {
            for (name, objective, remedy) in [
                (
                    "RPO",
                    &objectives.rpo,
                    "take images of the server more often",
                ),
                (
                    "RTO",
                    &objectives.rto,
                    "see in the report where the time went",
                ),
            ] {
                if objective.met == Some(false) {
                    let words = |ms: Option<u64>| {
                        ms.map_or("unknown".into(), |ms| in_words(Duration::from_millis(ms)))
                    };
                    self.fall_short(Shortfall {
                        interrupted: false,
                        reason: format!(
                            "the {name} is {}, and the plan requires {}",
                            words(objective.measured_ms),
                            words(objective.objective_ms)
                        ),
                        remedy: format!("{remedy}, or change `objectives`"),
                        check: None,
                    });
                }
            }
        }
        if !teardown.clean {
            self.fall_short(Shortfall {
                interrupted: false,
                reason: "the drill could not be torn down completely".into(),
                remedy: "see what was left behind, then run `relevo-drills clean`".into(),
                check: None,
            });
        }
        let finished = Timestamp::now();
        let verdict = match &self.verdict {
            None => Verdict::Passed,
            Some(shortfall) if shortfall.interrupted => Verdict::Interrupted,
            Some(_) => Verdict::Failed,
        };
        let (reason, remedy, failed_check) = match self.verdict {
            None => (None, None, None),
            Some(s) => (Some(s.reason), Some(s.remedy), s.check),
        };
        Report {
            schema: SCHEMA,
            schema_version: SCHEMA_VERSION,
            id,
            name: self.plan.name.clone(),
            description: self.plan.description.clone(),
            plan_file: plan_file.to_owned(),
            verdict,
            reason,
            remedy,
            failed_check,
            started: self.started,
            finished,
            duration_ms: millis(self.began.elapsed()),
            rpo_ms,
            rto_ms,
            objectives,
            servers: self.servers,
            teardown,
            host: Host::look(),
            versions: Versions::default(),
        }
    }
}
