//! What the tests of images share: images in memory, files that remember their past, a check
//! of an image's structures, and QEMU's own tools.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Image, Storage};

/// What happened to a storage.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Write(u64, Vec<u8>),
    Punch(u64, u64),
    Sync,
}

/// A file in memory that remembers what happened to it.
#[derive(Clone, Default)]
pub(super) struct Recorded(Arc<Mutex<(Vec<u8>, Vec<Event>)>>);

impl Recorded {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new((bytes, Vec::new()))))
    }

    fn inner(&self) -> MutexGuard<'_, (Vec<u8>, Vec<Event>)> {
        self.0.lock().unwrap()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.inner().0.clone()
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.inner().1.clone()
    }

    pub(super) fn open(&self) -> Image {
        Image::from_storage(Box::new(self.clone()), Path::new("test"), false, None).unwrap()
    }
}

/// Does an event to a file's bytes.
pub(super) fn apply(bytes: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write(at, data) => {
            let end = *at as usize + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at as usize..end].copy_from_slice(data);
        }
        Event::Punch(at, length) => {
            let end = bytes.len().min((at + length) as usize);
            bytes[(*at as usize).min(end)..end].fill(0);
        }
        Event::Sync => {}
    }
}

impl Storage for Recorded {
    fn size(&self) -> io::Result<u64> {
        Ok(self.inner().0.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let inner = self.inner();
        let start = inner.0.len().min(offset.try_into().unwrap_or(usize::MAX));
        let count = (inner.0.len() - start).min(buffer.len());
        buffer[..count].copy_from_slice(&inner.0[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        assert!(offset < 1 << 30, "a write at {offset:#x}");
        let event = Event::Write(offset, data.to_vec());
        let (bytes, events) = &mut *self.inner();
        apply(bytes, &event);
        events.push(event);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.inner().1.push(Event::Sync);
        Ok(())
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let event = Event::Punch(offset, length);
        let (bytes, events) = &mut *self.inner();
        apply(bytes, &event);
        events.push(event);
        Ok(())
    }
}

/// What an image is made with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Make {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) refcount_order: u32,
    pub(super) size: u64,
}

/// An empty image: header, refcount table, refcount block, L1 table, a cluster each or more.
pub(super) fn blank(make: Make) -> Vec<u8> {
    let cluster = 1_u64 << make.cluster_bits;
    let order = if make.version == 2 {
        4
    } else {
        make.refcount_order
    };
    let l1_entries = make.size.div_ceil(cluster).div_ceil(cluster / 8);
    let l1_clusters = (l1_entries * 8).div_ceil(cluster);
    let mut bytes = vec![0; ((3 + l1_clusters) * cluster) as usize];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"QFI\xfb");
    put(4, &make.version.to_be_bytes());
    put(20, &make.cluster_bits.to_be_bytes());
    put(24, &make.size.to_be_bytes());
    put(36, &(l1_entries as u32).to_be_bytes());
    put(40, &(3 * cluster).to_be_bytes());
    put(48, &cluster.to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    if make.version == 3 {
        put(96, &order.to_be_bytes());
        put(100, &104_u32.to_be_bytes());
    }
    put(cluster as usize, &(2 * cluster).to_be_bytes());
    for index in 0..3 + l1_clusters {
        let (bit, at) = (index << order, 2 * cluster as usize);
        if order < 3 {
            bytes[at + bit as usize / 8] |= 1 << (bit % 8);
        } else {
            bytes[at + ((bit + (1 << order)) / 8) as usize - 1] = 1;
        }
    }
    bytes
}

fn word(bytes: &[u8], at: u64) -> u64 {
    let at = at as usize;
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn count(bytes: &[u8], cluster: u64, bits: u32, order: u32) -> u64 {
    let size = 1_u64 << bits;
    let per_block = (size * 8) >> order;
    let table = word(bytes, 48);
    let entries = u64::from(u32::from_be_bytes(bytes[56..60].try_into().unwrap())) * size / 8;
    if cluster / per_block >= entries {
        return 0;
    }
    let block = word(bytes, table + cluster / per_block * 8);
    if block == 0 {
        return 0;
    }
    let bit = (cluster % per_block) << order;
    let at = (block + bit / 8) as usize;
    if order < 3 {
        return u64::from(bytes[at] >> (bit % 8)) & ((1 << (1 << order)) - 1);
    }
    bytes[at..at + (1 << (order - 3))]
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Walks an image without snapshots by the specification alone and demands what `qemu-img check`
/// does: every cluster counted at least as often as it is referred to, and once where the flags
/// say so. Returns the leaked clusters.
pub(super) fn check(bytes: &[u8]) -> usize {
    let bits = u32::from_be_bytes(bytes[20..24].try_into().unwrap());
    let version = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
    let order = if version == 2 {
        4
    } else {
        u32::from_be_bytes(bytes[96..100].try_into().unwrap())
    };
    let size = 1_u64 << bits;
    let mut uses: BTreeMap<u64, u64> = BTreeMap::from([(0, 1)]);
    let mut flagged = Vec::new();
    let mut refer = |at: u64, length: u64| {
        assert_eq!(at % size, 0, "{at:#x} is not aligned");
        for cluster in at / size..(at + length).div_ceil(size) {
            *uses.entry(cluster).or_default() += 1;
        }
    };
    let table_clusters = u64::from(u32::from_be_bytes(bytes[56..60].try_into().unwrap()));
    refer(word(bytes, 48), table_clusters * size);
    for index in 0..table_clusters * size / 8 {
        match word(bytes, word(bytes, 48) + index * 8) {
            0 => {}
            block => refer(block, size),
        }
    }
    let l1_entries = u64::from(u32::from_be_bytes(bytes[36..40].try_into().unwrap()));
    refer(word(bytes, 40), l1_entries * 8);
    for index in 0..l1_entries {
        let entry = word(bytes, word(bytes, 40) + index * 8);
        let table = entry & !(1 << 63);
        if table == 0 {
            continue;
        }
        flagged.push(entry);
        refer(table, size);
        for within in 0..size / 8 {
            let entry = word(bytes, table + within * 8);
            assert_eq!(entry & 1 << 62, 0, "compressed");
            let host = entry & !(1 << 63 | 1);
            if host != 0 {
                flagged.push(entry);
                refer(host, size);
            }
        }
    }
    for (cluster, uses) in &uses {
        let counted = count(bytes, *cluster, bits, order);
        assert!(
            counted >= *uses,
            "cluster {cluster}: {uses} uses, {counted} counted"
        );
    }
    for entry in flagged {
        let cluster = (entry & !(1 << 63 | 1)) / size;
        assert_eq!(uses[&cluster], 1, "{entry:#x} shares its cluster");
        assert!(entry >> 63 == 1, "{entry:#x} is not marked as the only one");
    }
    (0..(bytes.len() as u64).div_ceil(size))
        .filter(|cluster| {
            count(bytes, *cluster, bits, order) > uses.get(cluster).copied().unwrap_or(0)
        })
        .count()
}

/// Whether QEMU's tools are there; says so if not.
pub(super) fn has_qemu() -> bool {
    let found = ["qemu-img", "qemu-io"]
        .iter()
        .all(|tool| Command::new(tool).arg("--version").output().is_ok());
    if !found {
        eprintln!("skipped: qemu-img and qemu-io are not installed (qemu-utils)");
    }
    found
}

/// Runs one of QEMU's tools, which must succeed, and returns what it says.
pub(super) fn qemu(directory: &Path, line: &str) -> String {
    // A tilde is a space within a word.
    let mut words = line.split(' ').map(|word| word.replace('~', " "));
    let mut command = Command::new(words.next().unwrap());
    let output = command.args(words).current_dir(directory).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{line}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// `qemu-img check` finds neither errors nor leaks.
pub(super) fn qemu_check(directory: &Path, image: &str) {
    qemu(directory, &format!("qemu-img check -q {image}"));
}

/// Everything on a disk.
pub(super) fn content(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Contents that a sector may have after a crash, by sector.
pub(super) type Allowed = HashMap<u64, Vec<[u8; 512]>>;
