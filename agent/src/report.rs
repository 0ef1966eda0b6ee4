//! What commands tell: lines for people, one line of JSON for programs.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use indicatif::HumanBytes;
use relevo_wire::inventory::{Inventory, InventoryDisk, Load, Spread};
use relevo_wire::manifest::{Consistency, Faults, Held, RunTotals};
use relevo_wire::{PointId, ServerId, Timestamp};
use serde::Serialize;

use crate::tracking::grains::Grains;
use crate::tracking::{Basis, Unmarked};
use crate::used::{Area, Survey};

/// What a backup came to.
#[derive(Clone, Debug, Serialize)]
pub struct BackupReport {
    /// The server.
    pub server: ServerId,
    /// The recovery point.
    pub point: PointId,
    /// The moment whose state it holds.
    pub taken: Timestamp,
    /// How the disks were held still.
    pub consistency: Consistency,
    /// What was done for that, and why it is no better.
    #[serde(flatten)]
    pub held: Held,
    /// Bytes of the disks.
    pub disk_bytes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes in spans that differ from the last image.
    pub changed_bytes: u64,
    /// Plaintext of chunks that the vault had not.
    pub new_bytes: u64,
    /// Sealed bytes sent, index included.
    pub sent_bytes: u64,
    /// Bytes that the vault grew by.
    pub stored_bytes: u64,
    /// Bytes that nothing uses: they were not read, and are zeros in the image.
    pub free_bytes: u64,
    /// Milliseconds from the first read to the vault's word.
    pub duration_ms: u64,
    /// What of each disk was read, and why.
    pub tracking: Vec<DiskTracking>,
    /// Disks whose images lack something.
    pub faults: Vec<DiskFaults>,
    /// What was found on the disks.
    pub areas: Vec<Area>,
}

/// What a disk's image lacks.
#[derive(Clone, Debug, Serialize)]
pub struct DiskFaults {
    /// The disk's name in the image.
    pub disk: String,
    /// Bytes that could not be read, and a disk that went away.
    #[serde(flatten)]
    pub faults: Faults,
}

/// How a run chose what to read of a disk.
#[derive(Clone, Debug, Serialize)]
pub struct DiskTracking {
    /// The disk's name in the image.
    pub disk: String,
    /// `changes`: only what was written since the last image; `clues`: the same by what its file
    /// systems say; `proof`: all, to prove what was
    /// marked; `all`.
    pub read: &'static str,
    /// Why all was read.
    pub reason: Option<String>,
    /// Bytes that were marked as written since the last image.
    pub marked_bytes: Option<u64>,
    /// Spans that had changed without being marked: an alarm.
    pub unmarked_spans: u64,
    /// Where the first of them lie, in bytes of the disk.
    pub unmarked: Vec<Range<u64>>,
}

impl DiskTracking {
    /// Of a disk, by what was believed of it.
    pub fn new(disk: &str, basis: &Basis, unmarked: Unmarked) -> Self {
        let (read, reason, marked) = match basis {
            Basis::Changed(grains) => ("changes", None, Some(grains)),
            Basis::Clues(grains) => ("clues", None, Some(grains)),
            Basis::Proof(grains) => ("proof", None, Some(grains)),
            Basis::Nothing(reason) => ("all", Some(reason.clone()), None),
        };
        Self {
            disk: disk.into(),
            read,
            reason,
            marked_bytes: marked.map(Grains::bytes),
            unmarked_spans: unmarked.count,
            unmarked: unmarked.ranges,
        }
    }
}

impl BackupReport {
    /// From the run's totals.
    pub fn new(
        server: ServerId,
        point: PointId,
        taken: Timestamp,
        totals: RunTotals,
        stored: u64,
        duration: Duration,
    ) -> Self {
        Self {
            server,
            point,
            taken,
            consistency: Consistency::Offline,
            held: Held::default(),
            disk_bytes: totals.disk,
            read_bytes: totals.read,
            changed_bytes: totals.changed,
            new_bytes: totals.new,
            sent_bytes: totals.sent,
            stored_bytes: stored,
            free_bytes: 0,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            tracking: Vec::new(),
            faults: Vec::new(),
            areas: Vec::new(),
        }
    }

    /// With how still the disks were held.
    pub fn with_consistency(self, consistency: Consistency, held: Held) -> Self {
        Self {
            consistency,
            held,
            ..self
        }
    }

    /// With what the images of these disks lack.
    pub fn with_faults<'a>(self, disks: impl Iterator<Item = (&'a str, Option<Faults>)>) -> Self {
        let faults = disks.filter_map(|(disk, faults)| {
            let (disk, faults) = (disk.to_string(), faults?);
            Some(DiskFaults { disk, faults })
        });
        Self {
            faults: faults.collect(),
            ..self
        }
    }

    /// With what was found on the disks.
    pub fn with_survey(self, survey: Survey) -> Self {
        Self {
            free_bytes: survey.free_bytes(),
            areas: survey.areas,
            ..self
        }
    }
}

impl fmt::Display for BackupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "recovery point {} of {}", self.point, self.taken)?;
        for (what, bytes) in [
            ("disk", self.disk_bytes),
            ("free", self.free_bytes),
            ("read", self.read_bytes),
            ("changed", self.changed_bytes),
            ("new", self.new_bytes),
            ("sent", self.sent_bytes),
            ("stored", self.stored_bytes),
        ] {
            writeln!(f, "  {what:<8} {:>12}", HumanBytes(bytes).to_string())?;
        }
        let seconds = Duration::from_millis(self.duration_ms).as_secs_f64();
        write!(f, "  {:<8} {seconds:>10.1} s", "took")?;
        write!(f, "\n  consistency: {}", self.consistency)?;
        if !self.held.frozen.is_empty() {
            let (count, ms) = (self.held.frozen.len(), self.held.freeze_ms);
            write!(f, ", {count} file systems frozen for {ms} ms")?;
        }
        for reason in &self.held.reasons {
            write!(f, "\n    {reason}")?;
        }
        for DiskFaults { disk, faults } in &self.faults {
            let bytes = HumanBytes(faults.unreadable_bytes());
            write!(f, "\n  {disk}: {bytes} could not be read and are zeros")?;
        }
        self.tracking
            .iter()
            .try_for_each(|disk| write!(f, "\n{disk}"))
    }
}

impl fmt::Display for DiskTracking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { disk, read, .. } = self;
        let marked = HumanBytes(self.marked_bytes.unwrap_or(0));
        match (&self.reason, *read) {
            (Some(reason), _) => write!(f, "  {disk}: all was read: {reason}")?,
            (None, "proof") => write!(f, "  {disk}: all was read, to prove what was marked")?,
            (None, "clues") => write!(
                f,
                "  {disk}: what btrfs does not prove unchanged was read, {marked}"
            )?,
            (None, _) => write!(f, "  {disk}: what was written since was read, {marked}")?,
        }
        match self.unmarked_spans {
            0 => Ok(()),
            count => {
                let ranges = self.unmarked.clone();
                write!(
                    f,
                    "; ALARM: {} had changed unmarked",
                    Unmarked { count, ranges }
                )
            }
        }
    }
}

/// An inventory for people.
pub struct InventoryPage<'a>(pub &'a Inventory);

impl fmt::Display for InventoryPage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let i = self.0;
        let mut line = |name: &str, mut value: String| {
            // An image's files may hold what a terminal would obey.
            value.retain(|c| !c.is_control());
            if value.is_empty() {
                Ok(())
            } else {
                writeln!(f, "{name:<12} {value}")
            }
        };
        line("host", i.hostname.clone())?;
        line("system", i.os.clone())?;
        line("kernel", i.kernel.clone())?;
        line("firmware", format!("{:?}", i.firmware).to_lowercase())?;
        line("hardware", i.product.clone())?;
        if i.cpus > 0 {
            line("processors", format!("{} × {}", i.cpus, i.cpu_model))?;
        }
        if i.memory > 0 {
            line("memory", HumanBytes(i.memory).to_string())?;
        }
        for disk in &i.disks {
            line("disk", disk_line(disk))?;
            for p in &disk.partitions {
                let size = HumanBytes(p.size).to_string();
                let label = p.label.as_deref().unwrap_or_default();
                line(
                    "",
                    format!("  {:>3} {size:>12} {:<8} {label}", p.number, p.file_system),
                )?;
            }
        }
        for mount in &i.mounts {
            line("mount", format!("{} on {}", mount.source, mount.target))?;
        }
        for interface in &i.interfaces {
            let addresses = interface.addresses.join(" ");
            line(
                "network",
                format!("{} {} {addresses}", interface.name, interface.mac),
            )?;
        }
        for route in &i.routes {
            if let Some(gateway) = &route.gateway {
                line("route", format!("{} by {gateway}", route.destination))?;
            }
        }
        line("dns", i.dns_servers.join(" "))?;
        line("services", i.services.join(" "))?;
        let ports: Vec<_> = i.listening_ports.iter().map(u16::to_string).collect();
        line("ports", ports.join(" "))?;
        i.load
            .iter()
            .flat_map(load_lines)
            .try_for_each(|text| line("load", text))
    }
}

fn load_lines(load: &Load) -> Vec<String> {
    let all = &load.all;
    let spread = |name: &str, spread: Spread, unit: &dyn Fn(u64) -> String| {
        let [mean, p95, max] = [spread.mean, spread.p95, spread.max].map(unit);
        format!("{name:<9} {mean:>12} {p95:>12} {max:>12}")
    };
    let bytes = |n: u64| HumanBytes(n).to_string();
    let rate = |n: u64| format!("{}/s", HumanBytes(n));
    let cpus = |n: u64| format!("{:.2} CPUs", n as f64 / 1000.0);
    let requests = |n: u64| format!("{n} IO/s");
    let hours = load.minutes as f64 / 60.0;
    vec![
        format!("{hours:.1} hours     mean          p95          max"),
        spread("cpu", all.cpu, &cpus),
        spread("memory", all.memory, &bytes),
        spread("reads", all.reads, &requests),
        spread("writes", all.writes, &requests),
        spread("read", all.read, &rate),
        spread("written", all.written, &rate),
        spread("received", all.received, &rate),
        spread("sent", all.sent, &rate),
    ]
}

fn disk_line(disk: &InventoryDisk) -> String {
    let size = HumanBytes(disk.size);
    let model = disk.model.as_deref().unwrap_or_default();
    format!("{} {size} {} {model}", disk.name, disk.table)
        .trim_end()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards an alarm against being overlooked by whoever does not read logs.
    #[test]
    fn people_are_told_what_was_read_and_of_alarms() {
        let of = |basis: &Basis, count| {
            let ranges = Vec::new();
            DiskTracking::new("sda", basis, Unmarked { count, ranges })
        };
        let mut disk = of(&Basis::Nothing("no BPF here".into()), 0);
        assert_eq!(disk.to_string(), "  sda: all was read: no BPF here");
        disk = of(&Basis::Changed(Grains::none(1 << 20)), 0);
        assert_eq!(
            disk.to_string(),
            "  sda: what was written since was read, 0 B"
        );
        disk = of(&Basis::Proof(Grains::none(1 << 20)), 2);
        assert!(disk.to_string().contains("ALARM: 2 spans"), "{disk}");
    }

    /// Guards the terminal of whoever looks at a stranger's image.
    #[test]
    fn what_an_image_says_does_not_command_the_terminal() {
        let inventory = Inventory {
            hostname: "\u{1b}[2Jweb1\u{9b}\u{7}".into(),
            ..Inventory::default()
        };
        let page = InventoryPage(&inventory).to_string();
        assert!(page.starts_with("host         [2Jweb1\n"), "{page:?}");
        assert!(!page.contains(|c: char| c.is_control() && c != '\n'));
    }
}
