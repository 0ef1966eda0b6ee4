//! How fast files must be read so that every byte is within the promised time, and whether that
//! can be kept.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use relevo_wire::Timestamp;

use crate::volume::FileId;

/// Reading is planned this much faster than needed, for what comes in between.
const MARGIN: f64 = 1.25;

/// A file and when all of it was read last; for one that never was, when it was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The file.
    pub file: FileId,
    /// Its bytes.
    pub bytes: u64,
    /// When.
    pub checked: Timestamp,
}

/// How checking stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pace {
    /// Packs and parity files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The check that is longest ago.
    pub oldest: Option<Timestamp>,
    /// Every byte is to be read within so many days.
    pub every_days: u32,
    /// Bytes a second that this takes from now on.
    pub needed: u64,
    /// Bytes a second at which files are read.
    pub pace: u64,
    /// Bytes that were not read for longer than promised.
    pub overdue: u64,
    /// True when nothing is overdue and the rate allowed is enough.
    pub kept: bool,
}

impl Pace {
    /// Of files in the order of their checks, oldest first.
    pub fn of(files: &[Due], now: Timestamp, every_days: u32, rate: u64) -> Self {
        let period = Duration::from_secs(u64::from(every_days) * 86_400);
        let (mut needed, mut sum, mut overdue) = (0f64, 0u64, 0u64);
        for file in files {
            sum += file.bytes;
            let due = file.checked.plus(period).as_millis();
            match u64::try_from(due.saturating_sub(now.as_millis())) {
                Ok(left) if left > 0 => {
                    needed = needed.max(sum as f64 * 1000.0 / left as f64);
                }
                _ => overdue += file.bytes,
            }
        }
        let steady = sum as f64 / period.as_secs_f64().max(1.0);
        let wanted = match overdue {
            0 => needed.max(steady) * MARGIN,
            _ => rate as f64,
        };
        Self {
            files: files.len(),
            bytes: sum,
            oldest: files.first().map(|file| file.checked),
            every_days,
            needed: needed.ceil() as u64,
            pace: (wanted.ceil() as u64).clamp(1, rate.max(1)),
            overdue,
            kept: overdue == 0 && needed <= rate as f64,
        }
    }

    /// How long reading so many bytes takes at this pace.
    pub fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.pace.max(1) as f64)
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = crate::images::bytes;
        writeln!(f, "{} files, {}", self.files, size(self.bytes))?;
        if let Some(oldest) = self.oldest {
            writeln!(f, "oldest check: {oldest}")?;
        }
        writeln!(
            f,
            "every {} days takes {}/s from now on; reading {}/s",
            self.every_days,
            size(self.needed),
            size(self.pace)
        )?;
        match self.kept {
            true => writeln!(f, "every byte is read within {} days", self.every_days),
            false => writeln!(
                f,
                "NOT every byte is read within {} days: {} are overdue",
                self.every_days,
                size(self.overdue)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::volume::FileKind;
    use proptest::prelude::*;
    use relevo_wire::TenantId;

    const DAY: i64 = 86_400_000;

    fn file(number: u32, bytes: u64, checked: i64) -> Due {
        let file = FileId {
            tenant: TenantId::from_bytes([1; 16]),
            kind: FileKind::Pack,
            number,
        };
        let checked = Timestamp::from_millis(checked);
        Due {
            file,
            bytes,
            checked,
        }
    }

    proptest! {
        /// Guards the promise: at the pace that it names every file is read before it is due.
        #[test]
        fn the_pace_is_enough(
            mut files in proptest::collection::vec((1u64..1 << 40, 0i64..30 * DAY), 1..40),
        ) {
            files.sort_by_key(|(_, checked)| *checked);
            let files: Vec<Due> = files.iter().enumerate()
                .map(|(at, &(bytes, checked))| file(at as u32, bytes, checked)).collect();
            let now = Timestamp::from_millis(30 * DAY - 1);
            let pace = Pace::of(&files, now, 30, u64::MAX);
            prop_assert!(pace.kept);
            let mut clock = now.as_millis() as f64;
            for file in &files {
                clock += pace.time_for(file.bytes).as_secs_f64() * 1000.0;
                prop_assert!(clock <= (file.checked.as_millis() + 30 * DAY) as f64);
            }
        }
    }

    /// Guards against a promise that is broken in silence.
    #[test]
    fn what_is_overdue_or_too_much_for_the_rate_is_said() {
        let now = Timestamp::from_millis(31 * DAY);
        let late = Pace::of(&[file(1, 500, 0), file(2, 500, 30 * DAY)], now, 30, 100);
        assert_eq!((late.kept, late.overdue, late.pace), (false, 500, 100));
        let slow = Pace::of(&[file(1, 1 << 40, 30 * DAY)], now, 30, 1000);
        assert_eq!((slow.kept, slow.overdue, slow.pace), (false, 0, 1000));
        let well = Pace::of(&[file(1, 1 << 30, 30 * DAY)], now, 30, 1 << 20);
        assert!(well.kept && well.pace < 1000, "{well:?}");
        assert!(Pace::of(&[], now, 30, 1).kept);
    }
}
