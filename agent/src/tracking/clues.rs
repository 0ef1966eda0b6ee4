//! What did not change since the last image, by what a file system says of itself, where the
//! kernel cannot mark what is written.
//!
//! Of btrfs only: [`crate::used::evidence`] of the time before the last image was read is kept, and
//! compared with that of now. A span that has the same clue at both times is not read. All else
//! is: what no clue covers, and every disk of which there is doubt (another file system, one that
//! went back in time, another base than the cache holds, a damaged file).
//!
//! It is kept in a file as `file` describes: facts, and the clue of each span.

use std::io;
use std::path::{Path, PathBuf};

use relevo_wire::index::SPAN;
use relevo_wire::{PointId, Timestamp};
use serde::{Deserialize, Serialize};

use super::file::Kind;
use super::grains::Grains;
use super::{Basis, Question};
use crate::used::evidence::{Clue, System};
use crate::used::{Survey, UsedMap};

const FILE: Kind<16> = Kind(b"RELEVOCL");

/// What a record is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Facts {
    /// Bytes of the disk.
    size: u64,
    /// The recovery point before whose first block was read, the evidence was collected.
    base: PointId,
    /// Its file systems and their generations.
    systems: Vec<(String, u64)>,
    /// When the whole disk was last read and compared.
    compared: Option<Timestamp>,
    /// A comparison found a change that the clues did not tell of.
    alarm: Option<String>,
}

/// Clues of one disk through one run.
pub struct Clues {
    path: PathBuf,
    size: u64,
    systems: Vec<(String, u64)>,
    now: Vec<Clue>,
    compared: Option<Timestamp>,
    alarm: Option<String>,
}

impl Clues {
    /// Looks, before anything of the disk is read, at what may be believed of it: the `number`th
    /// of the survey. Nothing when it has no file system that gives clues.
    pub fn look(
        question: &Question,
        size: u64,
        survey: &Survey,
        number: usize,
    ) -> Option<(Basis, Self)> {
        let used = survey.maps.get(number)?;
        let now = Self::of(question, size, survey, number)?;
        let kept = match read(&question.clues) {
            Ok(kept) => kept,
            Err(error) => {
                let path = question.clues.display();
                tracing::warn!("{path}: {error}: the disk is compared whole");
                None
            }
        };
        let (compared, alarm) = match &kept {
            Some((facts, _)) => (facts.compared, facts.alarm.clone()),
            None => (None, None),
        };
        let now = Self {
            compared,
            alarm,
            ..now
        };
        let basis = match now.trusted(kept, question) {
            Err(reason) => Basis::Nothing(reason),
            Ok(before) => {
                let changed = now.changed(&before, used);
                let old = |at: Timestamp| Timestamp::now().since(at) > question.proof_every;
                match now.compared.is_none_or(old) {
                    true => Basis::Proof(changed),
                    false => Basis::Clues(changed),
                }
            }
        };
        Some((basis, now))
    }

    fn of(question: &Question, size: u64, survey: &Survey, number: usize) -> Option<Self> {
        let systems = systems(&survey.evidence.systems, number);
        let now = survey.evidence.clues(number, survey.maps.get(number)?);
        (!systems.is_empty()).then(|| Self {
            path: question.clues.clone(),
            size,
            systems,
            now,
            compared: None,
            alarm: None,
        })
    }

    /// The clues of the record, when they are of the base that the cache holds.
    fn trusted(
        &self,
        kept: Option<(Facts, Vec<Clue>)>,
        question: &Question,
    ) -> Result<Vec<Clue>, String> {
        let why = &question.unmarked;
        let (facts, before) =
            kept.ok_or_else(|| format!("{why}; what btrfs says of changes is kept from now on"))?;
        if let Some(alarm) = &facts.alarm {
            return Err(format!("{why}; clues are not believed any more: {alarm}"));
        }
        let goes_on =
            |now: &(String, u64), then: &(String, u64)| now.0 == then.0 && now.1 >= then.1;
        let same = facts.size == self.size
            && facts.systems.len() == self.systems.len()
            && self
                .systems
                .iter()
                .zip(&facts.systems)
                .all(|(now, then)| goes_on(now, then));
        match same {
            false => Err(format!(
                "{why}; the disk holds other file systems than before"
            )),
            true if question.last != Some(facts.base) => Err(format!(
                "{why}; the cache holds another image than the one known"
            )),
            true => Ok(before),
        }
    }

    /// Everything in use but what is proven to be as before.
    fn changed(&self, before: &[Clue], used: &UsedMap) -> Grains {
        let mut changed = Grains::none(self.size);
        for number in 0..self.size.div_ceil(SPAN) {
            let bytes = number * SPAN..(number * SPAN + SPAN).min(self.size);
            let clue = |of: &[Clue]| of.get(number as usize).copied().unwrap_or(Clue::NONE);
            let as_before = clue(&self.now).proves(clue(before));
            if !as_before && used.next_used(bytes.start, bytes.end).is_some() {
                changed.add(bytes);
            }
        }
        changed
    }

    /// Whether a span that was read as another than at the last image was said to be the same, and
    /// still is by `later`, which was collected after that.
    pub fn deny(&self, span: u64, later: &Self) -> bool {
        let at = (span / SPAN) as usize;
        let clue = |of: &Self| of.now.get(at).copied().unwrap_or(Clue::NONE);
        clue(later).proves(clue(self))
    }

    /// The same disk now, to confirm a denial.
    pub fn again(&self, question: &Question, survey: &Survey, number: usize) -> Option<Self> {
        Self::of(question, self.size, survey, number)
    }

    /// Not to be believed any more, until it is told to be.
    pub fn raise(&mut self, alarm: String) {
        self.alarm = Some(alarm);
    }

    /// The point was committed, and the cache holds its spans. `whole`: all was read and compared.
    pub fn commit(&self, point: PointId, whole: bool) -> io::Result<()> {
        let facts = Facts {
            size: self.size,
            base: point,
            systems: self.systems.clone(),
            compared: match whole {
                true => Some(Timestamp::now()),
                false => self.compared,
            },
            alarm: self.alarm.clone(),
        };
        if let Some(dir) = self.path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let clues = self.now.iter().map(|clue| *clue.as_bytes());
        FILE.write(&self.path, &facts, clues)
    }

    /// Nothing is known from now on.
    pub fn forget(&self) -> io::Result<()> {
        remove(&self.path)
    }
}

/// Removes a record.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether there is a record that may be believed.
pub fn stands(path: &Path) -> bool {
    matches!(read(path), Ok(Some((facts, _))) if facts.alarm.is_none())
}

fn read(path: &Path) -> io::Result<Option<(Facts, Vec<Clue>)>> {
    let Some((facts, clues)) = FILE.read(path)? else {
        return Ok(None);
    };
    let clues = clues.into_iter().map(Clue::from_bytes);
    Ok(Some((facts, clues.collect())))
}

/// Those of a disk, as a record names them.
fn systems(all: &[System], disk: usize) -> Vec<(String, u64)> {
    let hex = |uuid: [u8; 16]| u128::from_be_bytes(uuid);
    let of = all.iter().filter(|system| system.disk == disk);
    of.map(|system| (format!("{:032x}", hex(system.uuid)), system.generation))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::used::Evidence;
    use crate::used::map::FreeRuns;

    const SIZE: u64 = 4 * SPAN;

    /// A disk with one file system, whose spans 0 and 1 hold these extents; 2 is free, and of 3
    /// there is no evidence.
    fn survey(generation: u64, extents: [&str; 2]) -> Survey {
        let mut free = FreeRuns::default();
        free.push(2 * SPAN, 3 * SPAN);
        let mut evidence = Evidence::default();
        for (number, extent) in (0..).zip(extents) {
            let (start, proof) = (number * SPAN, blake3::hash(extent.as_bytes()));
            evidence.add(0, start, start + SPAN, &proof);
        }
        evidence.systems.push(System {
            disk: 0,
            uuid: [7; 16],
            generation,
        });
        Survey {
            maps: vec![free.into()],
            areas: Vec::new(),
            evidence,
        }
    }

    fn question(dir: &Path, last: Option<PointId>) -> Question {
        Question {
            clues: dir.join("sda.clues"),
            last,
            proof_every: Duration::from_secs(600),
            unmarked: "no BPF here".into(),
        }
    }

    fn reason(basis: &Basis) -> &str {
        match basis {
            Basis::Nothing(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    /// Guards every changed block: only a span with the same clue as before the base is passed by,
    /// and only over the base that the cache holds.
    #[test]
    fn only_the_same_clue_over_the_same_base_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let point = PointId::random();
        let look = |last, survey: &Survey| {
            Clues::look(&question(dir.path(), last), SIZE, survey, 0).unwrap()
        };
        let first = survey(5, ["a", "b"]);
        let (basis, clues) = look(None, &first);
        assert!(reason(&basis).contains("from now on"));
        clues.commit(point, true).unwrap();

        let second = survey(6, ["a", "c"]);
        let (basis, clues) = look(Some(point), &second);
        let Basis::Clues(changed) = &basis else {
            panic!("{basis:?}")
        };
        let touched: Vec<_> = (0..4)
            .map(|span| changed.touch(span * SPAN..(span + 1) * SPAN))
            .collect();
        assert_eq!(touched, [false, true, false, true]);

        for (last, survey, why) in [
            (None, &second, "another image"),
            (Some(PointId::random()), &second, "another image"),
            (Some(point), &survey(4, ["a", "b"]), "other file systems"),
        ] {
            assert!(reason(&look(last, survey).0).contains(why));
        }
        let mut other = survey(6, ["a", "b"]);
        other.evidence.systems[0].uuid = [8; 16];
        assert!(reason(&look(Some(point), &other).0).contains("other file systems"));

        let mut alarmed = clues;
        alarmed.raise("span 1".into());
        alarmed.commit(point, true).unwrap();
        assert!(reason(&look(Some(point), &second).0).contains("span 1"));
        alarmed.forget().unwrap();
        assert!(reason(&look(Some(point), &second).0).contains("from now on"));
    }

    /// Guards the proof at an interval, and what it takes for a lie of the file system: no span
    /// that was written after the run had begun.
    #[test]
    fn a_denial_is_confirmed_by_a_later_look() {
        let dir = tempfile::tempdir().unwrap();
        let point = PointId::random();
        let asked = question(dir.path(), Some(point));
        let (_, clues) = Clues::look(&asked, SIZE, &survey(5, ["a", "b"]), 0).unwrap();
        clues.commit(point, false).unwrap();
        let (basis, clues) = Clues::look(&asked, SIZE, &survey(6, ["a", "b"]), 0).unwrap();
        assert!(matches!(basis, Basis::Proof(_)), "never compared whole");
        let later = clues.again(&asked, &survey(7, ["a", "c"]), 0).unwrap();
        assert!(clues.deny(0, &later));
        assert!(!clues.deny(SPAN, &later), "it was written meanwhile");
        assert!(!clues.deny(3 * SPAN, &later), "nothing was said of it");
    }

    /// Guards against believing what a crash left of a record.
    #[test]
    fn a_damaged_record_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let point = PointId::random();
        let asked = question(dir.path(), Some(point));
        let survey = survey(5, ["a", "b"]);
        let (_, clues) = Clues::look(&asked, SIZE, &survey, 0).unwrap();
        clues.commit(point, true).unwrap();
        assert!(stands(&asked.clues));
        let mut bytes = std::fs::read(&asked.clues).unwrap();
        let at = bytes.len() - 40;
        bytes[at] ^= 1;
        std::fs::write(&asked.clues, &bytes).unwrap();
        assert!(!stands(&asked.clues));
        let (basis, _) = Clues::look(&asked, SIZE, &survey, 0).unwrap();
        assert!(matches!(basis, Basis::Nothing(_)));
    }
}
