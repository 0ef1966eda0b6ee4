//! How much of a long line an upload gets: `make bench-line`.
//!
//! Through the delaying, dropping proxy of the tests ([`relevo_tests::line`]): 150 ms there and
//! back, a router that holds 100 ms, packets of at most 1500 bytes. What a figure means:
//!
//! * *Transfers*: chunks on twelve streams, as puts are, between two endpoints with the settings of
//!   agent and vault. Share of the line is what the receiver read in ten seconds, from the third
//!   second on, of what the line carries with all headers: some 95 % can be had at most. In the
//!   same run, the same with Cubic, New Reno and quinn's BBR.
//! * *Beside others*: two transfers at once on one line.
//! * *Images*: whole runs of agent and vault, from the agent's start to its end, of a disk that
//!   does not compress; the largest resident set of the agent.
//!
//! `relevo-bench-line images` and `… transfers` measure a part.
//! `RELEVO_BENCH_SECONDS` sets another length of transfers (default: 10).

mod image;
mod transfer;

use std::time::Duration;

use relevo_tests::line::LineSettings;

use transfer::{Control, measure, raw};

const TARGET: f64 = 80.0;

fn main() {
    match std::env::args().nth(1).as_deref() {
        None => {
            transfers();
            image::measure();
        }
        Some("transfers") => transfers(),
        Some("images") => image::measure(),
        Some(_) => {
            eprintln!("error: no such part\nremedy: relevo-bench-line [transfers|images]");
            std::process::exit(64);
        }
    }
}

fn transfers() {
    let seconds = std::env::var("RELEVO_BENCH_SECONDS").ok();
    let seconds = seconds.and_then(|s| s.parse().ok()).unwrap_or(10);
    let time = Duration::from_secs(seconds);

    let carried = raw(LineSettings::long(300_000_000), time);
    println!("figure: line-raw-300-mbit {carried:.1} %");
    for megabits in [20, 100, 300] {
        for (name, loss) in [("0", 0), ("0.1", 1000), ("1", 10_000)] {
            let settings = LineSettings {
                loss,
                ..LineSettings::long(megabits * 1_000_000)
            };
            let of = |control| measure(settings, &[control], time)[0];
            let ours = of(Control::Relevo);
            let peers = [Control::Cubic, Control::NewReno, Control::Bbr];
            let peers: Vec<_> = peers.iter().map(|&peer| (peer.name(), of(peer))).collect();
            let verdict = if ours >= TARGET { "met" } else { "missed" };
            let target = format!("target {TARGET:.0}, {verdict}; ");
            let beside: Vec<_> = peers
                .iter()
                .map(|(name, share)| format!("peer {name} {share:.1}"))
                .collect();
            println!(
                "figure: line-{megabits}-mbit-{name}-percent {ours:.1} % ({target}{})",
                beside.join(", ")
            );
        }
    }
    for (name, pair) in [
        ("cubic", [Control::Relevo, Control::Cubic]),
        ("relevo", [Control::Relevo, Control::Relevo]),
    ] {
        let shares = measure(LineSettings::long(100_000_000), &pair, time * 3);
        println!(
            "figure: line-100-mbit-beside-{name} {:.1} % (peer {name} {:.1})",
            shares[0], shares[1]
        );
    }
}
