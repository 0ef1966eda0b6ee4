//! How this server's protection stands: gathered from files, without speaking with anybody.

use std::path::PathBuf;

use relevo_wire::policy::BackupPolicy;
use relevo_wire::zone::Zone;
use relevo_wire::{PointId, ServerId, Timestamp};
use serde::Serialize;
use serde_json::Value;

use super::clock::{Now, millis};
use super::due::{Situation, share_of};
use super::history::{Attempt, History, Outcome, Success};
use super::journal::{self, Journal};
use super::pause::Pause;
use crate::AgentError;
use crate::disk::{Disk, DiskArgument};
use crate::pace::pressure;
use crate::policy::Known;
use crate::state::StateDir;
use crate::tracking::{self, Standing};

/// A certificate that is not renewed so long before its end is about to lock the server out.
const EXPIRES_SOON: u64 = 14 * 24 * 3600 * 1000;
/// Times of a calendar that are counted.
const COUNTED: usize = 5;

/// How the server's protection stands.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The server's name.
    pub name: String,
    /// Its id.
    pub server: ServerId,
    /// The vault's address.
    pub vault: String,
    /// Whether nothing is wrong.
    pub fine: bool,
    /// What is.
    pub wrong: Vec<Trouble>,
    /// What is worth knowing besides.
    pub notes: Vec<String>,
    /// The newest state that the vault has.
    pub newest: Option<Newest>,
    /// The disks of that, and whether the next run can trust their marks.
    pub disks: Vec<DiskStanding>,
    /// The last run, whatever came of it.
    pub last_run: Option<Attempt>,
    /// Runs in a row that failed.
    pub failures: u32,
    /// When the next run is due.
    pub next: Option<Timestamp>,
    /// Why then, or why not.
    pub next_why: String,
    /// Since when a run is under way.
    pub running: Option<Timestamp>,
    /// Why a run that is due waits.
    pub held_back: Option<String>,
    /// Set while no images are taken by themselves.
    pub paused: Option<Paused>,
    /// The process of the daemon, when it runs.
    pub daemon: Option<u32>,
    /// The policy in force.
    pub policy: Known,
    /// Whether the agent backs off when the server is loaded.
    pub back_off: BackOff,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// What.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// The newest state that the vault has.
#[derive(Debug, Serialize)]
pub struct Newest {
    /// The recovery point.
    pub point: PointId,
    /// The moment whose state it holds.
    pub taken: Timestamp,
    /// How old that state is, in seconds; unknown when the clock was set back over a restart.
    pub age_seconds: Option<u64>,
    /// How old it may be.
    pub target_seconds: Option<u64>,
    /// How it stands to that.
    pub band: Band,
    /// From the start of its run to the vault's word.
    pub took_ms: u64,
    /// What `backup --json` printed.
    pub report: Value,
}

/// How a state's age stands to its target: by its once, twice and four times; or, by a calendar
/// alone, by the times that have passed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Band {
    /// Not older than the target.
    Within,
    /// Up to twice as old.
    Late,
    /// Up to four times as old.
    VeryLate,
    /// Older than that.
    Missed,
}

/// A disk and how it stands.
#[derive(Debug, Serialize)]
pub struct DiskStanding {
    /// Its name in the image.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Whether the next run reads only what was written; nothing when the disk cannot be opened.
    pub tracking: Option<Standing>,
}

/// A pause.
#[derive(Debug, Serialize)]
pub struct Paused {
    /// Since when.
    pub since: Timestamp,
    /// Until when; until somebody resumes, when none is given.
    pub until: Option<Timestamp>,
}

/// When the agent backs off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackOff {
    /// Before and during runs.
    Always,
    /// Only before them: it has no control group of its own.
    BeforeRuns,
    /// Never: the kernel does not tell of pressure.
    Never,
}

/// Gathers it.
pub fn gather(state: &StateDir) -> Result<Status, AgentError> {
    let enrolled = state.read()?;
    let now = Now::read();
    let history = History::read(&state.history());
    let known = Known::read(&state.policy());
    let daemon = match journal::lock(state) {
        // Nobody's directory yet: nobody's daemon.
        Err(_) | Ok(Some(_)) => None,
        Ok(None) => Journal::read(&state.journal()),
    };
    let pause = Pause::read(&state.paused()).filter(|pause| pause.left(&now).is_some());
    let own = Zone::of_this_machine();
    let zone = known.policy.zone(&own).clone();
    let newest = history.success.as_ref();
    let newest = newest.map(|success| newest_of(success, &known.policy, &zone, &now));
    let (next, next_why) = match &daemon {
        Some(journal) => (journal.next, journal.why.clone()),
        None => (None, "no daemon runs".into()),
    };
    let mut status = Status {
        name: enrolled.enrollment.name.clone(),
        server: enrolled.server,
        vault: enrolled.enrollment.vault.clone(),
        fine: true,
        wrong: Vec::new(),
        notes: Vec::new(),
        disks: disks(state, history.success.as_ref()),
        newest,
        last_run: history.attempt.clone(),
        failures: history.failures,
        next,
        next_why,
        running: daemon.as_ref().and_then(|journal| journal.running),
        held_back: daemon
            .as_ref()
            .and_then(|journal| journal.held_back.clone()),
        paused: pause.as_ref().map(|pause| Paused {
            since: pause.since.wall,
            until: pause.until(&now),
        }),
        daemon: daemon.as_ref().map(|journal| journal.pid),
        back_off: back_off(),
        policy: known,
    };
    let first_is_late = daemon.as_ref().is_some_and(|journal| {
        let first = Situation {
            now: &now,
            awake: &now,
            first: &journal.first,
            policy: &status.policy.policy,
            zone: &zone,
            history: &history,
            pause: None,
            share: share_of(status.server),
        };
        first.next().wait_ms == Some(0) && journal.running.is_none()
    });
    status.judge(enrolled.enrollment.expires, &now, first_is_late);
    Ok(status)
}

impl Status {
    /// Says what is wrong.
    fn judge(&mut self, expires: Timestamp, now: &Now, first_is_late: bool) {
        let mut wrong = Vec::new();
        let mut say = |what: String, remedy: &str| {
            wrong.push(Trouble {
                what,
                remedy: remedy.into(),
            });
        };
        if self.daemon.is_none() {
            say(
                "no daemon runs: no image is taken by itself".into(),
                "start it: systemctl start relevo-agent, or 'relevo-agent run'",
            );
        }
        match &self.newest {
            None if self.daemon.is_none() || first_is_late => say(
                "the vault has no recovery point of this server".into(),
                "run 'relevo-agent backup', and see what it says",
            ),
            None => self.notes.push("the first image is yet to come".into()),
            Some(newest) if newest.age_seconds.is_none() => say(
                format!(
                    "the newest state is of {}, which is yet to come",
                    newest.taken
                ),
                "check this server's clock",
            ),
            Some(newest) if newest.band > Band::Within => say(
                newest.in_words(),
                match self.paused {
                    Some(_) => "it is paused: 'relevo-agent resume'",
                    None => {
                        "see the last run below, and the daemon's log: journalctl -u relevo-agent"
                    }
                },
            ),
            Some(_) => {}
        }
        if let Some(last) = &self.last_run
            && let Outcome::Failed { error, remedy } = &last.outcome
        {
            let times = match self.failures {
                0 | 1 => String::new(),
                times => format!(" ({times} times in a row)"),
            };
            say(format!("the last run failed{times}: {error}"), remedy);
        }
        for name in self.alarms() {
            say(
                format!("{name}: what had changed was not all marked"),
                "the last image is right, since all was read; report this, then \
                 'relevo-agent tracking reset'",
            );
        }
        if expires.as_millis().saturating_sub(now.wall.as_millis()) < EXPIRES_SOON as i64 {
            say(
                format!("the certificate ends {expires} and was not renewed"),
                "see the log of the last run; after its end only a new token lets this server in",
            );
        }
        if let Some(trouble) = &self.policy.trouble {
            self.notes
                .push(format!("the policy is the last that is known: {trouble}"));
        }
        match self.back_off {
            BackOff::Never => self.notes.push(
                "this kernel does not tell of pressure (PSI): runs do not back off when the \
                 server is loaded"
                    .into(),
            ),
            BackOff::BeforeRuns | BackOff::Always => {}
        }
        self.fine = wrong.is_empty();
        self.wrong = wrong;
    }

    /// Disks whose proof found changes that were not marked, in the last image.
    fn alarms(&self) -> Vec<String> {
        let report = self.newest.as_ref().map(|newest| &newest.report);
        let disks = report.and_then(|report| report["tracking"].as_array());
        let wrong = |disk: &&Value| disk["unmarked_spans"].as_u64().unwrap_or(0) > 0;
        let named = |disk: &Value| disk["disk"].as_str().unwrap_or("a disk").to_string();
        disks
            .into_iter()
            .flatten()
            .filter(wrong)
            .map(named)
            .collect()
    }
}

impl Newest {
    /// Its age in words.
    pub fn in_words(&self) -> String {
        let age = self.age_seconds.map_or("of unknown age".into(), |age| {
            format!("{} old", super::status_page::length(age))
        });
        let target = self.target_seconds.map(super::status_page::length);
        match (self.band, target) {
            (Band::Within, Some(target)) => format!("{age}, within the target of {target}"),
            (Band::Within, None) => format!("{age}, as the calendar wants it"),
            (band, Some(target)) => {
                let times = match band {
                    Band::Late => "once",
                    Band::VeryLate => "twice",
                    _ => "four times",
                };
                format!("the newest state is {age}: more than {times} the target of {target}")
            }
            (_, None) => format!("the newest state is {age}: times of the calendar were missed"),
        }
    }
}

fn newest_of(success: &Success, policy: &BackupPolicy, zone: &Zone, now: &Now) -> Newest {
    let age = success.taken.age(now);
    let target = policy.rpo;
    let band = match (age, target) {
        (None, _) => Band::Missed,
        (Some(age), Some(target)) => band_of(millis(age), target.saturating_mul(1000)),
        (Some(_), None) => by_calendar(success, policy, zone, now),
    };
    Newest {
        point: success.point,
        taken: success.taken.wall,
        age_seconds: age.map(|age| age.as_secs()),
        target_seconds: target,
        band,
        took_ms: success.took_ms,
        report: success.report.clone(),
    }
}

fn band_of(age: u64, target: u64) -> Band {
    match age {
        _ if age <= target => Band::Within,
        _ if age <= target.saturating_mul(2) => Band::Late,
        _ if age <= target.saturating_mul(4) => Band::VeryLate,
        _ => Band::Missed,
    }
}

/// One time has passed while its run is under way, or waits for its share of the spread.
fn by_calendar(success: &Success, policy: &BackupPolicy, zone: &Zone, now: &Now) -> Band {
    let taken = success.taken.by_wall(now).unwrap_or(success.taken.wall);
    let next = |at: &Timestamp| policy.next_event(*at, zone);
    let passed = std::iter::successors(next(&taken), next)
        .take(COUNTED)
        .take_while(|event| *event <= now.wall);
    match passed.count() {
        0 | 1 => Band::Within,
        2 => Band::Late,
        3 | 4 => Band::VeryLate,
        _ => Band::Missed,
    }
}

fn disks(state: &StateDir, success: Option<&Success>) -> Vec<DiskStanding> {
    let imaged = success
        .map(|success| success.disks.as_slice())
        .unwrap_or_default();
    let standing = |disk: &super::history::ImagedDisk| {
        let opened = Disk::open(&DiskArgument {
            path: disk.path.clone(),
            name: disk.name.clone(),
        });
        DiskStanding {
            name: disk.name.clone(),
            path: disk.path.clone(),
            size: disk.size,
            tracking: opened
                .ok()
                .map(|disk| tracking::standing(&state.tracking(), &disk)),
        }
    };
    imaged.iter().map(standing).collect()
}

fn back_off() -> BackOff {
    match (pressure::is_known(), pressure::is_known_during_runs()) {
        (_, true) => BackOff::Always,
        (true, _) => BackOff::BeforeRuns,
        _ => BackOff::Never,
    }
}

#[cfg(test)]
mod status_test;
