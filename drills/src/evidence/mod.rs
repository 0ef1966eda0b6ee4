//! Whether a check holds: one attempt after another until it does or its time is over.

mod console;
mod http;
mod tcp;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc::{self, TryRecvError};
use std::time::{Duration, Instant};

use serde::Serialize;

pub use console::{ConsoleReader, tail};

use crate::interruption::{Interruption, Waited};
use crate::namespace::spawn_in;
use crate::plan::{Check, CheckKind};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// One attempt waits this long for an answer. Guests on slow hosts take seconds for a page.
const PATIENCE: Duration = Duration::from_secs(60);
/// The only attempt with a machine that has ended already.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// While an attempt waits, the machine is looked after as often.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// So many last lines of the console go with a failed check.
pub const CONSOLE_LINES: usize = 20;

/// What an attempt saw. Fields that do not apply are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// In one line, for people.
    pub summary: String,
    /// Address and port that were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Status of the HTTP answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// Beginning of the HTTP answer's body, or of what the TCP port said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<String>,
    /// The console line that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_line: Option<String>,
    /// The console's last lines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub console_tail: Vec<String>,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The check holds.
    pub holds: bool,
    /// The server's network has answered, if only to refuse: its kernel is up.
    pub reached: bool,
    /// What was seen.
    pub evidence: Evidence,
}

impl Attempt {
    fn not_yet(reached: bool, evidence: Evidence) -> Self {
        Self {
            holds: false,
            reached,
            evidence,
        }
    }

    fn holds(evidence: Evidence) -> Self {
        Self {
            holds: true,
            reached: true,
            evidence,
        }
    }
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Target {
    /// The namespace's file; none for the process's own.
    pub namespace: Option<PathBuf>,
    /// The server's addresses, the first choice first.
    pub addresses: Vec<IpAddr>,
    /// The file of its serial console.
    pub console: PathBuf,
}

/// How waiting for a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It held.
    Held,
    /// It did not hold in time.
    TimedOut,
    /// The virtual machine ended, with the reason.
    MachineEnded(String),
    /// The drill was interrupted.
    Interrupted,
}

/// A check's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// What the last attempt saw.
    pub evidence: Evidence,
    /// How many attempts there were.
    pub attempts: u32,
    /// When the server's network or console first gave a sign of life during this check.
    pub first_sign: Option<Instant>,
    /// When it ended.
    pub ended: Instant,
}

/// Tries `check` until it holds, `deadline` passes, the machine ends or the drill is interrupted.
///
/// `machine_ended` is asked between attempts; `hear` hears what each attempt saw.
pub fn wait_for(
    check: &Check,
    target: &Target,
    deadline: Instant,
    interruption: &Interruption,
    machine_ended: &mut dyn FnMut() -> Option<String>,
    hear: &mut dyn FnMut(&Evidence),
) -> Outcome {
    let mut reader = ConsoleReader::new(&target.console);
    let mut last_answer: Option<Evidence> = None;
    let mut outcome = Outcome {
        verdict: Verdict::TimedOut,
        evidence: Evidence {
            summary: "there was no time for a single attempt".into(),
            ..Evidence::default()
        },
        attempts: 0,
        first_sign: None,
        ended: Instant::now(),
    };
    loop {
        // Asked before the attempt, so that what a machine said last is still looked at.
        let mut machine_end = machine_ended();
        let patience = match machine_end {
            None => PATIENCE,
            Some(_) => LAST_LOOK,
        };
        let patience = deadline
            .saturating_duration_since(Instant::now())
            .clamp(Duration::from_millis(1), patience);
        let mut hopeless = || {
            machine_end = machine_end.take().or_else(&mut *machine_ended);
            machine_end.is_some()
        };
        let attempt = one_attempt(
            check,
            target,
            &mut reader,
            patience,
            interruption,
            &mut hopeless,
        );
        if let Some(attempt) = attempt {
            outcome.attempts += 1;
            outcome.evidence = attempt.evidence;
            hear(&outcome.evidence);
            if attempt.reached {
                last_answer = Some(outcome.evidence.clone());
            } else if let Some(answer) = &last_answer {
                // An attempt cut short by the deadline must not hide what was answered before.
                let now = std::mem::take(&mut outcome.evidence.summary);
                outcome.evidence = answer.clone();
                outcome.evidence.summary = format!("{now}; before that: {}", answer.summary);
            }
            if attempt.reached {
                outcome.first_sign.get_or_insert_with(Instant::now);
            }
            if attempt.holds {
                outcome.verdict = Verdict::Held;
                break;
            }
        }
        if interruption.raised().is_some() {
            outcome.verdict = Verdict::Interrupted;
            break;
        }
        if let Some(reason) = machine_end {
            outcome.verdict = Verdict::MachineEnded(reason);
            break;
        }
        if Instant::now() >= deadline {
            break;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        interruption.rest(PAUSE.min(left));
    }
    if outcome.verdict != Verdict::Held {
        outcome.evidence.console_tail = tail(&target.console, CONSOLE_LINES);
    }
    outcome.ended = Instant::now();
    outcome
}

/// One attempt; none when it was interrupted, did not end in time or became hopeless.
fn one_attempt(
    check: &Check,
    target: &Target,
    reader: &mut ConsoleReader,
    patience: Duration,
    interruption: &Interruption,
    hopeless: &mut dyn FnMut() -> bool,
) -> Option<Attempt> {
    if let CheckKind::Console { pattern } = &check.kind {
        return Some(console::attempt(reader, pattern));
    }
    if target.addresses.is_empty() {
        return Some(Attempt::not_yet(
            false,
            Evidence {
                summary: "the server has no known IPv4 or IPv6 address to ask".into(),
                ..Evidence::default()
            },
        ));
    }
    let (kind, addresses) = (check.kind.clone(), target.addresses.clone());
    let (tell, hear) = mpsc::channel();
    let waker = interruption.clone();
    let spawned = spawn_in(target.namespace.as_deref(), move || {
        let attempt = over_network(&kind, &addresses, patience);
        let _ = tell.send(attempt);
        waker.wake();
    });
    let thread = match spawned {
        Ok(thread) => thread,
        Err(error) => return Some(no_namespace(&error)),
    };
    let mut seen = None;
    // The thread gives up by itself; this is for one that hangs elsewhere.
    let deadline = Instant::now() + patience + LOOK_AFTER;
    loop {
        let round = deadline.min(Instant::now() + LOOK_AFTER);
        let waited = interruption.wait(round, || match hear.try_recv() {
            Ok(attempt) => {
                seen = Some(attempt);
                true
            }
            // The sender went without a word: the namespace could not be entered.
            Err(TryRecvError::Disconnected) => true,
            Err(TryRecvError::Empty) => thread.is_finished(),
        });
        match waited {
            Waited::Ready => break,
            Waited::Interrupted => return None,
            Waited::TimedOut
                if Instant::now() >= deadline || (patience > LAST_LOOK && hopeless()) =>
            {
                return None;
            }
            Waited::TimedOut => {}
        }
    }
    if seen.is_none() {
        seen = hear.try_recv().ok();
    }
    seen.or_else(|| match thread.join() {
        Ok(Err(error)) => Some(no_namespace(&error)),
        _ => None,
    })
}

fn no_namespace(error: &std::io::Error) -> Attempt {
    Attempt::not_yet(
        false,
        Evidence {
            summary: format!("the drill's network namespace cannot be entered: {error}"),
            ..Evidence::default()
        },
    )
}

/// Asks one address after the other and keeps the best answer.
fn over_network(kind: &CheckKind, addresses: &[IpAddr], patience: Duration) -> Attempt {
    let each = patience / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut best: Option<Attempt> = None;
    for address in addresses {
        let attempt = match kind {
            CheckKind::Tcp { port, expect } => {
                tcp::attempt((*address, *port).into(), expect.as_deref(), each)
            }
            CheckKind::Http {
                port,
                path,
                status,
                body_contains,
                host,
            } => http::attempt(
                &http::Question {
                    server: (*address, *port).into(),
                    path,
                    status: *status,
                    body_contains: body_contains.as_deref(),
                    host: host.as_deref(),
                },
                each,
            ),
            CheckKind::Console { .. } => continue,
        };
        if attempt.holds {
            return attempt;
        }
        if best.as_ref().is_none_or(|b| attempt.reached && !b.reached) {
            best = Some(attempt);
        }
    }
    best.unwrap_or_else(|| Attempt::not_yet(false, Evidence::default()))
}

#[cfg(test)]
mod tests;
