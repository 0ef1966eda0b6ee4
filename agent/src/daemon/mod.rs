//! `relevo-agent run`: takes images when the policy says so.
//!
//! ```text
//!  signals, files, one timer ─ events ─► daemon ─ due ─► backup, policy --fetch: child processes
//!                                          │                          │
//!                              journal ◄───┘      history, policy ◄───┘      files: schedule/
//! ```
//!
//! * [`due`]: when the next run is due, without input or output. [`clock`]: by which clocks.
//! * [`history`]: what came of runs; each run writes it. [`pause`]: no runs for a while.
//! * [`child`]: runs are programs of their own. [`events`]: what the daemon sleeps for.
//! * [`journal`]: what it says of itself. [`status`]: all of that for people. [`notify`]: for a
//!   service manager.
//!
//! Invariants:
//! * All that is decided follows from files: a daemon that is killed and started again decides
//!   the same.
//! * One daemon, and one run at a time, in a state directory.
//! * A run ends in order when its daemon is gone, however that ended.
//! * The daemon wakes once a minute, and when something happens. It speaks with no vault, opens
//!   no disk, and holds nothing but the policy and the end of the last runs.

pub mod child;
pub mod clock;
pub mod due;
pub mod events;
pub mod history;
pub mod journal;
pub mod notify;
pub mod pause;
pub mod status;
mod status_page;

pub(crate) use status_page::policy_lines;

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use relevo_wire::ServerId;
use relevo_wire::policy::BackupPolicy;
use relevo_wire::zone::Zone;

use crate::AgentError;
use crate::load::Sampler;
use crate::pace::pressure;
use crate::policy::Known;
use crate::state::StateDir;
use child::Started;
use clock::{Now, Stamp};
use due::{Next, Situation, interval, share_of};
use events::Events;
use history::{Attempt, History, Outcome};
use journal::Journal;
use notify::Notify;
use pause::Pause;

/// Longest sleep: clocks may jump, and files may change unseen.
const MINUTE: Duration = Duration::from_secs(60);
/// How often a run that is due looks whether the server is still busy, or another run is over.
const HELD_BACK: Duration = Duration::from_secs(15);
/// How often the vault is asked for the policy.
const ASK_EVERY: Duration = Duration::from_secs(300);
/// A run that is due waits for a busy server at most so long, or a quarter of the target.
const LONGEST_HOLD: Duration = Duration::from_secs(3600);
/// A sleep that took so much longer than it should: the server slept.
const SLEPT: Duration = Duration::from_secs(30);

/// The daemon.
pub struct Daemon {
    state: StateDir,
    server: ServerId,
    /// What each run is told besides.
    options: Vec<OsString>,
    program: PathBuf,
    zone: Zone,
    events: Events,
    notify: Notify,
    journal: Journal,
    written: Option<Journal>,
    awake: Now,
    run: Option<Started>,
    /// Which try the run is.
    retry: u32,
    question: Option<Started>,
    asked: Option<Duration>,
    /// When the last minute's work was done.
    minute: Option<Duration>,
    /// Measures the server's load, where its file can be written.
    load: Option<Sampler>,
    /// Since when a run that is due waits for a busy server.
    busy_since: Option<Duration>,
    ending: bool,
    /// Dropped last: then another daemon may begin.
    _lock: File,
}

impl Daemon {
    /// Takes the place of this server's daemon. `options` are given to each run.
    pub fn new(state: StateDir, options: Vec<OsString>) -> Result<Self, AgentError> {
        let server = state.read()?.server;
        state.create_schedule()?;
        let lock = journal::lock(&state)?.ok_or_else(|| AgentError::Running(state.schedule()))?;
        let failed = |source| AgentError::State {
            path: state.schedule(),
            source,
        };
        let program = child::program().map_err(failed)?;
        let events = Events::open(&state.schedule()).map_err(failed)?;
        let awake = Now::read();
        let earlier = Journal::read(&state.journal());
        let journal = Journal {
            pid: std::process::id(),
            program: program.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            started: awake.stamp(),
            first: earlier.map_or_else(|| awake.stamp(), |earlier| earlier.first),
            next: None,
            why: String::new(),
            running: None,
            held_back: None,
        };
        Ok(Self {
            server,
            options,
            program,
            zone: Zone::of_this_machine(),
            events,
            notify: Notify::from_environment(),
            journal,
            written: None,
            awake,
            run: None,
            retry: 0,
            question: None,
            asked: None,
            minute: None,
            load: Sampler::open(&state.load())
                .inspect_err(|error| tracing::warn!("the server's load is not kept: {error}"))
                .ok(),
            busy_since: None,
            ending: false,
            state,
            _lock: lock,
        })
    }

    /// Works until SIGTERM or SIGINT.
    pub fn work(mut self) -> Result<(), AgentError> {
        self.notify.ready();
        tracing::info!("images {} by its policy", self.server);
        loop {
            let now = Now::read();
            self.reap(&now)?;
            if self.ending && self.run.is_none() && self.question.is_none() {
                return Ok(());
            }
            self.each_minute(&now);
            let sleep = self.step(&now);
            self.tell();
            self.notify.alive();
            let sleep = sleep.min(self.notify.every().unwrap_or(MINUTE)).min(MINUTE);
            let woken = self
                .events
                .wait(sleep)
                .map_err(|source| AgentError::State {
                    path: self.state.schedule(),
                    source,
                })?;
            let slept = Now::read().up.saturating_sub(now.up);
            if slept > sleep + SLEPT {
                tracing::info!("the server slept for {} s", slept.as_secs());
                self.awake = Now::read();
            }
            if woken.reload {
                self.asked = None;
            }
            if woken.end {
                self.end();
            }
        }
    }

    /// What is done once a minute, whatever else happens.
    fn each_minute(&mut self, now: &Now) {
        let is_over = |then: Duration| now.up.saturating_sub(then) >= MINUTE;
        if !self.minute.is_none_or(is_over) {
            return;
        }
        self.minute = Some(now.up);
        // The zone may have been set since.
        self.zone = Zone::of_this_machine();
        if let Some(load) = &mut self.load
            && let Err(error) = load.sample(now.wall)
        {
            tracing::debug!("the server's load: {error}");
        }
    }

    /// Decides, starts what is due and says how long to sleep.
    fn step(&mut self, now: &Now) -> Duration {
        self.journal.held_back = None;
        self.journal.running = self.run.as_ref().map(|run| run.since.wall);
        if self.ending {
            return MINUTE;
        }
        let pause = Pause::read(&self.state.paused());
        let paused = pause
            .as_ref()
            .is_some_and(|pause| pause.left(now).is_some());
        self.ask_for_policy(now);
        let known = Known::read(&self.state.policy());
        let zone = known.policy.zone(&self.zone).clone();
        if let Some(run) = &mut self.run {
            if (paused || !known.policy.is_open(now.wall, &zone)) && !run.is_ending() {
                let why = if paused {
                    "paused"
                } else {
                    "the window is over"
                };
                tracing::info!("{why}: the run ends; what has arrived is not sent again");
                run.end();
            }
            return MINUTE;
        }
        let history = History::read(&self.state.history());
        let situation = Situation {
            now,
            awake: &self.awake,
            first: &self.journal.first,
            policy: &known.policy,
            zone: &zone,
            history: &history,
            pause: pause.as_ref(),
            share: share_of(self.server),
        };
        let next = situation.next();
        let wait = next.wait_ms.map(Duration::from_millis);
        self.journal.next = wait.map(|wait| now.wall.plus(wait));
        self.journal.why = next.why.to_string();
        match wait {
            Some(wait) if wait.is_zero() => self.begin(now, next, &known.policy, &history),
            Some(wait) => {
                self.busy_since = None;
                wait
            }
            None => MINUTE,
        }
    }

    /// Starts a run that is due, unless it has to wait a little.
    fn begin(
        &mut self,
        now: &Now,
        next: Next,
        policy: &BackupPolicy,
        history: &History,
    ) -> Duration {
        if let Err(error) = self.state.lock() {
            self.journal.held_back = Some(error.to_string());
            return HELD_BACK;
        }
        if let Some(busy) = pressure::of_server(&policy.pressure) {
            let since = *self.busy_since.get_or_insert(now.up);
            let took = history
                .success
                .as_ref()
                .map_or(0, |success| success.took_ms);
            let target = policy.rpo.map_or(Duration::MAX, |target| {
                Duration::from_millis(interval(target, took) / 4)
            });
            if now.up.saturating_sub(since) < LONGEST_HOLD.min(target) {
                let percent = busy.percent.round();
                let why = format!(
                    "the server is busy: {percent}% of the time something waits ({})",
                    busy.kind
                );
                self.journal.held_back = Some(why);
                return HELD_BACK.min(target / 4).max(Duration::from_millis(100));
            }
            tracing::info!("the server is still busy; the run begins all the same");
        }
        self.busy_since = None;
        let retry = next.retry.to_string();
        let mut arguments = vec!["--try".into(), retry.into(), "--state".into()];
        arguments.push(self.state.path().into());
        arguments.extend(self.options.iter().cloned());
        match Started::start(&self.program, "backup", &arguments, false) {
            Ok(run) => {
                tracing::info!("a run begins: {}", next.why.to_string());
                self.journal.running = Some(run.since.wall);
                self.retry = next.retry;
                self.run = Some(run);
                MINUTE
            }
            Err(error) => {
                let outcome =
                    Outcome::without_a_word(format!("{}: {error}", self.program.display()));
                self.note(now.stamp(), next.retry, outcome);
                HELD_BACK
            }
        }
    }

    /// Takes the end of what was started.
    fn reap(&mut self, now: &Now) -> Result<(), AgentError> {
        let failed = |e: std::io::Error| AgentError::Internal(e.to_string());
        if let Some(question) = &mut self.question
            && question.ended().map_err(failed)?.is_some()
        {
            self.question = None;
        }
        let Some(run) = &mut self.run else {
            return Ok(());
        };
        let Some(status) = run.ended().map_err(failed)? else {
            return Ok(());
        };
        let (started, since, told) = (run.since.stamp(), run.since.up, run.is_ending());
        self.run = None;
        tracing::info!("the run ended: {status}");
        let history = History::read(&self.state.history());
        let noted = history.scheduled.and_then(|last| last.ended.age(now));
        // One that was killed could not say so itself.
        let silent = noted.is_none_or(|age| age > now.up.saturating_sub(since));
        if silent && !self.is_elsewhere() {
            let outcome = match told {
                true => Outcome::Interrupted,
                false => Outcome::without_a_word(format!("the run ended without a word: {status}")),
            };
            self.note(started, self.retry, outcome);
        }
        Ok(())
    }

    /// Whether another run has the lock, so that ours could not begin.
    fn is_elsewhere(&self) -> bool {
        matches!(self.state.lock(), Err(AgentError::Busy(_)))
    }

    fn note(&self, started: Stamp, retry: u32, outcome: Outcome) {
        if let Outcome::Failed { error, .. } = &outcome {
            tracing::error!("{error}");
        }
        let mut history = History::read(&self.state.history());
        let attempt = Attempt {
            started,
            ended: Stamp::now(),
            retry: Some(retry),
            outcome,
        };
        history.add(attempt, None);
        if let Err(error) = history.write(&self.state) {
            tracing::error!("{error}");
        }
    }

    /// Asks the vault how this server is to be imaged, now and then. A run asks by itself.
    fn ask_for_policy(&mut self, now: &Now) {
        let every = ASK_EVERY.mul_f64(1.0 + share_of(self.server) / 4.0);
        let is_due = |asked: Duration| now.up.saturating_sub(asked) >= every;
        if self.question.is_some() || !self.asked.is_none_or(is_due) {
            return;
        }
        self.asked = Some(now.up);
        let arguments = ["--fetch".into(), "--state".into(), self.state.path().into()];
        match Started::start(&self.program, "policy", &arguments, true) {
            Ok(question) => self.question = Some(question),
            Err(error) => tracing::warn!("{}: {error}", self.program.display()),
        }
    }

    fn end(&mut self) {
        if !self.ending {
            self.notify.stopping();
            tracing::info!("ending");
        }
        // A second signal is passed on as one: it ends a run at once.
        let again = std::mem::replace(&mut self.ending, true);
        for child in [&mut self.run, &mut self.question].into_iter().flatten() {
            if again {
                child.signal();
            } else {
                child.end();
            }
        }
    }

    /// Writes the journal when it says something new.
    fn tell(&mut self) {
        let line = match (
            &self.journal.running,
            &self.journal.held_back,
            &self.journal.next,
        ) {
            (Some(since), _, _) => format!("imaging since {since}"),
            (None, Some(why), _) => format!("a run is due and waits: {why}"),
            (None, None, Some(next)) => format!("next run {next} ({})", self.journal.why),
            (None, None, None) => format!("no run: {}", self.journal.why),
        };
        self.notify.status(&line);
        let journal = &self.journal;
        if self
            .written
            .as_ref()
            .is_some_and(|w| w.says_the_same(journal))
        {
            return;
        }
        match self.journal.write(&self.state) {
            Ok(()) => self.written = Some(self.journal.clone()),
            Err(error) => tracing::warn!("{error}"),
        }
    }
}
