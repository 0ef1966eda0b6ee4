//! Of what moment an image is, and how that was brought about.

use minicbor::{Decode, Encode};

use crate::time::Timestamp;

/// How the state of the disks was held still.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Nothing wrote while it was read: an image file, or a server that was down.
    #[n(0)]
    Offline,
    /// As after a power cut at one moment.
    #[n(1)]
    Crash,
    /// Read while it was written: blocks of several moments.
    #[n(2)]
    Fuzzy,
    /// Of one moment, at which every file system was frozen: as after a clean unmount but for
    /// what programs had not written yet.
    #[n(3)]
    FileSystem,
    /// As above, and the server's applications were made ready for it before.
    #[n(4)]
    Application,
}

impl Consistency {
    /// What holds of two parts together. A part that nobody wrote to is of any moment, and takes
    /// nothing from the other.
    pub fn and(self, other: Self) -> Self {
        [self, other]
            .into_iter()
            .min_by_key(|one| one.quality())
            .unwrap_or(self)
    }

    fn quality(self) -> u8 {
        match self {
            Self::Fuzzy => 0,
            Self::Crash => 1,
            Self::FileSystem => 2,
            Self::Application => 3,
            Self::Offline => 4,
        }
    }
}

impl std::fmt::Display for Consistency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Offline => "offline",
            Self::Crash => "crash",
            Self::Fuzzy => "fuzzy",
            Self::FileSystem => "file-system",
            Self::Application => "application",
        })
    }
}

/// What was done to have an image of one moment. Absent in manifests of version 1.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize,
)]
pub struct Held {
    /// The moment of which the image is; none when it is of several, or of any.
    #[n(0)]
    pub instant: Option<Timestamp>,
    /// Milliseconds during which file systems took no write; 0 when none was frozen.
    #[n(1)]
    pub freeze_ms: u64,
    /// Where the file systems that were frozen are mounted.
    #[n(2)]
    pub frozen: Vec<String>,
    /// Why the consistency is not better than it is.
    #[n(3)]
    pub reasons: Vec<String>,
    /// What was run before and after the moment.
    #[n(4)]
    pub hooks: Vec<HookRun>,
}

/// A hook that was run.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct HookRun {
    /// Its file's name.
    #[n(0)]
    pub name: String,
    /// Before the moment or after it.
    #[n(1)]
    pub phase: HookPhase,
    /// Milliseconds that it took.
    #[n(2)]
    pub took_ms: u64,
    /// How it failed; none when it did not.
    #[n(3)]
    pub failure: Option<String>,
}

/// When a hook is run.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum HookPhase {
    /// Before file systems are frozen.
    #[n(0)]
    Pre,
    /// After they were thawed.
    #[n(1)]
    Post,
}

#[cfg(test)]
mod tests {
    use super::Consistency::{Application, Crash, FileSystem, Fuzzy, Offline};

    /// Guards against a point that claims of all disks what holds of the best.
    #[test]
    fn the_weaker_part_counts_and_a_still_one_takes_nothing() {
        let order = [Fuzzy, Crash, FileSystem, Application, Offline];
        for (at, weaker) in order.into_iter().enumerate() {
            for stronger in &order[at..] {
                assert_eq!(weaker.and(*stronger), weaker);
                assert_eq!(stronger.and(weaker), weaker);
            }
        }
    }
}
