//! Programs of the server's administrator that make applications ready for an instant, and let
//! them go on after it.
//!
//! They are in two directories, `pre.d` and `post.d`, and run one after the other in the order of
//! their names: all of `pre.d` before the instant; after it all of `post.d` but those whose
//! namesake in `pre.d` was not begun. Whatever fails costs the point its claim that applications
//! were ready, and nothing else.
//!
//! * [`scripts`]: which are run, and why others are not. [`process`]: one of them, within its time.
//! * [`ready`]: those that come with the agent.

pub mod process;
pub mod ready;
pub mod scripts;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use relevo_wire::manifest::{HookPhase, HookRun};

use process::Ended;
use scripts::{Script, Standing};

/// Where hooks are unless told otherwise.
pub const DIR: &str = "/etc/relevo/hooks";
/// How long one hook may take unless told otherwise.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The hooks of a server.
#[derive(Clone, Debug)]
pub struct Hooks {
    /// Holds `pre.d` and `post.d`.
    pub dir: PathBuf,
    /// For what hooks have to tell each other: a directory of their own, in which nothing is
    /// kept between runs.
    pub scratch: PathBuf,
    /// How long each may take.
    pub limit: Duration,
    /// How long the instant may last: hooks that hold something may let it go after that.
    pub hold: Duration,
}

impl Hooks {
    /// The directory of hooks that are run before the instant.
    pub const BEFORE: &str = "pre.d";
    /// Of those that are run after it.
    pub const AFTER: &str = "post.d";

    /// Runs those before the instant, every one of them.
    pub fn before(&self) -> Vec<HookRun> {
        let scripts = scripts::in_order(&self.dir.join(Self::BEFORE));
        if !scripts.is_empty()
            && let Err(error) = self.clear_scratch()
        {
            tracing::warn!("{}: {error}", self.scratch.display());
        }
        self.run_all(scripts, HookPhase::Pre)
    }

    /// Runs those after it: a hook whose namesake `before` it was not run has nothing to undo.
    pub fn after(&self, before: &[HookRun]) -> Vec<HookRun> {
        let mut scripts = scripts::in_order(&self.dir.join(Self::AFTER));
        let first = scripts::in_order(&self.dir.join(Self::BEFORE));
        let began = |name: &str| {
            let has_namesake = first.iter().any(|script| script.name == name);
            !has_namesake || before.iter().any(|run| run.name == name)
        };
        scripts.retain(|script| began(&script.name));
        self.run_all(scripts, HookPhase::Post)
    }

    fn run_all(&self, scripts: Vec<Script>, phase: HookPhase) -> Vec<HookRun> {
        let runs = scripts
            .into_iter()
            .filter_map(|script| self.run(script, phase));
        runs.collect()
    }

    fn run(&self, script: Script, phase: HookPhase) -> Option<HookRun> {
        let began = Instant::now();
        let failure = match &script.standing {
            Standing::Skipped(_) => return None,
            Standing::Refused(why) => Some(format!("it is refused: {why}")),
            Standing::Runs => self.execute(&script, phase).failure(self.limit),
        };
        let path = script.path.display();
        match &failure {
            Some(why) => tracing::warn!("hook {path}: {why}"),
            None => tracing::info!("hook {path}: done in {} ms", began.elapsed().as_millis()),
        }
        Some(HookRun {
            name: script.name,
            phase,
            took_ms: began.elapsed().as_millis() as u64,
            failure,
        })
    }

    /// Runs one, and logs what it says.
    pub fn execute(&self, script: &Script, phase: HookPhase) -> Ended {
        let phase = match phase {
            HookPhase::Pre => "pre",
            HookPhase::Post => "post",
        };
        let variables = [
            ("RELEVO_PHASE", phase.to_string()),
            ("RELEVO_SCRATCH", self.scratch.display().to_string()),
            ("RELEVO_LIMIT", self.limit.as_secs().to_string()),
            ("RELEVO_HOLD", self.hold.as_secs().to_string()),
        ];
        let (ended, output) = process::run(&script.path, &variables, self.limit);
        for line in output.lines() {
            tracing::info!("hook {}: {line}", script.path.display());
        }
        ended
    }

    fn clear_scratch(&self) -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        match std::fs::remove_dir_all(&self.scratch) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.scratch)
    }
}
