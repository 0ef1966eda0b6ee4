//! Chunks in segments against chunks in a table: settled and merged after every few rows, or
//! never, the answers are the same.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use proptest::prelude::*;
use relevo_wire::{ChunkId, TenantId, Timestamp};

use super::{Catalogue, ChunkState, PackUse, Unreferenced};
use crate::index::Spot;
use crate::record::ChunkKind;
use crate::volume::PackId;

const TENANT: TenantId = TenantId::from_bytes([3; 16]);
const IDS: u8 = 60;
const PACKS: u32 = 5;

/// Every fourth is a node.
fn id(n: u8) -> ChunkId {
    ChunkId::from_bytes(*blake3::hash(&[n]).as_bytes())
}

fn children(n: u8) -> Vec<ChunkId> {
    match n.is_multiple_of(4) {
        true => (1..4).map(|more| id((n + more) % IDS)).collect(),
        false => Vec::new(),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Place(Vec<(u8, u32, u64)>),
    AddReferences(Vec<u8>),
    DropReferences(Vec<u8>),
    Forget(u32, u64, Vec<u8>),
    ForgetPack(u32),
    Collect(Vec<u8>),
    MarkComplete(Vec<u8>),
    OpenAgain,
}

fn step() -> impl Strategy<Value = Step> {
    let ids = || prop::collection::vec(0..IDS, 1..8);
    let places = prop::collection::vec((0..IDS, 1..PACKS, 0..50u64), 1..8);
    prop_oneof![
        6 => places.prop_map(Step::Place),
        3 => ids().prop_map(Step::AddReferences),
        3 => ids().prop_map(Step::DropReferences),
        1 => (1..PACKS, 0..50u64, ids()).prop_map(|(pack, to, ids)| Step::Forget(pack, to, ids)),
        1 => (1..PACKS).prop_map(Step::ForgetPack),
        3 => ids().prop_map(Step::Collect),
        2 => ids().prop_map(Step::MarkComplete),
        1 => Just(Step::OpenAgain),
    ]
}

fn open(path: &Path, settle_at: u64) -> Catalogue {
    let (catalogue, _) = Catalogue::open(path).unwrap();
    catalogue.remove_unnamed_segments().unwrap();
    catalogue.start_writing().unwrap();
    catalogue.set_settle_at(settle_at);
    catalogue
}

fn ids(numbers: &[u8]) -> Vec<ChunkId> {
    numbers.iter().map(|&n| id(n)).collect()
}

fn pack(number: u32) -> PackId {
    PackId {
        tenant: TENANT,
        number,
    }
}

fn offset(n: u64) -> u64 {
    8192 + 16 * n
}

fn take_step(catalogue: &Catalogue, step: &Step) {
    let far = Timestamp::from_millis(i64::MAX);
    let done = catalogue.transaction(|c| {
        let tenant = c.tenant_or_new(TENANT)?;
        match step {
            Step::Place(places) => {
                for &(n, pack, at) in places {
                    let place = Spot {
                        pack,
                        offset: offset(at),
                        length: 100,
                        kind: match n.is_multiple_of(4) {
                            true => ChunkKind::Node(0),
                            false => ChunkKind::Data,
                        },
                    };
                    if c.place_chunk(tenant, id(n), place)? {
                        c.add_references(tenant, children(n).into_iter())?;
                    }
                }
            }
            Step::AddReferences(of) => c.add_references(tenant, ids(of).into_iter())?,
            Step::DropReferences(of) => {
                c.drop_references(tenant, ids(of).into_iter(), Timestamp::now())?
            }
            Step::Forget(number, to, of) => {
                c.forget_chunks(pack(*number), 0..offset(*to), &ids(of))?;
            }
            Step::ForgetPack(number) => c.forget_pack(pack(*number))?,
            Step::Collect(of) => {
                let since = Timestamp::now();
                let one = |&n: &u8| (Unreferenced { since, id: id(n) }, children(n));
                let gone: Vec<_> = of.iter().map(one).collect();
                c.remove_unreferenced(TENANT, far, None, &gone)?;
            }
            Step::MarkComplete(of) => c.mark_complete(TENANT, c.epoch()?, &ids(of))?,
            Step::OpenAgain => {}
        }
        Ok::<_, crate::error::StoreError>(())
    });
    done.unwrap();
}

type Answers = (
    Vec<ChunkState>,
    Vec<PackUse>,
    Vec<ChunkId>,
    Vec<Vec<ChunkId>>,
    Vec<u64>,
);

fn answers(catalogue: &Catalogue) -> Answers {
    let all: Vec<ChunkId> = (0..IDS).map(id).collect();
    let states = catalogue.states(TENANT, &all).unwrap();
    let located = catalogue.locate(TENANT, &all).unwrap();
    assert!(states.iter().map(|state| state.place).eq(located));
    let far = Timestamp::from_millis(i64::MAX);
    let unreferenced = catalogue.unreferenced(TENANT, far, None, 1000).unwrap();
    let mut unreferenced: Vec<ChunkId> = unreferenced.iter().map(|one| one.id).collect();
    unreferenced.sort_unstable();
    let packs: Vec<PackId> = (1..PACKS).map(pack).collect();
    let within = packs.iter().map(|&pack| {
        let within = catalogue.chunks_within(pack, offset(10)..offset(30));
        within.unwrap()
    });
    let limits: Vec<_> = packs.iter().map(|&pack| (pack, offset(40))).collect();
    (
        states,
        catalogue.pack_use(TENANT).unwrap(),
        unreferenced,
        within.collect(),
        catalogue.chunk_counts(&limits).unwrap(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]
    #[test]
    fn settling_and_merging_change_no_answer(steps in prop::collection::vec(step(), 1..40)) {
        let memory = Path::new("/dev/shm");
        let dir = || match memory.is_dir() {
            true => tempfile::tempdir_in(memory).unwrap(),
            false => tempfile::tempdir().unwrap(),
        };
        let (own, plain) = (dir(), dir());
        let own = own.path().join("c.sqlite");
        let mut settling = open(&own, 5);
        let keeping = open(&plain.path().join("c.sqlite"), u64::MAX);
        // Another process's: it meets merges at any moment.
        let (beside, _) = Catalogue::open(&own).unwrap();
        for step in steps {
            if let Step::OpenAgain = step {
                drop(settling);
                settling = open(&own, 5);
            }
            take_step(&settling, &step);
            take_step(&keeping, &step);
            let expected = answers(&keeping);
            prop_assert_eq!(&answers(&settling), &expected, "{:?}", step);
            prop_assert_eq!(&answers(&beside), &expected, "beside: {:?}", step);
        }
        prop_assert!(keeping.segment_records(TENANT).unwrap().is_empty());
    }
}
