//! Seeds by the thousand: a process for each processor, since a world's time and randomness
//! belong to its process.

use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, Stdio};

use crate::life::live;

/// Worlds of a run when nobody says otherwise.
const SEEDS: u64 = 10_000;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many worlds.
    pub seeds: u64,
    /// The first one's seed.
    pub from: u64,
    /// This one only.
    pub seed: Option<u64>,
    /// Show what happens.
    pub trace: bool,
    /// Which of the processes this is, and of how many.
    pub worker: Option<(u64, u64)>,
    /// Live each world twice and say the hashes.
    pub twice: bool,
}

impl Options {
    /// Takes its own options; the rest is the test runner's.
    pub fn from_args() -> (Self, Vec<String>) {
        let seeds = std::env::var("RELEVO_SEEDS").ok().map(|text| number(&text));
        let mut options = Self {
            seeds: seeds.unwrap_or(SEEDS),
            from: 0,
            seed: None,
            trace: false,
            worker: None,
            twice: false,
        };
        let mut rest = Vec::new();
        let mut arguments = std::env::args();
        rest.extend(arguments.next());
        while let Some(argument) = arguments.next() {
            let mut value = || number(&arguments.next().unwrap_or_default());
            match argument.as_str() {
                "--seeds" => options.seeds = value(),
                "--from" => options.from = value(),
                "--seed" => options.seed = Some(value()),
                "--worker" => options.worker = Some((value(), value())),
                "--trace" => options.trace = true,
                "--twice" => options.twice = true,
                _ => rest.push(argument),
            }
        }
        (options, rest)
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| {
        eprintln!("error: '{text}' is no number\nremedy: --seeds N, --from S or --seed S");
        std::process::exit(2)
    })
}

/// How to see a world again.
fn replay_command(seed: u64) -> String {
    format!("cargo test -p relevo-tests --test simulation -- --seed {seed} --trace")
}

/// Lives one world, in view.
pub fn replay(seed: u64, trace: bool) {
    if trace {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .without_time()
            .with_max_level(tracing::Level::WARN)
            .init();
    }
    one_processor();
    let (hash, events) = live(seed, trace);
    println!("seed {seed}: {events} events, {hash}");
}

/// A process's share of the seeds. One line to standard output for each world.
pub fn work(options: &Options, (number, of): (u64, u64)) {
    one_processor();
    let mut out = std::io::stdout();
    for at in (number..options.seeds).step_by(of as usize) {
        let seed = options.from + at;
        let lived = catch_unwind(AssertUnwindSafe(|| {
            let first = live(seed, false);
            match options.twice {
                true => (live(seed, false) == first).then_some(first),
                false => Some(first),
            }
        }));
        let line = match lived {
            Ok(Some((hash, _))) => format!("lived {seed} {hash}"),
            Ok(None) => format!("failed {seed} it lives another world the second time"),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).into()));
                format!(
                    "failed {seed} {}",
                    text.unwrap_or_default().replace('\n', " ")
                )
            }
        };
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

/// What scans packs on all processors does so on one: the order of its steps is then the same
/// every time.
fn one_processor() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(all) = sched_getaffinity(None) else {
        return;
    };
    let number = std::process::id() as usize % all.count().max(1) as usize;
    let there = (0..CpuSet::MAX_CPU)
        .filter(|cpu| all.is_set(*cpu))
        .nth(number);
    let mut one = CpuSet::new();
    one.set(there.unwrap_or(0));
    let _ = sched_setaffinity(None, &one);
}

fn start(options: &Options, number: u64, of: u64) -> Child {
    let program = std::env::current_exe().unwrap_or_else(|e| panic!("{e}"));
    let mut command = Command::new(program);
    command
        .args(["--seeds", &options.seeds.to_string()])
        .args(["--from", &options.from.to_string()])
        .args(["--worker", &number.to_string(), &of.to_string()])
        .args(options.twice.then_some("--twice"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command.spawn().unwrap_or_else(|e| panic!("{e}"))
}

/// Lives all worlds asked for.
pub fn all(options: &Options) -> Result<(), String> {
    let of = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let of = of.min(options.seeds).max(1);
    let workers = (0..of)
        .map(|number| start(options, number, of))
        .collect::<Vec<_>>();
    let mut failures = Vec::new();
    let mut lived = 0;
    std::thread::scope(|scope| {
        let readers: Vec<_> = workers
            .into_iter()
            .enumerate()
            .map(|(number, worker)| scope.spawn(move || listen(worker, number as u64)))
            .collect();
        for reader in readers {
            let (count, failed) = reader
                .join()
                .unwrap_or_else(|e| std::panic::resume_unwind(e));
            lived += count;
            failures.extend(failed.into_iter().map(|(at, text)| match at {
                Ok(seed) => (seed, text),
                // It ended without a word: the world after its last one is to blame.
                Err((number, done)) => (options.from + number + done * of, text),
            }));
        }
    });
    failures.sort();
    match failures.first() {
        None if lived == options.seeds => Ok(()),
        None => Err(format!("{lived} of {} worlds were lived", options.seeds)),
        Some((seed, text)) => Err(format!(
            "{} of {} worlds failed; the first, seed {seed}: {text}\nreplay: {}",
            failures.len(),
            options.seeds,
            replay_command(*seed)
        )),
    }
}

type Failed = (Result<u64, (u64, u64)>, String);

/// Reads what a worker says: how many worlds were lived, and which failed.
fn listen(mut worker: Child, number: u64) -> (u64, Vec<Failed>) {
    let (mut lived, mut failed) = (0, Vec::new());
    let lines = worker.stdout.take().map(BufReader::new);
    for line in lines
        .into_iter()
        .flat_map(BufRead::lines)
        .map_while(Result::ok)
    {
        let mut words = line.splitn(3, ' ');
        let (kind, seed) = (words.next(), words.next().and_then(|s| s.parse().ok()));
        match (kind, seed) {
            (Some("lived"), Some(_)) => lived += 1,
            (Some("failed"), Some(seed)) => {
                failed.push((Ok(seed), words.next().unwrap_or_default().into()));
            }
            _ => {}
        }
    }
    match worker.wait() {
        Ok(status) if status.success() => {}
        other => {
            let done = lived + failed.len() as u64;
            failed.push((Err((number, done)), format!("its process ended: {other:?}")));
        }
    }
    (lived, failed)
}

/// Lives some worlds twice.
pub fn same_twice(seeds: u64) -> Result<(), String> {
    all(&Options {
        seeds,
        from: 0,
        seed: None,
        trace: false,
        worker: None,
        twice: true,
    })
}
