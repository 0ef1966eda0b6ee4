#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn vault() -> VaultId {
    VaultId::from_bytes([3; 16])
}

/// A log of this many entries in small files.
fn log(dir: &Path, entries: u64) -> Audit {
    let audit = Audit::open_rolling(dir, vault(), 1000);
    for number in 0..entries {
        let event = Event::new("local", Act::Held, format!("point {number}"))
            .of(TenantId::from_bytes([number as u8 % 2; 16]));
        audit.record(&event).unwrap();
    }
    audit
}

fn paths(dir: &Path) -> Vec<PathBuf> {
    let path = dir.join("audit");
    files(&path)
        .unwrap()
        .into_iter()
        .map(|n| path.join(name(n)))
        .collect()
}

fn anchor(audit: &Audit) -> Anchor {
    let head = audit.head();
    Anchor {
        entries: head.entries,
        hash: head.hash,
    }
}

/// Guards the chain through files, processes and restarts.
#[test]
fn the_chain_goes_on_through_files_processes_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let one = log(dir.path(), 5);
    let other = Audit::open_rolling(dir.path(), vault(), 1000);
    for _ in 0..5 {
        for audit in [&one, &other] {
            audit.record(&Event::new("x", Act::Revoked, "y")).unwrap();
        }
    }
    assert!(paths(dir.path()).len() > 2);
    let checked = check(dir.path(), vault(), &[anchor(&other)]).unwrap();
    assert_eq!((checked.entries, checked.faults), (15, vec![]));
    // Each knows what the other wrote.
    assert_eq!(one.head(), other.head());
    let again = Audit::open(dir.path(), vault());
    assert_eq!(again.head(), other.head());
    // Another vault's log does not pass for this one's.
    let foreign = check(dir.path(), VaultId::from_bytes([4; 16]), &[]).unwrap();
    assert!(!foreign.faults.is_empty());
}

/// Guards tenants from seeing each other's entries.
#[test]
fn a_tenant_is_given_its_own_entries_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let audit = log(dir.path(), 40);
    let tenant = TenantId::from_bytes([1; 16]);
    let all = audit.entries(tenant, 0).unwrap();
    assert_eq!(all.len(), 20);
    assert!(all.iter().all(|e| e.sequence % 2 == 0));
    let rest = audit.entries(tenant, all[9].sequence).unwrap();
    assert_eq!(rest, all[10..]);
    for after in [40, u64::MAX] {
        assert!(audit.entries(tenant, after).unwrap().is_empty());
    }
}

/// Guards against a crash in the middle of a line.
#[test]
fn an_unfinished_line_is_cut_off_and_said() {
    let dir = tempfile::tempdir().unwrap();
    drop(log(dir.path(), 3));
    let last = paths(dir.path()).pop().unwrap();
    let text = fs::read(&last).unwrap();
    fs::write(&last, &text[..text.len() - 1]).unwrap();
    let checked = check(dir.path(), vault(), &[]).unwrap();
    assert!(
        checked.faults[0].reason.contains("unfinished"),
        "{checked:?}"
    );
    let audit = Audit::open(dir.path(), vault());
    let checked = check(dir.path(), vault(), &[anchor(&audit)]).unwrap();
    assert_eq!((checked.entries, checked.faults), (3, vec![]));
    let text = fs::read_to_string(paths(dir.path()).pop().unwrap()).unwrap();
    assert!(text.contains("audit-repaired"), "{text}");
}

/// Guards against a forger who knows how entries are made: what the packs know stays true.
#[test]
fn a_log_written_anew_or_cut_short_is_found_by_what_the_packs_know() {
    let dir = tempfile::tempdir().unwrap();
    let audit = log(dir.path(), 6);
    let known = anchor(&audit);
    fs::remove_dir_all(dir.path().join("audit")).unwrap();
    let gone = check(dir.path(), vault(), std::slice::from_ref(&known)).unwrap();
    assert!(gone.faults[0].reason.contains("cut off"), "{gone:?}");
    let forged = Audit::open(dir.path(), vault());
    for _ in 0..8 {
        forged
            .record(&Event::new("nobody", Act::Held, "x"))
            .unwrap();
    }
    let checked = check(dir.path(), vault(), &[known]).unwrap();
    assert_eq!(checked.faults.len(), 1);
    assert!(checked.faults[0].reason.contains("anew"), "{checked:?}");
}

/// What somebody does to a log.
#[derive(Clone, Debug)]
enum Tampering {
    Byte(usize, u8),
    Drop(usize),
    Repeat(usize, usize),
    Swap(usize, usize),
    Cut(usize),
    Insert(usize, Vec<u8>),
}

fn tampering() -> impl Strategy<Value = Tampering> {
    let at = any::<usize>();
    prop_oneof![
        (at, 1..=255u8).prop_map(|(at, change)| Tampering::Byte(at, change)),
        at.prop_map(Tampering::Drop),
        (at, any::<usize>()).prop_map(|(a, b)| Tampering::Repeat(a, b)),
        (at, any::<usize>()).prop_map(|(a, b)| Tampering::Swap(a, b)),
        at.prop_map(Tampering::Cut),
        (at, proptest::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, bytes)| Tampering::Insert(at, bytes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Guards the log: whatever is changed, dropped, inserted or moved is found and named.
    #[test]
    fn any_tampering_is_found(change in tampering()) {
        let dir = tempfile::tempdir().unwrap();
        let audit = log(dir.path(), 12);
        let anchors = [anchor(&audit)];
        let clean = check(dir.path(), vault(), &anchors).unwrap();
        prop_assert_eq!(clean.faults, vec![]);
        let paths = paths(dir.path());
        let texts: Vec<Vec<u8>> = paths.iter().map(|p| fs::read(p).unwrap()).collect();
        let all = texts.concat();
        let mut lines: Vec<Vec<u8>> =
            all.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        let count = lines.len();
        match change {
            Tampering::Byte(at, change) => {
                let mut changed = all.clone();
                changed[at % all.len()] ^= change;
                lines = vec![changed];
            }
            Tampering::Drop(at) => drop(lines.remove(at % count)),
            Tampering::Repeat(from, to) => lines.insert(to % count, lines[from % count].clone()),
            Tampering::Swap(a, b) => {
                prop_assume!(a % count != b % count);
                lines.swap(a % count, b % count);
            }
            Tampering::Cut(at) => lines = vec![all[..at % all.len()].to_vec()],
            Tampering::Insert(at, bytes) => {
                let mut longer = all.clone();
                let at = at % all.len();
                longer.splice(at..at, bytes);
                lines = vec![longer];
            }
        }
        // All in one file: how the lines are spread over files says nothing.
        for path in &paths[1..] {
            fs::remove_file(path).unwrap();
        }
        fs::write(&paths[0], lines.concat()).unwrap();
        let checked = check(dir.path(), vault(), &anchors).unwrap();
        prop_assert!(!checked.faults.is_empty());
        prop_assert!(checked.faults.iter().all(|f| !f.to_string().is_empty()));
    }
}

/// Guards backups and restores: a log that cannot be read keeps no vault from opening. It refuses
/// what it must tell, with the remedy, and goes on when that was done.
#[test]
fn a_log_that_cannot_be_read_refuses_and_goes_on_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let whole = log(dir.path(), 3).head();
    let file = paths(dir.path()).pop().unwrap();
    let aside = dir.path().join("aside");
    std::fs::rename(&file, &aside).unwrap();
    std::fs::create_dir(&file).unwrap();
    let audit = Audit::open_rolling(dir.path(), vault(), 1000);
    let event = Event::new("local", Act::Held, "point");
    for refused in [audit.ready().err(), audit.record(&event).err()] {
        let error = refused.unwrap();
        assert!(error.to_string().contains("00000001.jsonl"), "{error}");
        assert!(error.remedy().contains("copy"), "{}", error.remedy());
    }
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    audit.ready().unwrap();
    assert_eq!(audit.record(&event).unwrap().entries, whole.entries + 1);
    assert!(check(dir.path(), vault(), &[]).unwrap().faults.is_empty());
}
