//! Recoveries rehearsed in isolation, measured, and reported.
//!
//! ```text
//! plan ─► runner ─► rehearsal (failover: relevo-recover) ─► a server in a network of its own
//!           │  └──► evidence: console, TCP, HTTP, tried until they hold
//!           ├─────► ledger, leftovers: nothing stays, whatever happens
//!           └─────► report: report.json and report.html
//! ```
//!
//! * [`plan`]: what is rehearsed and what must be proved, from TOML.
//! * [`rehearsal`]: what the runner asks of a recovery; [`failover`] answers with the real one.
//! * [`runner`]: the drill; [`evidence`]: its checks; [`namespace`]: work inside its network.
//! * [`ledger`], [`leftovers`]: which drills live, and what dead ones left.
//! * [`report`]: the evidence for programs and people; [`progress`]: what is seen meanwhile.
//! * [`command_line`], [`commands`]: the program.
//!
//! Invariants:
//! * A drill reads the vault and changes nothing in it: what the server writes goes into an
//!   overlay that is thrown away.
//! * A drill's network has no way out: no address of the host, no route, no other server.
//! * After a drill nothing of it is left but its report; after a drill that was killed, the next
//!   one or `relevo-drills clean` sees to it.
//! * What a guest says is hostile until it is escaped.

pub mod command_line;
pub mod commands;
pub mod evidence;
pub mod failover;
pub mod failure;
pub mod interruption;
pub mod ledger;
pub mod leftovers;
pub mod namespace;
pub mod plan;
pub mod progress;
pub mod rehearsal;
pub mod report;
pub mod runner;
