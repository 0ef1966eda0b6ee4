//! What is kept, and what goes.
//!
//! * `policy`: the rules as they are written; `period`: hours, days, weeks, months, years.
//! * [`plan`]: the rules applied to a server's recovery points; pure.
//! * [`simulate`]: the same for an invented schedule.
//! * [`report`]: what goes and why, for people.
//! * [`prune`]: the policy of each server applied; [`upkeep`]: again and again while `serve` runs.
//! * [`points`]: holds, locks and deletions that people ask for.
//!
//! Semantics, which are those of restic and Proxmox Backup Server where these two agree:
//! * `keep-last N` keeps the newest N points. `keep-daily N` keeps the newest point of each of
//!   the newest N days *that have points*; hours, weeks (ISO 8601), months and years alike. The
//!   periods are those of the policy's time zone. An hour that a clock change repeats is one.
//! * A policy without rules keeps everything.
//! * What any rule keeps is kept.
//!
//! Where they differ: rules count independently of each other (as restic; PBS lets a rule only
//! count periods that no earlier rule kept), the oldest point is not kept in addition (as PBS;
//! restic keeps it while a rule has room), and `keep-within` counts back from the server's
//! newest point that is not in the future (restic), so that a server that is down loses nothing.
//!
//! Of this vault's own: a point that is held, or locked, or the newest of its server is never
//! removed by a policy, and a point's date is when it was taken, but not later than when the
//! vault acknowledged it and not earlier than two days before: an agent that lies about dates
//! cannot push others' points out of their periods.

mod period;
mod plan;
pub mod points;
mod policy;
#[cfg(test)]
mod properties;
pub mod prune;
pub mod report;
pub mod simulate;
#[cfg(test)]
mod tables;
pub mod upkeep;
mod within;

pub use period::Rule;
pub use plan::{Because, Candidate, Miss, Now, Reason, Verdict, plan};
pub use points::lock_at_commit;
pub use policy::{Count, Keep, Policy};
pub use within::Within;
