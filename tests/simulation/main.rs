//! Worlds from seeds: the real agent, vault and collector over disks and lines that fail.
//!
//! ```text
//!  server ─ agent (BackupRun, Uplink, Upload) ─ line ─ serve ─ Vault, Store, Ledger ─ SimulatedDisk
//!    │         frames, CBOR, sealed chunks       │                │                      │
//!    oracle: what its disks held        lost, cut, twice,     killed, catalogue     torn, full, EIO,
//!            at each run                late, closed          aged or lost          power cut, rot
//!       └────────────────── restore, compare bit for bit ── recovery site ──────────────┘
//! ```
//!
//! * [`world`], [`fates`], [`life`]: what is there, and what happens. [`check`], [`promises`]: what must hold.
//! * [`machine`], [`catalogue`], [`serve`], [`network`]: the vault's end, the agent's end, the line between.
//! * [`server`], [`image`], [`site`], [`hostile`], [`keeping`], [`collecting`],
//!   [`rot`], [`healing`]: who takes part.
//! * [`run`]: seeds by the thousand, on all processors.
//!
//! `--seeds N` lives so many worlds, `--from S` begins there, `--seed S` lives one, `--trace`
//! shows what happens in it.

#![allow(clippy::unwrap_used)]

mod aside;
mod catalogue;
mod check;
mod collecting;
mod fates;
mod healing;
mod hostile;
mod image;
mod keeping;
mod life;
mod machine;
mod network;
mod promises;
mod rot;
mod run;
mod serve;
mod server;
mod site;
mod trace;
mod world;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let (options, rest) = run::Options::from_args();
    if let Some(worker) = options.worker {
        return run::work(&options, worker);
    }
    if let Some(seed) = options.seed {
        return run::replay(seed, options.trace);
    }
    eprintln!(
        "{} worlds; --seeds N or RELEVO_SEEDS=N for more",
        options.seeds
    );
    let trials = vec![
        Trial::test("the_same_seed_lives_the_same_world", || {
            run::same_twice(24).map_err(Failed::from)
        }),
        Trial::test("what_is_acknowledged_survives_in_every_world", move || {
            run::all(&options).map_err(Failed::from)
        }),
    ];
    let mut arguments = Arguments::from_iter(rest);
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit();
}
