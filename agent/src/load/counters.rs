//! What the kernel has counted since it started: `/proc/stat`, `/proc/meminfo`,
//! `/proc/diskstats` (Documentation/admin-guide/iostats.rst) and `/proc/net/dev` (proc(5)).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many figures a minute has.
pub const FIGURES: usize = 8;

/// What a time came to, a second where that applies: thousandths of a processor, bytes of memory,
/// requests read and written, bytes read and written, bytes received and sent.
pub type Figures = [u64; FIGURES];

/// What had been counted at one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Processors that are on.
    processors: u64,
    /// Ticks of all processors together that were work.
    busy: u64,
    /// Ticks that were not.
    idle: u64,
    /// Bytes of memory that could not be given to somebody else, now.
    memory: u64,
    /// Whole disks with hardware behind them: requests read and written, sectors read and written.
    disks: Vec<Device<4>>,
    /// Network interfaces with hardware behind them: bytes received and sent.
    interfaces: Vec<Device<2>>,
}

/// What a device counted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Device<const N: usize> {
    name: String,
    counts: [u64; N],
}

/// Reads the kernel's files, below a root that tests can move.
pub struct Kernel {
    root: PathBuf,
    /// Devices seen at the last look, and whether they are hardware that counts.
    known: Vec<(String, bool)>,
}

impl Kernel {
    /// Of the server below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.into(),
            known: Vec::new(),
        }
    }

    /// Looks. Where there are no disks or no network, they count nothing.
    pub fn read(&mut self) -> io::Result<Counters> {
        let mut counters = Counters::default();
        let mut text = String::with_capacity(16 << 10);
        self.load("proc/stat", &mut text)?;
        processor_time(&text, &mut counters);
        self.load("proc/meminfo", &mut text)?;
        counters.memory = memory_in_use(&text);
        // Of devices that come back under an old name nothing is known.
        let before = std::mem::take(&mut self.known);
        if self.load("proc/diskstats", &mut text).is_ok() {
            let disks = text.lines().filter_map(disk);
            counters.disks = disks
                .filter(|disk| self.counts(&before, "sys/block", &disk.name))
                .collect();
        }
        if self.load("proc/net/dev", &mut text).is_ok() {
            let interfaces = text.lines().filter_map(interface);
            counters.interfaces = interfaces
                .filter(|interface| self.counts(&before, "sys/class/net", &interface.name))
                .collect();
        }
        Ok(counters)
    }

    fn load(&self, path: &str, text: &mut String) -> io::Result<()> {
        text.clear();
        File::open(self.root.join(path))?.read_to_string(text)?;
        Ok(())
    }

    /// Whether hardware is behind a device, so that nothing counts twice: not partitions,
    /// volumes, arrays, loop devices, bridges, bonds, VLANs.
    fn counts(&mut self, before: &[(String, bool)], class: &str, name: &str) -> bool {
        let key = format!("{class}/{name}");
        let counts = match before.iter().find(|(known, _)| *known == key) {
            Some((_, counts)) => *counts,
            None => {
                let left_out = ["sr", "fd", "loop", "ram", "zram"];
                let path = self.root.join(class).join(name.replace('/', "!"));
                path.join("device").exists() && !left_out.iter().any(|s| name.starts_with(s))
            }
        };
        self.known.push((key, counts));
        counts
    }
}

impl Counters {
    /// What the time between an earlier look and this one came to. A counter that went back counts
    /// for nothing, and so does a device that is at one look only.
    pub fn since(&self, earlier: &Self, elapsed: Duration) -> Figures {
        let busy = grown(earlier.busy, self.busy);
        let ticks = busy + grown(earlier.idle, self.idle);
        let [reads, writes, read, written] = sum(&earlier.disks, &self.disks);
        let [received, sent] = sum(&earlier.interfaces, &self.interfaces);
        let millis = u64::try_from(elapsed.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let a_second = |count: u64| count.saturating_mul(1000) / millis;
        [
            (self.processors * 1000).saturating_mul(busy) / ticks.max(1),
            self.memory,
            a_second(reads),
            a_second(writes),
            // The kernel counts sectors of 512 bytes, whatever the disk's are.
            a_second(read.saturating_mul(512)),
            a_second(written.saturating_mul(512)),
            a_second(received),
            a_second(sent),
        ]
    }
}

/// How much a counter grew. Some drivers and old kernels count in 32 bits, which wrap; what goes
/// back otherwise has begun anew.
fn grown(old: u64, new: u64) -> u64 {
    const WORD: u64 = 1 << 32;
    match new.checked_sub(old) {
        Some(grown) => grown,
        None if old < WORD && old > WORD / 4 * 3 && new < WORD / 4 => WORD - old + new,
        None => 0,
    }
}

fn sum<const N: usize>(earlier: &[Device<N>], now: &[Device<N>]) -> [u64; N] {
    let mut sum = [0u64; N];
    for device in now {
        let Some(before) = earlier.iter().find(|d| d.name == device.name) else {
            continue;
        };
        for (sum, (old, new)) in sum.iter_mut().zip(before.counts.iter().zip(device.counts)) {
            *sum = sum.saturating_add(grown(*old, new));
        }
    }
    sum
}

/// Line `cpu`: user, nice, system, idle, iowait, irq, softirq, steal, and guests', who are in the
/// first two. What a hypervisor stole was asked for.
fn processor_time(stat: &str, counters: &mut Counters) {
    for line in stat.lines() {
        let Some(rest) = line.strip_prefix("cpu") else {
            break;
        };
        if !rest.starts_with(' ') {
            counters.processors += 1;
            continue;
        }
        for (at, ticks) in rest.split_ascii_whitespace().take(8).enumerate() {
            let ticks: u64 = ticks.parse().unwrap_or(0);
            match at {
                3 | 4 => counters.idle += ticks,
                _ => counters.busy += ticks,
            }
        }
    }
}

/// What is not available for more programs without swapping. Kernels before 3.14 do not say that;
/// what is free or holds copies of files comes close.
fn memory_in_use(meminfo: &str) -> u64 {
    let of = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        let kib = line.strip_prefix(':')?.split_ascii_whitespace().next()?;
        Some(kib.parse::<u64>().ok()?.saturating_mul(1024))
    };
    let roughly = || {
        ["MemFree", "Buffers", "Cached"]
            .into_iter()
            .filter_map(of)
            .sum()
    };
    let available: u64 = of("MemAvailable").unwrap_or_else(roughly);
    of("MemTotal").unwrap_or(0).saturating_sub(available)
}

/// Major, minor, name, then reads, merged, sectors, milliseconds; the same of writes.
fn disk(line: &str) -> Option<Device<4>> {
    let mut fields = line.split_ascii_whitespace().skip(2);
    let name = fields.next()?.to_string();
    let mut field = |skipped: usize| fields.nth(skipped)?.parse::<u64>().ok();
    let (reads, read) = (field(0)?, field(1)?);
    let (writes, written) = (field(1)?, field(1)?);
    let counts = [reads, writes, read, written];
    Some(Device { name, counts })
}

/// Name, a colon with or without a blank behind, then eight figures received and eight sent.
fn interface(line: &str) -> Option<Device<2>> {
    let (name, rest) = line.rsplit_once(':')?;
    let mut fields = rest.split_ascii_whitespace();
    let received = fields.next()?.parse().ok()?;
    let sent = fields.nth(7)?.parse().ok()?;
    let (name, counts) = (name.trim().to_string(), [received, sent]);
    Some(Device { name, counts })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const STAT: &str = "cpu  100 0 50 800 40 5 5 0 0 0\ncpu0 1\ncpu1 1\nintr 5 cpu\n";
    const DISKS: &str = "   8       0 sda 10 1 80 3 20 2 160 4 0 9 9\n   \
        8       1 sda1 10 1 80 3 20 2 160 4 0 9 9\n 253 0 dm-0 10 0 80 3 20 0 160 4 0 9 9\n";
    const NET: &str = "Inter-|   Receive    |  Transmit\n face |bytes    packets\n    \
        lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0:1000 1 0 0 0 0 0 0 500 1 0 0 0 0 0 0\n";

    struct Server(tempfile::TempDir);

    impl Server {
        fn new() -> Self {
            let server = Self(tempfile::tempdir().unwrap());
            server.put("proc/stat", STAT);
            server.put("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 300 kB\n");
            server.put("proc/diskstats", DISKS);
            server.put("proc/net/dev", NET);
            server.put("sys/block/sda/device/model", "x");
            server.put("sys/block/dm-0/size", "1");
            server.put("sys/class/net/eth0/device/vendor", "x");
            server.put("sys/class/net/lo/mtu", "1");
            server
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    /// Guards each figure's place and unit, and against counting a disk, its partition and the
    /// volume on it three times.
    #[test]
    fn figures_are_those_of_the_time_between_two_looks() {
        let server = Server::new();
        let mut kernel = Kernel::new(server.0.path());
        let before = kernel.read().unwrap();
        server.put("proc/stat", &STAT.replace("100 0 50 800", "700 0 50 1400"));
        server.put(
            "proc/meminfo",
            "MemTotal: 1000 kB\nMemFree: 100 kB\nCached: 50 kB\n",
        );
        let disks = DISKS.replace("10 1 80 3 20 2 160", "70 1 1280 3 140 2 3760");
        server.put("proc/diskstats", &disks);
        server.put("proc/net/dev", &NET.replace("eth0:1000", "eth0: 61000"));
        let figures = kernel
            .read()
            .unwrap()
            .since(&before, Duration::from_secs(60));
        // Half of two processors; 1,200 and 3,600 sectors.
        let (read, written) = (20 * 512, 60 * 512);
        assert_eq!(figures, [1000, 850 << 10, 1, 2, read, written, 1000, 0]);
    }

    /// Guards peaks against a disk that is unplugged, replaced, or whose driver was loaded anew.
    #[test]
    fn what_comes_goes_or_begins_anew_counts_for_nothing() {
        let server = Server::new();
        let mut kernel = Kernel::new(server.0.path());
        let before = kernel.read().unwrap();
        server.put("sys/block/sdb/device/model", "y");
        let new = "8 16 sdb 9000 0 9000 0 9000 0 9000 0 0 0 0\n";
        server.put(
            "proc/diskstats",
            &format!("{}{new}", DISKS.replace(" 10 ", " 2 ")),
        );
        let after = kernel.read().unwrap();
        assert_eq!(after.disks.len(), 2);
        let figures = after.since(&before, Duration::from_secs(60));
        assert_eq!(figures[2..6], [0; 4]);
        server.put("proc/diskstats", new);
        let gone = kernel.read().unwrap();
        assert_eq!(gone.since(&after, Duration::from_secs(60))[2..6], [0; 4]);
        assert_eq!(grown(u64::from(u32::MAX), 9), 10);
        assert_eq!(grown(u64::MAX, 9), 0);
    }

    /// Guards the agent against a kernel that writes something else.
    #[test]
    fn lines_that_mean_nothing_are_passed_over() {
        for line in [
            "",
            ":",
            "8 0",
            "8 0 sda x",
            "eth0: 1 2 3",
            "a b c d e f g h i",
        ] {
            assert_eq!(disk(line), None, "{line}");
            assert_eq!(interface(line), None, "{line}");
        }
        let mut counters = Counters::default();
        processor_time("cpu  -1 x 99999999999999999999999\n", &mut counters);
        assert_eq!(memory_in_use("MemTotal:\nMemFree: x kB"), 0);
        assert_eq!(counters.since(&counters, Duration::ZERO), [0; FIGURES]);
    }
}
