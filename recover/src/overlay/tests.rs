#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;

const SIZE: u64 = 40 * GRAIN + 1536;

struct Base(Vec<u8>);

impl Base {
    fn new() -> Box<Self> {
        Box::new(Self((0..SIZE).map(|i| (i / 7 % 251) as u8 + 1).collect()))
    }
}

impl BlockRead for Base {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        check_range(offset, buf.len() as u64, self.size())?;
        buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
        Ok(())
    }
}

/// A medium that loses, on a crash, any sectors written since the last sync: each sector
/// independently, so that a page can be torn.
#[derive(Clone, Default)]
struct Forgetful(Arc<Mutex<Sectors>>, Arc<AtomicBool>);

#[derive(Clone, Default)]
struct Sectors {
    durable: BTreeMap<u64, Vec<u8>>,
    cached: BTreeMap<u64, Vec<u8>>,
}

const SECTOR: u64 = 512;

impl Sectors {
    fn sector(&self, at: u64) -> Vec<u8> {
        let found = self.cached.get(&at).or_else(|| self.durable.get(&at));
        found.cloned().unwrap_or_else(|| vec![0; SECTOR as usize])
    }
}

impl Forgetful {
    /// What is found after a crash, when chance decides for each unsynced sector.
    fn crash(&self, chance: &mut impl FnMut() -> bool) -> Self {
        let mut sectors = self.0.lock().unwrap().clone();
        for (at, bytes) in std::mem::take(&mut sectors.cached) {
            if chance() {
                sectors.durable.insert(at, bytes);
            }
        }
        Self(Arc::new(Mutex::new(sectors)), Arc::default())
    }
}

impl Medium for Forgetful {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let sectors = self.0.lock().unwrap();
        for (i, byte) in buf.iter_mut().enumerate() {
            let at = offset + i as u64;
            *byte = sectors.sector(at / SECTOR)[(at % SECTOR) as usize];
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        let mut sectors = self.0.lock().unwrap();
        for (i, byte) in data.iter().enumerate() {
            let at = offset + i as u64;
            let mut sector = sectors.sector(at / SECTOR);
            sector[(at % SECTOR) as usize] = *byte;
            sectors.cached.insert(at / SECTOR, sector);
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), BlockError> {
        let mut sectors = self.0.lock().unwrap();
        let cached = std::mem::take(&mut sectors.cached);
        // As Linux has it: what could not be written is dropped, and said once.
        if self.1.swap(false, Ordering::Relaxed) {
            let source = std::io::Error::from_raw_os_error(libc::EIO);
            return Err(BlockError::Io {
                path: "medium".into(),
                source,
            });
        }
        sectors.durable.extend(cached);
        Ok(())
    }

    /// Leaves rubbish, as a medium may.
    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.write_at(offset, &vec![0xdd; len as usize])
    }

    fn next_content(&self, offset: u64) -> Result<Option<(u64, u64)>, BlockError> {
        let sectors = self.0.lock().unwrap();
        let both = sectors.durable.keys().chain(sectors.cached.keys());
        let first = both.filter(|at| **at * SECTOR >= offset).min();
        Ok(first.map(|at| (at * SECTOR, (at + 1) * SECTOR)))
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, Vec<u8>),
    Discard(u64, u64),
    Flush,
    Reopen,
    Crash(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let sectors = SIZE / SECTOR;
    // Guests write whole sectors; anything less is not promised to survive a crash untorn.
    let range = (0..sectors).prop_flat_map(move |at| (Just(at), 1..=(sectors - at).min(40)));
    let range = range.prop_map(|(at, n)| (at * SECTOR, n * SECTOR));
    prop_oneof![
        6 => (range.clone(), any::<u8>()).prop_map(|((at, n), fill)| Op::Write(at, vec![fill; n as usize])),
        2 => range.prop_map(|(at, n)| Op::Discard(at, n)),
        2 => Just(Op::Flush),
        1 => Just(Op::Reopen),
        2 => any::<u64>().prop_map(Op::Crash),
    ]
}

fn open(data: &Forgetful, map: &Forgetful) -> Overlay<Forgetful> {
    Overlay::over(
        Base::new(),
        "point/sda",
        data.clone(),
        map.clone(),
        Path::new("o"),
    )
    .unwrap()
}

fn contents(disk: &dyn BlockRead) -> Vec<u8> {
    let mut all = vec![0; disk.size() as usize];
    disk.read_at(0, &mut all).unwrap();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Guards the promise of the module: reads return what was written; after a crash every
    /// sector holds what the last completed flush saw, or something written since.
    #[test]
    fn behaves_as_a_disk_with_a_write_cache(ops in proptest::collection::vec(op(), 1..60)) {
        let (mut data, mut map) = (Forgetful::default(), Forgetful::default());
        let mut overlay = open(&data, &map);
        let mut now = Base::new().0;
        // For each sector, the contents that a crash may leave; the flushed one first.
        let sectors = |all: &[u8]| -> Vec<Vec<u8>> { all.chunks(SECTOR as usize).map(<[u8]>::to_vec).collect() };
        let mut allowed: Vec<Vec<Vec<u8>>> = sectors(&now).into_iter().map(|s| vec![s]).collect();
        for op in ops {
            match op {
                Op::Write(at, bytes) => {
                    overlay.write_at(at, &bytes).unwrap();
                    now[at as usize..][..bytes.len()].copy_from_slice(&bytes);
                }
                Op::Discard(at, length) => {
                    overlay.discard(at, length).unwrap();
                    now[at as usize..][..length as usize].fill(0);
                    // Until it is flushed a discarded sector may be rubbish, as on real disks.
                    for sector in at / SECTOR..(at + length) / SECTOR {
                        allowed[sector as usize].push(vec![0xdd; SECTOR as usize]);
                    }
                }
                Op::Flush => {
                    overlay.flush().unwrap();
                    allowed = sectors(&now).into_iter().map(|s| vec![s]).collect();
                }
                Op::Reopen => {
                    overlay.flush().unwrap();
                    allowed = sectors(&now).into_iter().map(|s| vec![s]).collect();
                    drop(overlay);
                    overlay = open(&data, &map);
                }
                Op::Crash(seed) => {
                    let mut state = seed | 1;
                    let mut chance = || { state ^= state << 13; state ^= state >> 7; state ^= state << 17; state >> 40 & 1 == 1 };
                    drop(overlay);
                    data = data.crash(&mut chance);
                    map = map.crash(&mut chance);
                    overlay = open(&data, &map);
                    let found = contents(&overlay);
                    for (i, sector) in sectors(&found).into_iter().enumerate() {
                        prop_assert!(allowed[i].contains(&sector), "sector {i} holds what was never written");
                    }
                    now = found;
                    allowed = sectors(&now).into_iter().map(|s| vec![s]).collect();
                }
            }
            for (i, sector) in sectors(&now).into_iter().enumerate() { allowed[i].push(sector); }
            prop_assert_eq!(&contents(&overlay), &now);
        }
    }
}

/// Guards the crash in the middle of a flush, after the data and with half of a map page.
#[test]
fn a_torn_map_page_falls_back_to_the_one_before() {
    let (data, map) = (Forgetful::default(), Forgetful::default());
    let overlay = open(&data, &map);
    overlay.write_at(0, &[1; 4096]).unwrap();
    overlay.flush().unwrap();
    overlay.write_at(8192, &[2; 4096]).unwrap();
    data.sync().unwrap();
    let changed = overlay.states.write().unwrap().take_changed();
    let before = map.0.lock().unwrap().durable.clone();
    overlay.map.write(&changed).unwrap();
    {
        // Half of the second copy arrived.
        let mut sectors = map.0.lock().unwrap();
        let second = 2 * 4096 / SECTOR;
        for at in second..second + 4 {
            match before.get(&at) {
                Some(old) => sectors.durable.insert(at, old.clone()),
                None => sectors.durable.remove(&at),
            };
        }
    }
    drop(overlay);
    let overlay = open(&data, &map);
    let mut grain = [0; 4096];
    overlay.read_at(0, &mut grain).unwrap();
    assert_eq!(grain, [1; 4096], "the flushed write");
    overlay.read_at(8192, &mut grain).unwrap();
    assert_eq!(
        grain[..],
        Base::new().0[8192..][..4096],
        "the unflushed one"
    );
}

#[test]
fn both_copies_broken_is_damage_and_said() {
    let (data, map) = (Forgetful::default(), Forgetful::default());
    let overlay = open(&data, &map);
    for fill in [1, 2] {
        overlay.write_at(fill * 4096, &[fill as u8; 4096]).unwrap();
        overlay.flush().unwrap();
    }
    drop(overlay);
    for page in [1, 2] {
        map.write_at(page * 4096 + 100, &[0xee]).unwrap();
    }
    let error = Overlay::over(Base::new(), "point/sda", data, map, Path::new("o"))
        .err()
        .unwrap();
    assert!(matches!(error, OverlayError::Damaged { .. }), "{error}");
}

#[test]
fn another_base_is_refused_and_so_is_a_second_writer() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = Overlay::open(dir.path(), Base::new(), "point 1/sda").unwrap();
    overlay.write_at(5000, b"kept").unwrap();
    overlay.discard(0, 4096).unwrap();
    overlay.flush().unwrap();
    let second = Overlay::open(dir.path(), Base::new(), "point 1/sda")
        .err()
        .unwrap();
    assert!(matches!(second, OverlayError::InUse { .. }), "{second}");
    let expected = contents(&overlay);
    drop(overlay);

    let other = Overlay::open(dir.path(), Base::new(), "point 2/sda")
        .err()
        .unwrap();
    assert!(other.to_string().contains("point 1/sda"), "{other}");
    let again = Overlay::open(dir.path(), Base::new(), "point 1/sda").unwrap();
    assert_eq!(contents(&again), expected);
    assert_eq!(
        again.amounts(),
        Amounts {
            written: 4096,
            discarded: 4096
        }
    );
}

/// Guards against a disk that loses writes and says so only once: no later flush may claim that
/// they are durable.
#[test]
fn a_flush_that_failed_is_never_followed_by_one_that_succeeds() {
    for fails_for_data in [true, false] {
        let (data, map) = (Forgetful::default(), Forgetful::default());
        let overlay = open(&data, &map);
        overlay.write_at(0, &[1; 4096]).unwrap();
        let failing = if fails_for_data { &data } else { &map };
        failing.1.store(true, Ordering::Relaxed);
        assert!(overlay.flush().is_err());
        let error = overlay.flush().unwrap_err();
        assert!(error.to_string().contains("was lost"), "{error}");
    }
}

/// Guards neighbours that write different sectors of one grain at the same time.
#[test]
fn writers_of_one_grain_do_not_lose_each_others_sectors() {
    let (data, map) = (Forgetful::default(), Forgetful::default());
    let overlay = open(&data, &map);
    std::thread::scope(|scope| {
        for writer in 0..8u64 {
            let overlay = &overlay;
            scope.spawn(move || {
                for grain in 0..40 {
                    let at = grain * GRAIN + writer * SECTOR;
                    overlay
                        .write_at(at, &[writer as u8 + 1; SECTOR as usize])
                        .unwrap();
                }
            });
        }
    });
    let all = contents(&overlay);
    for (i, sector) in all.chunks(SECTOR as usize).take(320).enumerate() {
        assert_eq!(sector, [(i % 8) as u8 + 1; SECTOR as usize], "sector {i}");
    }
}
