//! What was measured, beside what is aimed at.

use std::collections::BTreeMap;

use crate::measured::Cost;

/// The tool that is held against the others.
const OURS: &str = "relevo";

/// What makes a figure a good one.
#[derive(Clone, Copy, PartialEq)]
pub enum Aim {
    /// At least so many times the best peer.
    Times(f64),
    /// The best peer takes at least so many times as long.
    Faster(f64),
    /// No more than the best peer.
    AtMost,
    /// Below the best peer.
    Below,
    /// Above the best peer.
    Above,
    /// Nothing is promised.
    Shown,
}

/// A figure: its name, its unit, and what is aimed at.
pub type Row = (String, &'static str, Aim);

/// All values of each figure and tool.
pub struct Figures {
    /// In the order of the report.
    rows: Vec<Row>,
    values: BTreeMap<(String, &'static str), Vec<f64>>,
}

impl Figures {
    /// None yet of these rows.
    pub fn new(rows: Vec<Row>) -> Self {
        Self {
            rows,
            values: BTreeMap::new(),
        }
    }

    /// One more value.
    pub fn add(&mut self, tool: &'static str, name: &str, value: f64) {
        self.values
            .entry((name.into(), tool))
            .or_default()
            .push(value);
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
        let ((_, _), values) = self
            .values
            .iter()
            .find(|((n, t), _)| n == name && *t == tool)?;
        let mut values = values.clone();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// All tools in a table, then one line for each figure of ours.
    pub fn print(&self) {
        let mut tools: Vec<&str> = self.values.keys().map(|(_, tool)| *tool).collect();
        tools.sort_unstable();
        tools.dedup();
        print!("\n{:28} {:>5}", "median", "");
        for tool in &tools {
            print!(" {tool:>9}");
        }
        println!();
        for (name, unit, _) in &self.rows {
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
        for (name, unit, aim) in self
            .rows
            .iter()
            .filter(|row| !row.0.ends_with("_processor"))
        {
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
                (Aim::Faster(n), Some((_, best))) => (
                    format!("best peer takes {n:.0} x as long"),
                    Some(value * n <= best),
                ),
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
