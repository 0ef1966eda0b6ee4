//! The timer interrupt where each one costs the guest milliseconds.
//!
//! A kernel built for 100 ticks a second can afford KVM's own timer (8254). At 250, a tick
//! costs about as long as it lasts and the guest never gets on. For such kernels this
//! module is the 8254: its counters run with the real time, and its interrupt comes as
//! often as the guest asks for but never more often than a limit. The guest is told to
//! keep time by the ticks it gets, so its time runs slow by the same factor.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use crate::boot::ImageFile;
use crate::boot::unpack::{Packing, unpack};
use crate::bus::BusDevice;
use crate::confinement::{ThreadKind, enter_thread};
use crate::options::TickOption;

/// First port of the 8254.
pub const PIT: u16 = 0x40;
/// Ports of the 8254.
pub const PIT_PORTS: u64 = 4;
/// The port with the gate and the output of channel 2.
pub const GATE: u16 = 0x61;
/// Interrupt line of channel 0.
pub const IRQ: u32 = 0;

/// Oscillations a second that the counters count.
const OSCILLATOR: u64 = 1_193_182;
/// The most ticks a second for a kernel of unknown or high rate.
const SLOW: u32 = 20;
/// The highest rate that KVM's own timer can be left to.
const AFFORDABLE: u32 = 100;
/// The tick rate of the stock kernels of Debian, Ubuntu and SUSE.
const STOCK_RATE: u64 = 250;
/// A kernel with CONFIG_IKCONFIG carries its configuration, gzipped, between two marks.
const CONFIG_MARK: &[u8] = b"IKCFG_ST";
/// A file that is larger is no kernel; loading it will say so.
const KERNEL_MAX: u64 = 1 << 30;
/// A configuration has some 300 KiB; what claims to be one need not.
const CONFIG_MAX: u64 = 16 << 20;

/// What gives the guest its timer interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tick {
    /// KVM's own 8254.
    Kvm,
    /// This module's, limited to so many ticks a second.
    AtMost(u32),
}

impl Tick {
    /// Follows `option`; `Auto` decides by the kernel file.
    ///
    /// A kernel that carries its configuration is taken at its word. Otherwise a bzImage
    /// is taken for a distribution's (250 ticks) and an ELF file for one that was built
    /// for such a host (100 ticks).
    pub fn choose(option: TickOption, kernel: &ImageFile) -> Self {
        match option {
            TickOption::Kvm => Self::Kvm,
            TickOption::AtMost(hz) => Self::AtMost(hz),
            TickOption::Auto => {
                let image = kernel.read_at_most(KERNEL_MAX).ok().flatten();
                let image = image.unwrap_or_default();
                let slow = match configured_rate(&image) {
                    Some(hz) => hz > AFFORDABLE,
                    None => !image.starts_with(b"\x7fELF"),
                };
                if slow { Self::AtMost(SLOW) } else { Self::Kvm }
            }
        }
    }
}

/// The kernel's tick rate by its own configuration.
fn configured_rate(image: &[u8]) -> Option<u32> {
    let at = image
        .windows(CONFIG_MARK.len())
        .position(|w| w == CONFIG_MARK)?;
    let packed = &image[at + CONFIG_MARK.len()..];
    let (config, _) = unpack(Packing::Gzip, packed, CONFIG_MAX).ok()?;
    String::from_utf8_lossy(&config)
        .lines()
        .find_map(|line| line.strip_prefix("CONFIG_HZ="))
        .and_then(|hz| hz.parse().ok())
}

/// Kernel parameters that go with [`Tick::AtMost`]: time is counted in ticks, delays by
/// the time-stamp counter of `tsc_khz` kHz, and what would keep an interpreted processor
/// busy for minutes is left out.
pub fn cmdline(tsc_khz: u32) -> String {
    let lpj = u64::from(tsc_khz) * 1000 / STOCK_RATE;
    format!(
        "no-kvmclock tsc=unstable clocksource=jiffies tsc_early_khz={tsc_khz} lpj={lpj} \
         initcall_blacklist=load_system_certificate_list cryptomgr.notests=1"
    )
}

/// What is programmed into channel 0, shared with the thread that ticks.
#[derive(Default)]
struct Rate {
    /// Counts from tick to tick; 0 while no ticks are wanted.
    divisor: AtomicU64,
}

/// One counter as a guest reads it.
#[derive(Default)]
struct Counter {
    reload: u16,
    low: Option<u8>,
    started: Option<Instant>,
    latched: Option<u16>,
    read_high: bool,
}

impl Counter {
    fn divisor(&self) -> u64 {
        match self.reload {
            0 => 0x1_0000,
            n => u64::from(n),
        }
    }

    fn counts(&self) -> u64 {
        let elapsed = self.started.map_or(Duration::ZERO, |s| s.elapsed());
        (elapsed.as_nanos() * u128::from(OSCILLATOR) / 1_000_000_000) as u64
    }

    fn value(&self) -> u16 {
        (self.divisor() - self.counts() % self.divisor()) as u16
    }

    /// Takes one byte, low before high; `true` when the value is complete.
    fn write(&mut self, byte: u8) -> bool {
        match self.low.take() {
            None => {
                self.low = Some(byte);
                false
            }
            Some(low) => {
                self.reload = u16::from_le_bytes([low, byte]);
                self.started = Some(Instant::now());
                true
            }
        }
    }

    fn read(&mut self) -> u8 {
        let value = self.latched.unwrap_or_else(|| self.value());
        let [low, high] = value.to_le_bytes();
        self.read_high = !self.read_high;
        if self.read_high {
            return low;
        }
        self.latched = None;
        high
    }

    fn control(&mut self) {
        self.low = None;
        self.latched = None;
        self.read_high = false;
    }
}

/// The 8254, as far as kernels use it: channel 0 ticks, channel 2 measures.
pub struct Pit {
    counters: [Counter; 3],
    rate: Arc<Rate>,
}

impl Pit {
    /// A timer that raises `line` at most `limit` times a second, from a thread that ends
    /// with the timer.
    pub fn start(line: EventFd, limit: u32) -> std::io::Result<Self> {
        let rate = Arc::new(Rate::default());
        let shared = Arc::downgrade(&rate);
        std::thread::Builder::new()
            .name("tick".to_owned())
            .spawn(move || {
                enter_thread(ThreadKind::Device);
                tick(&line, limit, &shared);
            })?;
        Ok(Self {
            counters: Default::default(),
            rate,
        })
    }

    fn control(&mut self, value: u8) {
        let channel = usize::from(value >> 6);
        if channel == 3 {
            return; // read-back: no kernel that is known to run here uses it
        }
        let counter = &mut self.counters[channel];
        if value & 0x30 == 0 {
            counter.latched = Some(counter.value());
            return;
        }
        counter.control();
        if channel == 0 {
            // Until the new count is complete there are no ticks.
            self.rate.divisor.store(0, Ordering::Relaxed);
        }
    }
}

impl BusDevice for Pit {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (Some(counter), [byte]) = (self.counters.get_mut(offset as usize), data) {
            *byte = counter.read();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let &[byte] = data else { return };
        let Some(counter) = self.counters.get_mut(offset as usize) else {
            return self.control(byte);
        };
        if counter.write(byte) && offset == 0 {
            let divisor = counter.divisor();
            self.rate.divisor.store(divisor, Ordering::Relaxed);
        }
    }
}

/// The port that gates channel 2 and shows its output: high once it has counted down.
pub struct GatePort {
    pit: Arc<std::sync::Mutex<Pit>>,
    written: u8,
    refresh: bool,
}

impl GatePort {
    /// The gate of `pit`.
    pub fn new(pit: Arc<std::sync::Mutex<Pit>>) -> Self {
        Self {
            pit,
            written: 0,
            refresh: false,
        }
    }
}

impl BusDevice for GatePort {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        let pit = self
            .pit
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let done = pit.counters[2].counts() >= pit.counters[2].divisor();
        self.refresh = !self.refresh;
        let value = self.written & 3 | u8::from(self.refresh) << 4 | u8::from(done) << 5;
        data.fill(value);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if let &[byte] = data {
            self.written = byte;
        }
    }
}

fn tick(line: &EventFd, limit: u32, rate: &Weak<Rate>) {
    let shortest = Duration::from_secs(1) / limit.max(1);
    let mut next = Instant::now();
    loop {
        let Some(divisor) = rate.upgrade().map(|r| r.divisor.load(Ordering::Relaxed)) else {
            return;
        };
        let asked = Duration::from_nanos(divisor * 1_000_000_000 / OSCILLATOR);
        // Ticks that could not be given in time are not made up for.
        next = (next + asked.max(shortest)).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        if divisor != 0 && line.write(1).is_err() {
            return;
        }
    }
}

#[cfg(test)]
#[path = "tick_test.rs"]
mod tests;
