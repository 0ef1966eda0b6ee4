//! The index against a map: whatever the layers and the merges, the same answers.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use relevo_wire::{ChunkId, TenantId};

use super::layout::{BLOCK_RECORDS, GROUP_RECORDS};
use super::*;
use crate::record::ChunkKind;

/// Half of the ids begin alike, as only a hostile agent's would.
fn id(n: u16) -> ChunkId {
    let mut id = *blake3::hash(&n.to_le_bytes()).as_bytes();
    if n.is_multiple_of(2) {
        id[..8].copy_from_slice(b"just the");
    }
    if n.is_multiple_of(4) {
        id[8..31].copy_from_slice(b"same in all but the end");
        id[31] = (n / 4) as u8;
    }
    ChunkId::from_bytes(id)
}

fn spot(n: u32) -> Spot {
    Spot {
        pack: n.max(1),
        offset: 16 * u64::from(n),
        length: n % (1 << 24),
        kind: match n % 3 {
            0 => ChunkKind::Data,
            level => ChunkKind::Node(level as u8),
        },
    }
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        2 => Just(Place::Unchanged),
        1 => Just(Place::Removed),
        1 => (0..7u8).prop_map(|level| Place::Lost(ChunkKind::Node(level))),
        3 => any::<u32>().prop_map(|n| Place::At(spot(n))),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Layer(BTreeMap<u16, (Place, i32)>),
    /// Merge neighbours: from which, how many.
    Merge(prop::sample::Index, prop::sample::Index),
    /// Merge what the rule says.
    Tidy,
}

fn step() -> impl Strategy<Value = Step> {
    let change = (place(), -3..4i32);
    prop_oneof![
        4 => prop::collection::btree_map(0..700u16, change, 1..300).prop_map(Step::Layer),
        1 => (any::<prop::sample::Index>(), any::<prop::sample::Index>())
            .prop_map(|(from, count)| Step::Merge(from, count)),
        1 => Just(Step::Tidy),
    ]
}

struct World<'a> {
    dir: &'a Path,
    tenant: TenantId,
    next: u64,
    layers: Layers,
    model: BTreeMap<ChunkId, State>,
}

impl World<'_> {
    fn write(&mut self, changes: &BTreeMap<ChunkId, (Place, i32)>) {
        let mut writer = SegmentWriter::create(self.dir, self.tenant, self.next).unwrap();
        for (&id, &(place, refs)) in changes {
            let refs = i64::from(refs);
            writer.push(&Change { id, place, refs }).unwrap();
            let state = self.model.entry(id).or_default();
            if place != Place::Unchanged {
                state.place = place;
            }
            state.refs += refs;
        }
        let made = writer.finish().unwrap();
        // Half of them are read back as after a start.
        let made = match self.next.is_multiple_of(2) {
            true => Segment::open(self.dir, self.tenant, self.next).unwrap(),
            false => made,
        };
        self.layers.0.insert(0, Arc::new(made));
        self.next += 1;
    }

    fn merge(&mut self, from: usize, count: usize) {
        let run = from..from + count;
        let oldest = run.end == self.layers.0.len();
        let go_on = AtomicBool::new(false);
        let merged = merge(
            self.dir,
            self.tenant,
            self.next,
            &self.layers.0[run.clone()],
            oldest,
            &go_on,
        );
        self.layers.0.splice(run, merged.unwrap().map(Arc::new));
        self.next += 1;
    }

    fn tidy(&mut self) {
        let records: Vec<u64> = self.layers.0.iter().map(|s| s.records()).collect();
        match run_to_merge(&records) {
            0 => {}
            run => self.merge(0, run),
        }
        let mut newer = 0;
        for segment in &self.layers.0 {
            assert!(newer == 0 || segment.records() > newer);
            newer += segment.records();
        }
    }

    fn check(&self) {
        let mut ids: Vec<ChunkId> = (0..900).map(id).collect();
        ids.sort_unstable();
        let mut states = vec![State::default(); ids.len()];
        self.layers.complete(&ids, &mut states).unwrap();
        let mut places = vec![State::default(); ids.len()];
        self.layers.place(&ids, &mut places).unwrap();
        for (at, id) in ids.iter().enumerate() {
            let model = self.model.get(id).copied().unwrap_or_default();
            assert_eq!(states[at].refs, model.refs, "{id}");
            assert_eq!(states[at].spot(), model.spot(), "{id}");
            assert_eq!(places[at].spot(), model.spot(), "{id}");
        }
        let layers = self.layers.0.iter().map(|s| Box::new(s.changes()) as _);
        let all: Vec<Change> = Merge::new(layers.collect(), true)
            .collect::<Result<_, _>>()
            .unwrap();
        let model: Vec<Change> = self
            .model
            .iter()
            .filter_map(|(&id, state)| {
                let State { place, refs } = state.to_write(true)?;
                Some(Change { id, place, refs })
            })
            .collect();
        assert_eq!(all, model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_layers_and_merges_answer_as_a_map_does(steps in prop::collection::vec(step(), 1..12)) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World {
            dir: dir.path(),
            tenant: TenantId::random(),
            next: 1,
            layers: Layers::default(),
            model: BTreeMap::new(),
        };
        for step in steps {
            match step {
                Step::Layer(changes) => {
                    let changes = changes.into_iter().map(|(n, change)| (id(n), change));
                    world.write(&changes.collect());
                }
                Step::Merge(from, count) if !world.layers.0.is_empty() => {
                    let from = from.index(world.layers.0.len());
                    let count = 1 + count.index(world.layers.0.len() - from);
                    world.merge(from, count);
                }
                Step::Merge(..) => {}
                Step::Tidy => world.tidy(),
            }
            world.check();
        }
    }

    /// Guards the numbers in the description of `merge`: how many segments, how often written.
    #[test]
    fn segments_stay_few_and_are_written_seldom(settled in 1..2000usize) {
        let mut segments: Vec<u64> = Vec::new();
        let mut written = 0;
        for _ in 0..settled {
            segments.insert(0, 1);
            let run = run_to_merge(&segments);
            if run > 0 {
                let sum: u64 = segments.drain(..run).sum();
                segments.insert(0, sum);
                written += sum;
            }
        }
        let most = u64::from((settled as u64).ilog2());
        prop_assert!(segments.len() as u64 <= most + 1, "{segments:?}");
        prop_assert!(written <= settled as u64 * most, "{written} for {settled}");
    }
}

/// Guards look-ups at every edge of blocks and groups, and runs of ids that begin alike there.
#[test]
fn each_of_many_ids_is_found_at_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let tenant = TenantId::random();
    for count in [
        1,
        84,
        85,
        86,
        GROUP_RECORDS,
        GROUP_RECORDS + 1,
        3 * GROUP_RECORDS + 700,
    ] {
        let mut ids: Vec<ChunkId> = (0..count as u64)
            .map(|n| ChunkId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes()))
            .collect();
        ids.sort_unstable();
        // From inside a block over whole ones, and once over the edge of a group.
        for from in [
            40,
            GROUP_RECORDS - 2 * BLOCK_RECORDS - 7,
            2 * GROUP_RECORDS - 1,
        ] {
            let alike = from..from + 4 * BLOCK_RECORDS;
            if alike.end < count {
                let first: [u8; 8] = layout::part(ids[from].as_bytes(), 0);
                for (n, id) in ids[alike].iter_mut().enumerate() {
                    let mut bytes = [0; 32];
                    bytes[..8].copy_from_slice(&first);
                    bytes[8..16].copy_from_slice(&(n as u64 + (1 << 50)).to_be_bytes());
                    *id = ChunkId::from_bytes(bytes);
                }
            }
        }
        ids.sort_unstable();
        ids.dedup();
        let mut writer = SegmentWriter::create(dir.path(), tenant, count as u64).unwrap();
        for (n, &id) in ids.iter().enumerate() {
            let place = Place::At(spot(n as u32));
            writer.push(&Change { id, place, refs: 1 }).unwrap();
        }
        drop(writer.finish().unwrap());
        let segment = Arc::new(Segment::open(dir.path(), tenant, count as u64).unwrap());
        let mut found = 0;
        let mut check = |at: usize, change: Change| {
            assert_eq!((at, change.id), (found, ids[at]));
            assert_eq!(change.place, Place::At(spot(at as u32)));
            found += 1;
        };
        segment.look_up(&ids, &mut check).unwrap();
        assert_eq!(found, ids.len());
        let absent: Vec<ChunkId> = ids
            .iter()
            .map(|id| {
                let mut bytes = *id.as_bytes();
                bytes[31] ^= 1;
                ChunkId::from_bytes(bytes)
            })
            .collect();
        let none = &mut |_, change: Change| panic!("{change:?}");
        segment.look_up(&absent, none).unwrap();
        assert_eq!(segment.changes().count(), ids.len());
    }
}

/// Guards against files that a stopped merge leaves, and against a half-made one with a name.
#[test]
fn an_abandoned_merge_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tenant = TenantId::random();
    let mut segments = Vec::new();
    for number in 1..3 {
        let mut ids: Vec<_> = (0..10_000u64)
            .map(|n| *blake3::hash(&(n * number).to_le_bytes()).as_bytes())
            .collect();
        ids.sort_unstable();
        let mut writer = SegmentWriter::create(dir.path(), tenant, number).unwrap();
        for id in ids {
            let (id, place) = (ChunkId::from_bytes(id), Place::At(spot(1)));
            writer.push(&Change { id, place, refs: 0 }).unwrap();
        }
        segments.insert(0, Arc::new(writer.finish().unwrap()));
    }
    let stop = AtomicBool::new(true);
    let merged = merge(dir.path(), tenant, 3, &segments, true, &stop);
    assert_eq!(merged.err(), Some(IndexError::Abandoned));
    let left = std::fs::read_dir(dir.path().join(tenant.to_string())).unwrap();
    assert_eq!(left.count(), 2);
    let unordered = segments[0].changes().next().unwrap().unwrap();
    let mut writer = SegmentWriter::create(dir.path(), tenant, 4).unwrap();
    writer.push(&unordered).unwrap();
    assert!(matches!(
        writer.push(&unordered),
        Err(IndexError::Unfit { .. })
    ));
}
