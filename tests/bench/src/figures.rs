//! What was measured, beside what is aimed at.

use std::collections::BTreeMap;

use crate::measured::Cost;

/// The tool that is held against the others.
const OURS: &str = "relevo";

/// What makes a figure a good one.
#[derive(Clone, Copy, PartialEq)]
enum Aim {
    /// At least so many times the best peer.
    Times(f64),
    /// No more than the best peer.
    AtMost,
    /// Below the best peer.
    Below,
    /// Above the best peer.
    Above,
    /// Nothing is promised.
    Shown,
}

/// Name, unit, and what is aimed at, in the order of the report.
const ROWS: &[(&str, &str, Aim)] = &[
    ("first_ingest", "MB/s", Aim::Times(2.0)),
    ("first_ingest_processor", "s", Aim::Shown),
    ("second_ingest", "MB/s", Aim::Shown),
    ("second_ingest_processor", "s", Aim::Shown),
    ("alike_ingest", "MB/s", Aim::Shown),
    ("stored_first", "MB", Aim::AtMost),
    ("stored_second", "MB", Aim::AtMost),
    ("stored_3_servers", "MB", Aim::AtMost),
    ("restore_1_stream", "MB/s", Aim::Times(3.0)),
    ("restore_1_stream_processor", "s", Aim::Shown),
    ("restore_3_streams", "MB/s", Aim::Times(3.0)),
    ("restore_3_streams_processor", "s", Aim::Shown),
    ("verify", "MB/s", Aim::Above),
    ("verify_processor", "s", Aim::Shown),
    ("collect", "s", Aim::Below),
    ("stored_collected", "MB", Aim::AtMost),
    ("memory_ingest", "MiB", Aim::Below),
    ("memory_restore", "MiB", Aim::Below),
    ("memory_verify", "MiB", Aim::Below),
    ("memory_collect", "MiB", Aim::Below),
];

/// All values of each figure and tool.
#[derive(Default)]
pub struct Figures(BTreeMap<(String, &'static str), Vec<f64>>);

impl Figures {
    fn add(&mut self, tool: &'static str, name: &str, value: f64) {
        self.0.entry((name.into(), tool)).or_default().push(value);
    }

    /// Bytes in a time, and the processor time it took.
    pub fn rate(&mut self, tool: &'static str, name: &str, bytes: u64, cost: Cost) {
        self.add(tool, name, bytes as f64 / 1e6 / cost.time.as_secs_f64());
        let processor = format!("{name}_processor");
        self.add(tool, &processor, cost.processor.as_secs_f64());
    }

    /// A time.
    pub fn time(&mut self, tool: &'static str, name: &str, cost: Cost) {
        self.add(tool, name, cost.time.as_secs_f64());
    }

    /// Bytes of a repository.
    pub fn amount(&mut self, tool: &'static str, name: &str, bytes: u64) {
        self.add(tool, name, bytes as f64 / 1e6);
    }

    /// Memory that a run had.
    pub fn memory(&mut self, tool: &'static str, name: &str, cost: Cost) {
        self.add(tool, name, cost.memory as f64 / f64::from(1 << 20));
    }

    fn median(&self, name: &str, tool: &str) -> Option<f64> {
        let ((_, _), values) = self.0.iter().find(|((n, t), _)| n == name && *t == tool)?;
        let mut values = values.clone();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// All tools in a table, then one line for each figure of ours.
    pub fn print(&self) {
        let mut tools: Vec<&str> = self.0.keys().map(|(_, tool)| *tool).collect();
        tools.sort_unstable();
        tools.dedup();
        print!("\n{:28} {:>5}", "median", "");
        for tool in &tools {
            print!(" {tool:>9}");
        }
        println!();
        for (name, unit, _) in ROWS {
            print!("{name:28} {unit:>5}");
            for tool in &tools {
                match self.median(name, tool) {
                    Some(value) => print!(" {:>9}", shown(value)),
                    None => print!(" {:>9}", "-"),
                }
            }
            println!();
        }
        println!();
        for (name, unit, aim) in ROWS.iter().filter(|row| !row.0.ends_with("_processor")) {
            let Some(value) = self.median(name, OURS) else {
                println!("figure: {name} none {unit} (not measured)");
                continue;
            };
            let highest = unit.ends_with("/s");
            let peer = tools
                .iter()
                .filter(|tool| **tool != OURS)
                .filter_map(|tool| self.median(name, tool).map(|value| (*tool, value)))
                .reduce(|a, b| if (b.1 > a.1) == highest { b } else { a });
            let (target, met) = match (aim, peer) {
                (_, None) => ("none without a peer".into(), None),
                (Aim::Shown, _) => ("none".into(), None),
                (Aim::Times(n), Some((_, best))) => {
                    (format!("{n:.1} x best peer"), Some(value >= n * best))
                }
                (Aim::AtMost, Some((_, best))) => ("at most best peer".into(), Some(value <= best)),
                (Aim::Below, Some((_, best))) => ("below best peer".into(), Some(value < best)),
                (Aim::Above, Some((_, best))) => ("above best peer".into(), Some(value > best)),
            };
            let verdict = match met {
                Some(true) => ", met",
                Some(false) => ", missed",
                None => "",
            };
            let peer = peer.map_or_else(String::new, |(tool, best)| {
                format!("; peer {tool} {}", shown(best))
            });
            println!(
                "figure: {name} {} {unit} (target {target}{verdict}{peer})",
                shown(value)
            );
        }
    }
}

/// Three digits say enough.
fn shown(value: f64) -> String {
    match value {
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}
