//! What a peer can make happen as often as he likes must not fill the log.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use relevo_wire::TenantId;

use super::{Act, Event};

/// Of the same act by the same one, one entry in this time.
const PAUSE: Duration = Duration::from_secs(60);
/// Of all that are written rarely, so many in this time.
const IN_A_PAUSE: usize = 30;
/// Acts by somebody that are remembered.
const REMEMBERED: usize = 1024;

type Key = (Act, Option<TenantId>, String);

/// What was left out lately.
#[derive(Default)]
pub(super) struct Rarely {
    last: HashMap<Key, (Instant, u64)>,
    /// When the newest entries were written, oldest first.
    recent: Vec<Instant>,
    left_out: u64,
}

impl Rarely {
    /// The event when it is to be written, with how many it stands for.
    pub(super) fn due(&mut self, event: Event, now: Instant) -> Option<Event> {
        let fresh = |since: &Instant| now.saturating_duration_since(*since) < PAUSE;
        self.recent.retain(fresh);
        let key = (event.act, event.tenant, event.who.clone());
        if self.last.len() >= REMEMBERED && !self.last.contains_key(&key) {
            let left_out: u64 = self.last.values().map(|(_, more)| more).sum();
            self.left_out += left_out;
            self.last.clear();
        }
        let full = self.recent.len() >= IN_A_PAUSE;
        match self.last.get_mut(&key) {
            Some((since, more)) if fresh(since) || full => {
                *more += 1;
                return None;
            }
            None if full => {
                self.left_out += 1;
                return None;
            }
            _ => {}
        }
        self.recent.push(now);
        let mine = self.last.insert(key, (now, 0)).map_or(0, |(_, more)| more);
        let others = std::mem::take(&mut self.left_out);
        let mut event = event;
        if mine > 0 {
            event.result += &format!("; {mine} more like it since the last entry");
        }
        if others > 0 {
            event.result += &format!("; {others} of others were left out");
        }
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the log against being filled from outside, and against silence about it.
    #[test]
    fn floods_become_few_entries_that_say_how_many() {
        let mut rarely = Rarely::default();
        let start = Instant::now();
        let event = |who: usize| Event::new(who.to_string(), Act::AuthenticationFailed, "x");
        let mut written = 0;
        for _ in 0..1000 {
            written += usize::from(rarely.due(event(1), start).is_some());
        }
        assert_eq!(written, 1);
        for who in 0..5000 {
            written += usize::from(rarely.due(event(who), start).is_some());
        }
        assert_eq!(written, IN_A_PAUSE);
        let later = rarely.due(event(9999), start + PAUSE).map(|e| e.result);
        assert!(
            later
                .as_deref()
                .is_some_and(|r| r.contains("of others were left out")),
            "{later:?}"
        );
        let later = rarely.due(event(1), start + 2 * PAUSE).map(|e| e.result);
        assert!(later.is_some());
    }
}
