//! Whether others on this server wait: pressure stall information (Linux 4.20 and later:
//! Documentation/accounting/psi.rst).
//!
//! Before a run the server's own figures tell, since the agent does nothing. During a run it
//! would see itself wait for its own reads. So there what its own control group waited is taken
//! off: others waited at least for the rest. That needs a control group (version 2) of its own,
//! which a service has.

use std::path::{Path, PathBuf};
use std::time::Duration;

use relevo_wire::policy::Pressure;
use serde::Serialize;

/// The server's figures.
const SERVER: &str = "/proc/pressure";
/// Shortest stretch that is looked at: the kernel adds up every two seconds.
const STRETCH: Duration = Duration::from_secs(4);
/// The least share of its usual speed that a run is slowed down to: it shall end.
const LEAST: f64 = 1.0 / 16.0;
/// The longest wait at once.
const LONGEST: Duration = Duration::from_secs(10);

/// What is waited for.
const KINDS: [&str; 3] = ["io", "cpu", "memory"];

/// Per cent that make the server busy, in the order of [`KINDS`].
fn thresholds(policy: &Pressure) -> [u8; 3] {
    [policy.io, policy.cpu, policy.memory]
}

/// A kind whose pressure is above its threshold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Busy {
    /// `io`, `cpu` or `memory`.
    pub kind: &'static str,
    /// Per cent of time in which some task waited.
    pub percent: f64,
}

/// Whether the kernel tells of pressure.
pub fn is_known() -> bool {
    Path::new(SERVER).join("io").exists()
}

/// Whether the agent's own share can be told apart during a run.
pub fn is_known_during_runs() -> bool {
    is_known() && own_group().is_some()
}

/// What the server is busy with, over the last ten seconds. For when the agent does nothing.
pub fn of_server(policy: &Pressure) -> Option<Busy> {
    let figures = KINDS.into_iter().zip(thresholds(policy));
    figures
        .filter(|(_, most)| *most > 0)
        .find_map(|(kind, most)| {
            let percent = read(Path::new(SERVER), kind, "")?.average;
            (percent > f64::from(most)).then_some(Busy { kind, percent })
        })
}

/// A line of a pressure file.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Some10 {
    /// Per cent of the last ten seconds in which some task waited.
    average: f64,
    /// All the time in which some did.
    total: Duration,
}

fn read(dir: &Path, kind: &str, suffix: &str) -> Option<Some10> {
    let text = std::fs::read_to_string(dir.join(format!("{kind}{suffix}"))).ok()?;
    parse(&text)
}

fn parse(text: &str) -> Option<Some10> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let field = |name: &str| {
        let words = line.split(' ');
        words
            .filter_map(|w| w.split_once('='))
            .find_map(|(key, value)| (key == name).then_some(value))
    };
    Some(Some10 {
        average: field("avg10")?
            .parse()
            .ok()
            .filter(|a| f64::is_finite(*a))?,
        total: Duration::from_micros(field("total")?.parse().ok()?),
    })
}

/// Where the figures of this process's control group are; nothing when it has none of its own.
fn own_group() -> Option<PathBuf> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let below = |root: &str| Path::new(root).join(path);
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(below);
    let found = roots
        .into_iter()
        .find(|dir| dir.join("io.pressure").exists());
    found.filter(|_| !path.is_empty())
}

/// Slows a run down while others wait.
#[derive(Clone, Debug)]
pub struct Backoff {
    /// Share of the usual speed.
    speed: f64,
    /// What had been waited for when it was last looked at, of the server and of ourselves.
    last: Option<(Duration, [Waited; 3])>,
}

type Waited = Option<(Duration, Duration)>;

impl Default for Backoff {
    fn default() -> Self {
        Self {
            speed: 1.0,
            last: None,
        }
    }
}

impl Backoff {
    /// Looks at the figures, when the last look is long enough ago.
    pub fn look(&mut self, policy: &Pressure, now: Duration) {
        if self
            .last
            .is_some_and(|(then, _)| now.saturating_sub(then) < STRETCH)
        {
            return;
        }
        let group = own_group();
        let waited = KINDS.map(|kind| {
            let own = read(group.as_ref()?, kind, ".pressure")?;
            Some((read(Path::new(SERVER), kind, "")?.total, own.total))
        });
        self.judge(policy, now, waited);
    }

    fn judge(&mut self, policy: &Pressure, now: Duration, waited: [Waited; 3]) {
        if let Some((then, before)) = self.last.replace((now, waited)) {
            let stretch = now.saturating_sub(then).as_secs_f64();
            let busy = KINDS.iter().enumerate().any(|(at, _)| {
                let (Some(now), Some(then), most) =
                    (waited[at], before[at], thresholds(policy)[at])
                else {
                    return false;
                };
                let grew = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64();
                let others = grew(now.0, then.0) - grew(now.1, then.1);
                most > 0 && others / stretch * 100.0 > f64::from(most)
            });
            self.speed = match busy {
                true => (self.speed / 2.0).max(LEAST),
                false => (self.speed * 1.5).min(1.0),
            };
        }
    }

    /// How long a worker waits that has worked so long since it last went on.
    pub fn wait(&self, worked: Duration) -> Duration {
        worked.mul_f64(1.0 / self.speed - 1.0).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn figures_are_read_and_nonsense_is_none() {
        let text = "some avg10=12.50 avg60=1.00 avg300=0.10 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        let some = parse(text).unwrap();
        assert_eq!(some.average, 12.5);
        assert_eq!(some.total, Duration::from_millis(1500));
        for wrong in [
            "",
            "some",
            "full avg10=1.00 total=1",
            "some avg10=x total=1",
            "some avg10=NaN total=1",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    /// Guards a busy server against the agent, and the agent against itself: its own waiting
    /// does not slow it down, that of others does, and never to a standstill.
    #[test]
    fn a_run_slows_down_for_others_and_not_for_itself() {
        let policy = Pressure::default();
        let mut backoff = Backoff::default();
        let work = Duration::from_millis(100);
        let look = |backoff: &mut Backoff, second: u64, server: u64, own: u64| {
            let figures = (Duration::from_secs(server), Duration::from_secs(own));
            backoff.judge(
                &policy,
                Duration::from_secs(second),
                [Some(figures), None, None],
            );
        };
        look(&mut backoff, 0, 0, 0);
        // All of the time somebody waited for disks: we.
        look(&mut backoff, 10, 10, 10);
        assert_eq!(backoff.wait(work), Duration::ZERO);
        // Others did.
        look(&mut backoff, 20, 20, 11);
        assert_eq!(backoff.wait(work), work);
        for second in 3..20 {
            look(&mut backoff, second * 10, second * 10, 11);
        }
        let longest = work.mul_f64(1.0 / LEAST - 1.0);
        assert!(backoff.wait(work) <= longest && backoff.wait(work) > longest / 2);
        // And have ended.
        for second in 20..40 {
            look(&mut backoff, second * 10, 190, 11);
        }
        assert_eq!(backoff.wait(work), Duration::ZERO);
        // A kernel that does not tell slows nothing down.
        let mut unknown = Backoff::default();
        for second in 0..5 {
            unknown.judge(&policy, Duration::from_secs(second * 10), [None; 3]);
        }
        assert_eq!(unknown.wait(work), Duration::ZERO);
    }
}
