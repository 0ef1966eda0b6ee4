//! How large a virtual machine must be to do a server's work, by what the work was seen to ask.
//!
//! Two sizes: the *usual* one carries all but the highest hours (p95, with a quarter of room), the
//! *peak* carries the highest minute. Neither is more than the server had.

use relevo_wire::inventory::Inventory;
use relevo_wire::load::{Load, Spread};
use serde::Serialize;

/// What is added to the 95th percentile: machines that are full answer late.
const ROOM_PERCENT: u64 = 25;
/// Memory is given in steps of this many bytes.
const MEMORY_STEP: u64 = 256 << 20;
/// Less memory boots no server of today.
const LEAST_MEMORY: u64 = 512 << 20;
/// From so many minutes on a history is worth something: a week, in which most work recurs.
const ENOUGH: u32 = 7 * 24 * 60;

/// A recommendation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sizing {
    /// Minutes measured that it is based on.
    pub minutes: u32,
    /// Whether that is a week or more.
    pub settled: bool,
    /// For all but the highest hours.
    pub usual: Size,
    /// For the highest minute.
    pub peak: Size,
}

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Virtual processors.
    pub vcpus: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Disk requests a second, reads and writes.
    pub iops: u64,
    /// Bytes a second that disks read and write.
    pub disk_bytes_per_second: u64,
    /// Bits a second, of the busier direction.
    pub network_bits_per_second: u64,
}

impl Sizing {
    /// From a history; none when nothing was measured.
    pub fn of(load: &Load, inventory: &Inventory) -> Option<Self> {
        let had = |amount: u64| if amount == 0 { u64::MAX } else { amount };
        let (most_vcpus, most_memory) = (had(inventory.cpus.into()), had(inventory.memory));
        let all = &load.all;
        let size = |of: fn(&Spread) -> u64, percent: u64| {
            let with_room = |amount: u64| {
                let part = u128::from(amount) * u128::from(percent) / 100;
                u64::try_from(part).unwrap_or(u64::MAX)
            };
            let sum = |a: &Spread, b: &Spread| with_room(of(a).saturating_add(of(b)));
            let memory = with_room(of(&all.memory)).max(LEAST_MEMORY);
            let stepped = memory.div_ceil(MEMORY_STEP).saturating_mul(MEMORY_STEP);
            let busier = of(&all.received).max(of(&all.sent));
            Size {
                vcpus: with_room(of(&all.cpu)).div_ceil(1000).clamp(1, most_vcpus),
                memory: stepped.min(most_memory),
                iops: sum(&all.reads, &all.writes),
                disk_bytes_per_second: sum(&all.read, &all.written),
                network_bits_per_second: with_room(busier).saturating_mul(8),
            }
        };
        (load.minutes > 0).then(|| Self {
            minutes: load.minutes,
            settled: load.minutes >= ENOUGH,
            usual: size(|spread| spread.p95, 100 + ROOM_PERCENT),
            peak: size(|spread| spread.max, 100),
        })
    }

    /// The time that it is based on, in words.
    pub fn basis(&self) -> String {
        let (days, hours) = (self.minutes / 1440, self.minutes / 60);
        let time = match (days, hours) {
            (0, 0) => format!("{} minutes", self.minutes),
            (0..3, hours) => format!("{hours} hours"),
            (days, _) => format!("{days} days"),
        };
        match self.settled {
            true => format!("{time} measured"),
            false => format!("only {time} measured: a week shows what recurs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_wire::load::LoadFigures;

    fn spread(mean: u64, p95: u64, max: u64) -> Spread {
        Spread { mean, p95, max }
    }

    fn load() -> Load {
        Load {
            minutes: 30 * 1440,
            all: LoadFigures {
                cpu: spread(500, 2500, 7900),
                memory: spread(3 << 30, 4 << 30, 6 << 30),
                reads: spread(10, 300, 5000),
                writes: spread(10, 100, 1000),
                read: spread(0, 8 << 20, 300 << 20),
                written: spread(0, 4 << 20, 100 << 20),
                received: spread(0, 1_000_000, 10_000_000),
                sent: spread(0, 4_000_000, 5_000_000),
            },
            ..Load::default()
        }
    }

    fn server(cpus: u32, memory: u64) -> Inventory {
        Inventory {
            cpus,
            memory,
            ..Inventory::default()
        }
    }

    /// Guards what a recovery site buys: room above the usual, the peak as it was.
    #[test]
    fn the_usual_has_room_and_the_peak_is_the_highest_minute() {
        let sizing = Sizing::of(&load(), &server(16, 64 << 30));
        let usual = Size {
            vcpus: 4,
            memory: 5 << 30,
            iops: 500,
            disk_bytes_per_second: 15 << 20,
            network_bits_per_second: 40_000_000,
        };
        let peak = Size {
            vcpus: 8,
            memory: 6 << 30,
            iops: 6000,
            disk_bytes_per_second: 400 << 20,
            network_bits_per_second: 80_000_000,
        };
        let (minutes, settled) = (30 * 1440, true);
        let expected = Sizing {
            minutes,
            settled,
            usual,
            peak,
        };
        assert_eq!(sizing, Some(expected));
        assert_eq!(expected.basis(), "30 days measured");
    }

    /// Guards against more than the server had, against a machine that cannot boot, and against
    /// figures made up by whoever wrote the image.
    #[test]
    fn no_size_is_more_than_the_server_or_less_than_boots() {
        let small = Sizing::of(&load(), &server(2, 5 << 30)).map(|s| (s.usual, s.peak));
        let small = small.map(|(usual, peak)| (usual.vcpus, usual.memory, peak.vcpus, peak.memory));
        assert_eq!(small, Some((2, 5 << 30, 2, 5 << 30)));
        let mut idle = Load {
            minutes: 1,
            ..Load::default()
        };
        let least = Sizing::of(&idle, &server(8, 8 << 30));
        assert_eq!(
            least.map(|s| (s.usual.vcpus, s.usual.memory)),
            Some((1, 512 << 20))
        );
        assert!(least.is_some_and(|s| s.basis().starts_with("only 1 minutes")));
        let absurd = spread(u64::MAX, u64::MAX, u64::MAX);
        (idle.all.cpu, idle.all.memory) = (absurd, absurd);
        (idle.all.reads, idle.all.sent) = (absurd, absurd);
        let sized = Sizing::of(&idle, &Inventory::default());
        assert!(sized.is_some_and(|s| s.peak.iops == u64::MAX));
        assert_eq!(Sizing::of(&Load::default(), &server(1, 1)), None);
    }
}
