//! The disks: three Debian servers of the same make, and the first one again with changes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use relevo_tests::disks;

/// Dense images. What stands where does not depend on what changed, as on a disk.
pub struct Images {
    /// One disk for each server.
    pub servers: Vec<PathBuf>,
    /// The first server's disk, later.
    pub later: PathBuf,
    /// Bytes of one disk.
    pub bytes: u64,
    /// Bytes of `later` that differ from the first disk, in blocks of 4 KiB.
    pub changed: u64,
}

const SERVERS: usize = 3;
const CHANGED_PERCENT: u32 = 3;
const PIECE: u64 = 1 << 20;

impl Images {
    /// Makes them in `dir`.
    pub fn make(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let (sparse, after) = (dir.join("sparse.raw"), dir.join("sparse-later.raw"));
        let (mut servers, mut later) = (Vec::new(), PathBuf::new());
        let (mut bytes, mut changed) = (0, 0);
        for number in 1..=SERVERS {
            let name = format!("web{number}");
            let _ = std::fs::remove_file(&sparse);
            disks::demo_server(&sparse, &name, &format!("10.77.0.{}/24", 10 + number));
            let disk = dir.join(format!("{name}.raw"));
            if number == 1 {
                copy_sparse(&sparse, &after);
                disks::change(&after, CHANGED_PERCENT);
                // Blocks that only the later disk uses are in both.
                let ranges = data_ranges(&after);
                bytes = pack(&sparse, &ranges, &disk);
                later = dir.join("web1-later.raw");
                pack(&after, &ranges, &later);
                changed = differing(&disk, &later);
            } else {
                pack(&sparse, &data_ranges(&sparse), &disk);
            }
            servers.push(disk);
        }
        let _ = std::fs::remove_file(&sparse);
        let _ = std::fs::remove_file(&after);
        Self {
            servers,
            later,
            bytes,
            changed,
        }
    }
}

fn copy_sparse(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    copy.arg("--sparse=always").args([from, to]);
    let done = copy.status();
    assert!(done.is_ok_and(|status| status.success()), "{copy:?}");
}

/// The ranges of whole pieces in which a disk has any data.
fn data_ranges(disk: &Path) -> Vec<u64> {
    let (file, size) = open(disk);
    let mut buffer = vec![0; PIECE as usize];
    (0..size / PIECE)
        .map(|piece| piece * PIECE)
        .filter(|&at| {
            read(&file, at, &mut buffer);
            buffer.iter().any(|&byte| byte != 0)
        })
        .collect()
}

/// Puts pieces of a disk together; the length that results.
fn pack(disk: &Path, pieces: &[u64], to: &Path) -> u64 {
    let (file, _) = open(disk);
    let out = File::create(to).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
    let mut buffer = vec![0; PIECE as usize];
    for (number, &at) in pieces.iter().enumerate() {
        read(&file, at, &mut buffer);
        let written = out.write_all_at(&buffer, number as u64 * PIECE);
        written.unwrap_or_else(|e| panic!("{}: {e}", to.display()));
    }
    pieces.len() as u64 * PIECE
}

fn differing(one: &Path, other: &Path) -> u64 {
    let ((one, size), (other, _)) = (open(one), open(other));
    let (mut a, mut b) = (vec![0; PIECE as usize], vec![0; PIECE as usize]);
    let mut blocks = 0;
    for at in (0..size).step_by(PIECE as usize) {
        read(&one, at, &mut a);
        read(&other, at, &mut b);
        blocks += a
            .chunks(4096)
            .zip(b.chunks(4096))
            .filter(|(a, b)| a != b)
            .count() as u64;
    }
    blocks * 4096
}

fn open(path: &Path) -> (File, u64) {
    let opened = File::open(path).and_then(|file| file.metadata().map(|m| (file, m.len())));
    opened.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn read(file: &File, at: u64, buffer: &mut [u8]) {
    let done = file.read_exact_at(buffer, at);
    done.unwrap_or_else(|e| panic!("reading an image at {at}: {e}"));
}
