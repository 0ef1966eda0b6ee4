//! What ends or changes a machine's run, told to the one thread that decides.

use std::sync::mpsc;

/// Something the machine's owner has to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest powered the machine off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The operator ends the machine now.
    Stop,
    /// The guest cannot run on.
    Crash(String),
    /// The VMM itself failed.
    Failed(String),
}

/// Tells events; cheap to clone, one for each device that needs it.
#[derive(Debug, Clone)]
pub struct Notifier(mpsc::Sender<Event>);

impl Notifier {
    /// A notifier and the end at which its events arrive.
    pub fn channel() -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel();
        (Self(sender), receiver)
    }

    /// Tells `event`. After the machine has ended nobody listens, and nothing happens.
    pub fn tell(&self, event: Event) {
        let _ = self.0.send(event);
    }
}
