//! Whole images over a line, by the programs themselves.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use relevo_tests::disks::{noise, sparse};
use relevo_tests::lab::Lab;
use relevo_tests::line::{Line, LineSettings};
use relevo_tests::program::Running;

/// Seconds that an image takes of a line at least.
const SECONDS: u64 = 15;

/// Images a disk of noise over lines that lose one packet in a thousand, and prints the share of
/// the line that the whole run used and the memory that the agent took.
pub fn measure() {
    for megabits in [20, 100, 300] {
        let settings = LineSettings {
            loss: 1000,
            ..LineSettings::long(megabits * 1_000_000)
        };
        let lab = Lab::new();
        let vault: SocketAddr = lab.address().parse().unwrap_or_else(|e| panic!("{e}"));
        let line = Line::to(vault, settings);
        lab.enroll_agent_at("db1", &line.address().to_string());
        let disk = lab.path("disk.raw");
        let bytes = settings.rate / 8 * SECONDS;
        let file = sparse(&disk, bytes.next_multiple_of(4096));
        for (number, at) in (0..bytes).step_by(16 << 20).enumerate() {
            noise(
                &file,
                at,
                (bytes - at).min(16 << 20) as usize,
                number as u64 + 1,
            );
        }
        drop(file);
        let (took, memory) = run(&lab, &disk);
        let share = 100.0 * bytes as f64 * 8.0 / (settings.rate as f64 * took.as_secs_f64());
        let verdict = |met| if met { "met" } else { "missed" };
        println!(
            "figure: image-{megabits}-mbit-0.1-percent {share:.1} % (target 80, {})",
            verdict(share >= 80.0)
        );
        println!(
            "figure: image-{megabits}-mbit-memory {memory:.1} MiB (target 64, {})",
            verdict(memory <= 64.0)
        );
    }
}

/// Wall time of a first image, and the agent's largest resident set in MiB.
fn run(lab: &Lab, disk: &Path) -> (Duration, f64) {
    let start = Instant::now();
    let mut agent = Running::start(lab.backup_command("db1", disk));
    let peak = agent.peak_memory();
    let took = start.elapsed();
    let (code, out) = agent.wait();
    assert_eq!(code, 0, "{out}");
    (took, peak as f64 / 1024.0)
}
