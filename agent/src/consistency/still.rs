//! One instant, from the hooks before it to the hooks after it.

use std::time::{Duration, Instant};

use relevo_wire::manifest::{Held, HookPhase, HookRun};

use super::guard::{Guard, Stand, Thawed};
use super::mounts::FileSystem;
use super::{Holding, left, stack};
use crate::disk::Disk;
use crate::hooks::Hooks;
use crate::progress;

/// What holds the server still, and what came of it so far.
pub struct Still<'a> {
    holding: &'a Holding,
    /// The disks, `major:minor`.
    numbers: Vec<String>,
    /// In the order of freezing.
    file_systems: Vec<FileSystem>,
    /// Ready to freeze them.
    guard: Option<Guard>,
    hooks: Vec<HookRun>,
    /// Whether hooks were run that others have to follow.
    ready: bool,
    /// Of the last freeze.
    froze: Duration,
    frozen: Vec<String>,
    /// Why not all file systems were frozen at the instant.
    not_frozen: Vec<String>,
    not_ready: Vec<String>,
}

/// File systems are frozen, or were to be.
pub struct Frozen {
    guard: Option<Guard>,
    until: Instant,
    _log: progress::HeldLog,
}

impl Frozen {
    /// Until when there is time.
    pub fn until(&self) -> Instant {
        self.until
    }
}

impl<'a> Still<'a> {
    /// Over these disks. Only of this server's own, not of image files, is there anything to hold.
    pub fn new(holding: &'a Holding, disks: &[&Disk]) -> Self {
        let numbers = disks.iter().filter_map(|disk| disk.device_number());
        let numbers: Vec<_> = numbers.map(String::from).collect();
        let mut not_frozen = Vec::new();
        if holding.freeze.is_none() {
            not_frozen.push("file systems were not to be frozen".into());
        }
        Self {
            holding,
            file_systems: found(&numbers),
            numbers,
            guard: None,
            hooks: Vec::new(),
            ready: false,
            froze: Duration::ZERO,
            frozen: Vec::new(),
            not_frozen,
            not_ready: vec!["no hook made applications ready".into()],
        }
    }

    /// How long the last reading may take.
    pub fn limit(&self) -> Duration {
        self.holding.limit
    }

    /// Has what waits in memory written out, so that freezing need not wait for it. Says whether
    /// all of it was.
    pub fn flush(&self) -> bool {
        let mut all = true;
        for file_system in &self.file_systems {
            // Why one cannot be reached is said when it is to be frozen.
            let file = file_system.open();
            all &= file.is_ok_and(|file| rustix::fs::syncfs(&file).is_ok());
        }
        all
    }

    /// Runs the hooks before the instant, once.
    pub fn make_ready(&mut self) {
        let Some(hooks) = self.holding.hooks.as_ref().filter(|_| !self.ready) else {
            return;
        };
        self.ready = true;
        let ran = hooks.before();
        self.not_ready = match ran.is_empty() {
            true => vec!["no hook is enabled that makes applications ready".into()],
            false => failures(&ran),
        };
        self.hooks = ran;
    }

    /// Looks for the file systems anew and starts the guard: both take longer than a freeze.
    pub fn prepare(&mut self) {
        self.guard = None;
        self.file_systems = found(&self.numbers);
        let freezing = self.holding.freeze.as_ref();
        let Some(freezing) = freezing.filter(|_| !self.file_systems.is_empty()) else {
            return;
        };
        self.not_frozen.clear();
        let noted = left::note(&freezing.note, &self.file_systems);
        let noted = noted.map_err(|e| format!("{}: {e}", freezing.note.display()));
        let start = || Guard::start(&freezing.program, &self.file_systems, self.holding.limit);
        match noted.and_then(|()| start()) {
            Ok(guard) => self.guard = Some(guard),
            Err(why) => self.not_frozen.push(why),
        }
    }

    /// Freezes the file systems. What is logged from here on is written when they are thawed.
    pub fn freeze(&mut self) -> Frozen {
        let log = progress::hold_log();
        let mut left = self.holding.limit;
        let guard = self.guard.take().map(|mut guard| {
            let stands = guard.freeze();
            self.frozen.clear();
            self.note_stands(&stands);
            // Its time counts from its own start, and the last span takes its time, too.
            left = guard.left() * 9 / 10;
            guard
        });
        Frozen {
            guard,
            until: Instant::now() + left,
            _log: log,
        }
    }

    fn note_stands(&mut self, stands: &[Stand]) {
        let late = Stand::Failed("the time was over before it was its turn".into());
        let stands = stands.iter().chain(std::iter::repeat(&late));
        for (file_system, stand) in self.file_systems.iter().zip(stands) {
            let (point, kind) = (file_system.point(), &file_system.kind);
            match stand {
                Stand::Frozen => self.frozen.push(point),
                // What was written to it is on the disk, and the marks tell whether that is all.
                Stand::Unsupported => {}
                Stand::Failed(why) => self.not_frozen.push(format!("{point} ({kind}): {why}")),
            }
        }
    }

    /// Thaws them. The error says why they were thawed before.
    pub fn thaw(&mut self, frozen: Frozen) -> Result<(), String> {
        let Frozen { guard, _log, .. } = frozen;
        let Some(guard) = guard else {
            return Ok(());
        };
        let (why, froze) = guard.thaw();
        drop(_log);
        self.froze = froze;
        if let Some(freezing) = &self.holding.freeze
            && let Err(error) = left::forget(&freezing.note)
        {
            tracing::warn!("{}: {error}", freezing.note.display());
        }
        match why {
            Thawed::Told => Ok(()),
            Thawed::Limit => Err("the limit of the freeze was over before all was read".into()),
            Thawed::GuardLost => Err("the guard of the freeze was gone before all was read".into()),
        }
    }

    /// Runs the hooks after the instant, whatever came of it.
    pub fn go_on(&mut self) {
        let Some(hooks) = self.holding.hooks.as_ref().filter(|_| self.ready) else {
            return;
        };
        self.ready = false;
        let ran = hooks.after(&self.hooks);
        self.not_ready.extend(failures(&ran));
        self.hooks.extend(ran);
    }

    /// Ends it: applications go on. What the recovery point records of it, but for the instant and
    /// the reasons; why file systems were not frozen; why applications were not ready.
    pub fn over(mut self) -> (Held, Vec<String>, Vec<String>) {
        self.go_on();
        let held = Held {
            freeze_ms: self.froze.as_millis() as u64,
            frozen: std::mem::take(&mut self.frozen),
            hooks: std::mem::take(&mut self.hooks),
            ..Held::default()
        };
        let not_frozen = std::mem::take(&mut self.not_frozen);
        (held, not_frozen, std::mem::take(&mut self.not_ready))
    }
}

impl Drop for Still<'_> {
    /// A run that fails lets applications go on too.
    fn drop(&mut self) {
        self.go_on();
    }
}

/// File systems that write to these disks. Without disks nothing is looked for.
fn found(numbers: &[String]) -> Vec<FileSystem> {
    match numbers.is_empty() {
        true => Vec::new(),
        false => stack::to_freeze(numbers.iter().map(String::as_str)),
    }
}

fn failures(hooks: &[HookRun]) -> Vec<String> {
    let failed = hooks.iter().filter_map(|hook| {
        let phase = match hook.phase {
            HookPhase::Pre => Hooks::BEFORE,
            HookPhase::Post => Hooks::AFTER,
        };
        let why = hook.failure.as_ref()?;
        Some(format!("hook {phase}/{}: {why}", hook.name))
    });
    failed.collect()
}
