//! A long, narrow, lossy line in front of a vault: a UDP proxy on loopback.
//!
//! ```text
//! agents ──► socket that they know ─► loss ─► queue, rate ─► delay ─► one socket for each ──► vault
//!        ◄──────────────────── the same on the way back ◄────────────
//! ```
//!
//! It can be cut and mended, and take other addresses towards the vault in mid-connection, as
//! routers do that translate addresses. One thread forwards all, many packets in one call, so that
//! it keeps up with a few hundred Mbit/s beside other work.

mod bottleneck;
mod forwarder;

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use forwarder::Forwarder;

/// What a line is like, the same in both directions.
#[derive(Clone, Copy, Debug)]
pub struct LineSettings {
    /// Bits a second, IP and UDP headers included.
    pub rate: u64,
    /// There and back.
    pub round_trip: Duration,
    /// What its router holds at most, as the time that it takes to send it.
    pub queue: Duration,
    /// Packets lost of a million, by chance.
    pub loss: u64,
    /// Each packet takes longer by up to this; later ones may overtake it.
    pub jitter: Duration,
    /// What the dice begin with.
    pub seed: u64,
}

impl LineSettings {
    /// A line of 150 ms that loses nothing, with a router that holds 100 ms.
    pub fn long(rate: u64) -> Self {
        Self {
            rate,
            round_trip: Duration::from_millis(150),
            queue: Duration::from_millis(100),
            loss: 0,
            jitter: Duration::ZERO,
            seed: 1,
        }
    }
}

/// What became of the packets of one direction.
#[derive(Debug, Default)]
pub struct Fate {
    /// Bytes sent on, with IP and UDP headers.
    pub carried: AtomicU64,
    /// Packets lost by chance, or because the line was cut.
    pub lost: AtomicU64,
    /// Packets for which the queue had no room.
    pub overflowed: AtomicU64,
    /// Packets that later ones overtook.
    pub overtaken: AtomicU64,
}

impl Fate {
    fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    /// One of its counters.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

struct Control {
    settings: Mutex<LineSettings>,
    cut: AtomicBool,
    stop: AtomicBool,
    /// How often other addresses were asked for, and taken.
    rebind: AtomicU64,
    rebound: AtomicU64,
    up: Fate,
    down: Fate,
}

impl Control {
    fn settings(&self) -> MutexGuard<'_, LineSettings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The line; gone when dropped.
pub struct Line {
    address: SocketAddr,
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
}

impl Line {
    /// A line to a vault at `vault`.
    ///
    /// # Panics
    /// When there is no socket to be had.
    pub fn to(vault: SocketAddr, settings: LineSettings) -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap_or_else(|e| panic!("{e}"));
        let address = socket.local_addr().unwrap_or_else(|e| panic!("{e}"));
        let control = Arc::new(Control {
            settings: Mutex::new(settings),
            cut: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            rebind: AtomicU64::new(0),
            rebound: AtomicU64::new(0),
            up: Fate::default(),
            down: Fate::default(),
        });
        let forwarder = Forwarder::new(socket, vault, control.clone());
        let forwarder = forwarder.unwrap_or_else(|e| panic!("{e}"));
        Self {
            address,
            control,
            thread: Some(std::thread::spawn(move || forwarder.run())),
        }
    }

    /// Where the vault seems to be.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes it another line from now on.
    pub fn set(&self, settings: LineSettings) {
        *self.control.settings() = settings;
    }

    /// Cuts it: nothing goes through, in either direction.
    pub fn cut(&self) {
        self.control.cut.store(true, Ordering::Relaxed);
    }

    /// Mends it.
    pub fn mend(&self) {
        self.control.cut.store(false, Ordering::Relaxed);
    }

    /// Takes other addresses towards the vault; what comes to the old ones is lost. Returns when
    /// that is done.
    pub fn rebind(&self) {
        let asked = self.control.rebind.fetch_add(1, Ordering::Relaxed) + 1;
        crate::program::wait_while(|| self.control.rebound.load(Ordering::Relaxed) < asked);
    }

    /// What became of packets to the vault.
    pub fn up(&self) -> &Fate {
        &self.control.up
    }

    /// What became of packets from the vault.
    pub fn down(&self) -> &Fate {
        &self.control.down
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
