//! What healing did, and what is left.

use serde::{Deserialize, Serialize};

/// What healing did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healed {
    /// Blocks of packs and parity that were made anew from parity.
    pub blocks: u64,
    /// Packs that were gone and are back.
    pub packs: Vec<String>,
    /// Chunks that another vault gave.
    pub fetched: u64,
    /// Recovery points and other records that the catalogue gave.
    pub records: u64,
    /// Chunks that agents are to send again.
    pub forgotten: u64,
    /// Damaged places of which all is stored elsewhere now.
    pub covered: u64,
    /// Packs of which nothing is missed any more.
    pub retired: Vec<String>,
    /// Losses that are left: chunks that wait for an agent, packs that are missing, bytes of
    /// which nobody knows what they were.
    pub left: Vec<Left>,
    /// What was tried in vain, in words.
    pub failures: Vec<String>,
    /// A step ended with an error, so that what is left is not all that may be damaged.
    #[serde(default)]
    pub cut_short: bool,
}

/// A loss that is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The pack.
    pub pack: String,
    /// Where in it.
    pub offset: u64,
    /// Bytes; 0 for a whole pack.
    pub length: u64,
    /// The chunk, where it is known, as text.
    pub chunk: Option<String>,
}

impl Healed {
    /// True when nothing is left damaged, as far as anybody knows.
    pub fn is_whole(&self) -> bool {
        self.left.is_empty() && !self.cut_short
    }

    /// True when anything was done.
    pub fn did_something(&self) -> bool {
        let counts = [
            self.blocks,
            self.fetched,
            self.records,
            self.forgotten,
            self.covered,
        ];
        counts.iter().any(|count| *count > 0) || !self.packs.is_empty() || !self.retired.is_empty()
    }
}

/// For people.
pub fn text(healed: &Healed) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let counts = [
        (healed.blocks, "blocks were made anew from parity"),
        (healed.fetched, "chunks came from another vault"),
        (
            healed.records,
            "records were stored again from the catalogue",
        ),
        (
            healed.forgotten,
            "chunks are to be sent again: back up the servers",
        ),
        (
            healed.covered,
            "damaged places are covered: all of them is stored elsewhere",
        ),
    ];
    for (count, what) in counts.iter().filter(|(count, _)| *count > 0) {
        let _ = writeln!(text, "healed: {count} {what}");
    }
    for pack in &healed.packs {
        let _ = writeln!(text, "healed: pack {pack} is back");
    }
    for pack in &healed.retired {
        let _ = writeln!(text, "pack {pack} is missed no more");
    }
    for failure in &healed.failures {
        let _ = writeln!(text, "in vain: {failure}");
    }
    for left in &healed.left {
        let what = match (&left.chunk, left.length) {
            (Some(chunk), _) => format!("chunk {chunk} waits for a backup that has it"),
            (None, 0) => "it cannot be used: bring it back, or 'heal --give-up'".into(),
            (None, length) => {
                format!(
                    "nobody knows what its {length} bytes were: 'heal --give-up' goes on without"
                )
            }
        };
        let _ = writeln!(text, "left: pack {} at {}: {what}", left.pack, left.offset);
    }
    text
}
