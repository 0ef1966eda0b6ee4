//! Every kept input, and mutants of them, against each target. A breach is a panic, whose message
//! names the input: put it into the corpus when the code is mended.
//!
//! `RELEVO_FUZZ_ROUNDS=1000000 cargo test -p relevo-fuzz NAME` runs longer,
//! `RELEVO_FUZZ_SEED=N` from another seed.

use relevo_fuzz::{corpus, mutate, target};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn replay(name: &str) {
    let Some(target) = target(name) else {
        panic!("no target {name}")
    };
    let kept = corpus::inputs(name);
    assert!(!kept.is_empty(), "the corpus of {name} is empty");
    let against = |what: String, input: &[u8]| {
        let run = std::panic::AssertUnwindSafe(|| (target.run)(input));
        if std::panic::catch_unwind(run).is_err() {
            let file = std::env::temp_dir().join(format!("relevo-fuzz-{name}"));
            let _ = std::fs::write(&file, input);
            panic!(
                "{name}, {what} (kept in {}): broken is what it guards: {}",
                file.display(),
                target.guards
            );
        }
    };
    for (file, input) in &kept {
        against(format!("kept input {file}"), input);
    }
    let inputs: Vec<_> = kept.into_iter().map(|(_, input)| input).collect();
    let first = number("RELEVO_FUZZ_SEED").unwrap_or(1);
    let rounds = number("RELEVO_FUZZ_ROUNDS").unwrap_or(target.rounds);
    for seed in first..first.saturating_add(rounds) {
        against(
            format!("RELEVO_FUZZ_SEED={seed}"),
            &mutate::mutant(&inputs, seed),
        );
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        /// Guards against a target that nobody runs.
        #[test]
        fn every_target_is_run() {
            let run = [$(stringify!($name)),*];
            assert!(relevo_fuzz::TARGETS.iter().map(|target| target.name).eq(run));
        }
    };
}

targets! { message node chunk pack segment rebuild disk }
