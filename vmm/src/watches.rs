//! Event descriptors that mean the end of the machine when written to.

use std::io;
use std::os::fd::AsRawFd;
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::confinement::{ThreadKind, enter_thread};
use crate::events::{Event, Notifier};

/// The descriptors to watch, before the watch has begun.
#[derive(Default)]
pub struct Watches(Vec<(EventFd, Event)>);

/// A watch that ends when dropped.
pub struct Watching {
    quit: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Watches {
    /// Tells `event` once `signal` is written to.
    pub fn add(&mut self, signal: EventFd, event: Event) {
        self.0.push((signal, event));
    }

    /// Begins to watch.
    pub fn start(self, notifier: Notifier) -> io::Result<Watching> {
        let quit = EventFd::new(EFD_NONBLOCK)?;
        let epoll = Epoll::new()?;
        let watched = self.0.iter().map(|(signal, _)| signal).chain([&quit]);
        for (index, descriptor) in watched.enumerate() {
            let interest = EpollEvent::new(EventSet::IN, index as u64);
            epoll.ctl(ControlOperation::Add, descriptor.as_raw_fd(), interest)?;
        }
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || {
                enter_thread(ThreadKind::Device);
                self.wait(&epoll, &notifier);
            })?;
        Ok(Watching {
            quit,
            thread: Some(thread),
        })
    }

    fn wait(self, epoll: &Epoll, notifier: &Notifier) {
        let mut ready = [EpollEvent::default()];
        loop {
            match epoll.wait(-1, &mut ready) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return tracing::error!(%error, "cannot watch the machine"),
            }
        }
        // Beyond the list there is only the request to quit.
        if let Some((_, event)) = self.0.get(ready[0].data() as usize) {
            notifier.tell(event.clone());
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.quit.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    //! Guards that the right event is told, and that a watch without one can end.
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_event_of_the_descriptor_is_told() {
        let signals = [0, 1].map(|_| EventFd::new(0).unwrap());
        let mut watches = Watches::default();
        watches.add(signals[0].try_clone().unwrap(), Event::Reset);
        watches.add(signals[1].try_clone().unwrap(), Event::Stop);
        let (notifier, events) = Notifier::channel();
        let _watching = watches.start(notifier).unwrap();
        signals[1].write(1).unwrap();
        assert_eq!(events.recv().unwrap(), Event::Stop);
    }

    #[test]
    fn dropping_ends_the_watch() {
        let (notifier, events) = Notifier::channel();
        drop(Watches::default().start(notifier).unwrap());
        assert!(events.recv().is_err());
    }
}
