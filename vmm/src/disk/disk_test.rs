//! Guards what every controller counts on: whole sectors inside the disk and nothing else,
//! the same bytes through a back end that knows guest memory and one that does not.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use proptest::prelude::*;
use tempfile::NamedTempFile;
use vm_memory::{Bytes, GuestAddress, Permissions};

use super::*;
use crate::memory::{self, GuestMemory};

/// Bytes in memory, without any knowledge of guests.
struct Plain(Mutex<Vec<u8>>);

impl Backend for Plain {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
    fn read_at(&self, data: &mut [u8], offset: u64) -> io::Result<()> {
        let at = offset as usize;
        data.copy_from_slice(&self.0.lock().unwrap()[at..at + data.len()]);
        Ok(())
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let at = offset as usize;
        self.0.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.write_zeroes(offset, len, true)
    }
    fn write_zeroes(&self, offset: u64, len: u64, _: bool) -> io::Result<()> {
        self.0.lock().unwrap()[offset as usize..(offset + len) as usize].fill(0);
        Ok(())
    }
}

fn plain(bytes: usize) -> Disk {
    let backend = Plain(Mutex::new(vec![7; bytes]));
    Disk::new(Box::new(backend), Path::new("plain"), false).unwrap()
}

fn raw(bytes: usize) -> (NamedTempFile, Disk) {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![7; bytes]).unwrap();
    let disk = Disk::open_raw(file.path(), false).unwrap();
    (file, disk)
}

fn buffers(memory: &GuestMemory, at: u64, len: usize) -> Buffers<'_> {
    let mut buffers = Buffers::default();
    let access = Permissions::ReadWrite;
    buffers
        .append(memory, GuestAddress(at), len, access)
        .unwrap();
    buffers
}

#[test]
fn one_virtual_machine_at_a_time_writes_a_disk() {
    let (file, first) = raw(2048);
    let second = Disk::open_raw(file.path(), true);
    assert!(matches!(second, Err(DiskError::InUse { .. })));
    drop(first);
    let _readers = [true, true].map(|ro| Disk::open_raw(file.path(), ro).unwrap());
    let empty = NamedTempFile::new().unwrap();
    let error = Disk::open_raw(empty.path(), false).err();
    assert!(matches!(error, Some(DiskError::Empty { .. })));
}

/// Guards the host's files: an image names others, so only who starts the machine says that a
/// disk is one, never what is on the disk.
#[test]
fn a_disk_that_only_looks_like_qcow2_is_refused() {
    let file = NamedTempFile::new().unwrap();
    let mut bytes = vec![0; 4096];
    bytes[..4].copy_from_slice(&qcow2::MAGIC);
    std::fs::write(file.path(), &bytes).unwrap();
    let open = |format| Disk::open(file.path(), false, format);
    let error = open(None).err().unwrap();
    assert!(matches!(error, DiskError::LooksLikeQcow2 { .. }));
    assert!(error.remedy().contains("format=qcow2"));
    assert_eq!(open(Some(Format::Raw)).unwrap().sectors(), 8);
    assert!(matches!(
        open(Some(Format::Qcow2)),
        Err(DiskError::Qcow2(_))
    ));
    std::fs::write(file.path(), vec![0; 4096]).unwrap();
    assert_eq!(open(None).unwrap().sectors(), 8);
}

#[test]
fn an_incomplete_last_sector_is_left_out() {
    assert_eq!(raw(1500).1.sectors(), 2);
}

#[test]
fn more_than_the_scratch_buffer_passes_through_a_plain_back_end() {
    let len = SCRATCH * 2 + 512;
    let (memory, disk) = (memory::create(64).unwrap(), plain(len));
    let pattern: Vec<u8> = (0..len).map(|i| (i / 511) as u8).collect();
    memory.write_slice(&pattern, GuestAddress(0)).unwrap();
    disk.write(0, &mut buffers(&memory, 0, len)).unwrap();
    disk.read(0, &mut buffers(&memory, 16 << 20, len)).unwrap();
    let mut back = vec![0; len];
    memory
        .read_slice(&mut back, GuestAddress(16 << 20))
        .unwrap();
    assert!(back == pattern);
}

proptest! {
    #[test]
    fn raw_and_plain_back_ends_agree_and_nothing_lies_beyond_the_end(
        acts in proptest::collection::vec((0_u8..4, 0_u64..20, 0_usize..10, any::<u8>()), 1..20),
        far in (u64::MAX - 20)..u64::MAX,
    ) {
        let memory = memory::create(64).unwrap();
        let (file, raw) = raw(16 * 512);
        let plain = plain(16 * 512);
        for (act, sector, sectors, fill) in acts {
            let len = sectors * 512;
            for disk in [&raw, &plain] {
                memory.write_slice(&vec![fill; len], GuestAddress(0)).unwrap();
                let result = match act {
                    0 => disk.read(sector, &mut buffers(&memory, 0, len)),
                    1 => disk.write(sector, &mut buffers(&memory, 0, len)),
                    2 => disk.write_zeroes(sector, sectors as u64, fill % 2 == 0),
                    _ => disk.discard(sector, sectors as u64),
                };
                prop_assert_eq!(result.is_ok(), sector + sectors as u64 <= 16);
                prop_assert!(disk.write(far, &mut buffers(&memory, 0, len + 512)).is_err());
            }
            let mut from = [vec![0; 16 * 512], vec![0; 16 * 512]];
            for (disk, bytes) in [&raw, &plain].into_iter().zip(&mut from) {
                disk.read(0, &mut buffers(&memory, 0x10000, bytes.len())).unwrap();
                memory.read_slice(bytes, GuestAddress(0x10000)).unwrap();
            }
            prop_assert!(from[0] == from[1]);
        }
        prop_assert_eq!(file.as_file().metadata().unwrap().len(), 16 * 512);
    }
}
