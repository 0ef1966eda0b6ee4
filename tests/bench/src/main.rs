//! Measures Relevo: `relevo-bench vault`, `agent` or `chunking`, each a target of make.
//!
//! `RELEVO_BENCH_DIR` names another place for the files (default: `target/bench`),
//! `RELEVO_BENCH_ROUNDS` another number of rounds (default: 3), `RELEVO_BENCH_SIZE` another size of
//! the disks that the agent images (default: 4G).

mod agent;
mod chunking;
mod figures;
mod measured;
mod repository;
mod site;
mod vault;

use std::path::PathBuf;

fn main() {
    let which = std::env::args().nth(1).unwrap_or_default();
    let run: fn(&Settings) = match which.as_str() {
        "vault" => vault::run,
        "agent" => agent::run,
        "chunking" => chunking::run,
        _ => {
            eprintln!("error: no such measurement\nremedy: relevo-bench vault, agent or chunking");
            std::process::exit(64);
        }
    };
    let settings = Settings::read();
    let dir = &settings.dir;
    let _ = std::fs::remove_dir_all(dir);
    let made = std::fs::create_dir_all(dir);
    made.unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    run(&settings);
    let _ = std::fs::remove_dir_all(dir);
}

/// What the environment says.
struct Settings {
    /// Where all files are.
    dir: PathBuf,
    /// How often all is measured.
    rounds: usize,
    /// Bytes of a disk, where that can be chosen.
    size: u64,
}

impl Settings {
    fn read() -> Self {
        let dir = std::env::var_os("RELEVO_BENCH_DIR").map_or_else(
            || relevo_tests::binaries::source_root().join("target/bench"),
            PathBuf::from,
        );
        let text = |name| std::env::var(name).ok();
        let rounds = text("RELEVO_BENCH_ROUNDS").and_then(|text| text.parse().ok());
        let size = text("RELEVO_BENCH_SIZE").map(|text| {
            size_of(&text).unwrap_or_else(|| {
                eprintln!(
                    "error: RELEVO_BENCH_SIZE={text} is no size\n\
                     remedy: give a number of MiB or GiB, as 1200M or 4G"
                );
                std::process::exit(64)
            })
        });
        Self {
            dir,
            rounds: rounds.unwrap_or(3).max(1),
            size: size.unwrap_or(4 << 30),
        }
    }
}

/// A size such as 1200M or 4G.
fn size_of(text: &str) -> Option<u64> {
    let unit = match text.as_bytes().last()? {
        b'M' => 1 << 20,
        b'G' => 1 << 30,
        _ => return None,
    };
    text[..text.len() - 1]
        .parse::<u64>()
        .ok()?
        .checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a disk of another size than was asked for.
    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(size_of("1200M"), Some(1200 << 20));
        assert_eq!(size_of("4G"), Some(4 << 30));
        for text in ["", "4", "G", "4 G", "-1G", "99999999999G", "1T"] {
            assert_eq!(size_of(text), None, "{text}");
        }
    }
}
