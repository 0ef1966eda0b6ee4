//! The functions that take any bytes.

pub mod disk;
mod message;
mod pack;
mod rebuild;
mod sealed;
mod segment;

pub use rebuild::commands;

/// A function that must not panic.
#[derive(Clone, Copy)]
pub struct Target {
    /// Also its directory in `corpus/`.
    pub name: &'static str,
    /// What would go wrong if it did.
    pub guards: &'static str,
    /// Takes an input.
    pub run: fn(&[u8]),
    /// Mutants that every test run tries.
    pub rounds: u64,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "message",
        guards: "vault and clients against hostile peers: frames and messages are read or refused, \
                 and what was read is written the same",
        run: message::run,
        rounds: 40_000,
    },
    Target {
        name: "node",
        guards: "vault and recovery sites against hostile index nodes, also those sealed with the \
                 right key: no more bytes, children or levels than a disk can have",
        run: sealed::node,
        rounds: 20_000,
    },
    Target {
        name: "chunk",
        guards: "recovery sites against decompression bombs and chunks of another length, also \
                 those sealed with the right key",
        run: sealed::chunk,
        rounds: 10_000,
    },
    Target {
        name: "pack",
        guards: "the vault against damaged and forged packs: a scan accounts for every byte once, \
                 and takes nothing for an entry that does not hash to its id",
        run: pack::run,
        rounds: 10_000,
    },
    Target {
        name: "segment",
        guards: "the vault against damaged and forged index files: an error or an answer, with \
                 memory that fits the file",
        run: segment::run,
        rounds: 20_000,
    },
    Target {
        name: "rebuild",
        guards: "the catalogue that is made from packs alone, whatever is in them: never a panic, \
                 no recovery point called whole that is not, none of another tenant",
        run: rebuild::run,
        rounds: 60,
    },
    Target {
        name: "disk",
        guards: "the agent against hostile and damaged disks: readers of partitions, volumes and \
                 file systems end, with little memory, and free nothing beyond the disk",
        run: disk::run,
        rounds: 3_000,
    },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
