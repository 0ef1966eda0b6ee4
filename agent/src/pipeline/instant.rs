//! From disks that were read while they were written to an image of one instant.

use relevo_wire::Timestamp;
use relevo_wire::manifest::{Consistency, Held};

use super::last::Reached;
use super::rounds::Reading;
use super::{Pipeline, PipelineError};
use crate::consistency::Holding;
use crate::consistency::level::{Evidence, level};
use crate::consistency::still::Still;
use crate::used::Survey;

/// How often an instant is tried.
const TRIES: usize = 3;
const TOO_FAST: &str = "it was written faster than it was read";

impl Pipeline {
    /// Reads again what was written since it was read, and holds the server still for the rest of
    /// it. Says of what moment the image is then.
    pub(super) fn reach_instant(
        &mut self,
        readings: &mut [Reading<'_>],
        survey: &mut Survey,
        holding: &Holding,
    ) -> Result<(Consistency, Held), PipelineError> {
        let offline = |one: &Reading<'_>| {
            let level = one.disk.consistency();
            level.map(|level| level == Consistency::Offline)
        };
        let mut all_offline = true;
        for one in readings.iter() {
            all_offline &= offline(one)?;
        }
        if all_offline {
            return Ok((Consistency::Offline, Held::default()));
        }
        let disks: Vec<_> = readings.iter().map(|one| one.disk).collect();
        let mut still = Still::new(holding, &disks);
        let mut instant = None;
        let mut why = String::from(TOO_FAST);
        if self.rounds(readings, survey, holding.limit, &|| still.flush())?
            && readings.iter().any(|one| one.doubt.is_none())
        {
            match self.instant(readings, survey, &mut still)? {
                Ok(at) => instant = Some(at),
                Err(reason) => why = reason,
            }
        }
        // Of a disk without an instant, too, all that is known to have changed is read.
        self.read_due(readings, survey)?;
        let mut evidence = Vec::new();
        for one in readings.iter() {
            evidence.push(Evidence {
                disk: one.name.to_string(),
                offline: offline(one)?,
                unwritten: one.disk.is_unwritten()?,
                mounted: one.disk.mounted_writable().is_some(),
                instant: match (&one.doubt, instant) {
                    (Some(doubt), _) => Err(doubt.clone()),
                    (None, None) => Err(why.clone()),
                    (None, Some(_)) => Ok(()),
                },
            });
        }
        let (held, not_frozen, not_ready) = still.over();
        let (consistency, reasons) = level(&evidence, &not_frozen, &not_ready);
        let held = Held {
            instant,
            reasons,
            ..held
        };
        Ok((consistency, held))
    }

    /// Tries to read what is due while nothing changes. When that was, or why it was not to be.
    fn instant(
        &mut self,
        readings: &mut [Reading<'_>],
        survey: &mut Survey,
        still: &mut Still<'_>,
    ) -> Result<Result<Timestamp, String>, PipelineError> {
        still.make_ready();
        let mut why = String::new();
        for _ in 0..TRIES {
            still.prepare();
            // Hooks have applications write, and an earlier try took its time.
            if !self.rounds(readings, survey, still.limit(), &|| still.flush())? {
                return Ok(Err(TOO_FAST.into()));
            }
            let frozen = still.freeze();
            let at = Timestamp::now();
            let reached = self.last(readings, survey, frozen.until());
            let thawed = still.thaw(frozen);
            for one in readings.iter_mut() {
                if let Err(doubt) = one.tracking.settled(one.disk) {
                    one.doubt = Some(doubt);
                }
            }
            why = match (reached?, thawed) {
                (Reached::Instant(caught), Ok(())) => {
                    if self.settle(readings, survey, caught)? {
                        return Ok(Ok(at));
                    }
                    "what was read in the instant could not be kept".into()
                }
                (Reached::Instant(_), Err(early)) => early,
                (Reached::Nothing(why), _) => why.into(),
            };
            tracing::info!("no instant: {why}");
            self.read_due(readings, survey)?;
        }
        Ok(Err(why))
    }
}
