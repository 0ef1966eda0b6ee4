//! The disks: two Debian servers of the same make, on loop devices.

use std::fs::File;
use std::path::{Path, PathBuf};

use relevo_tests::disks;
use relevo_tests::filesystems::{Loop, run, run_with};

/// Where tests/demo-disk/build puts the root's partition, in bytes.
const ROOT: u64 = 2 << 20;
/// Room behind it for the table's second copy, as tests/demo-disk/build leaves it.
const TABLE: u64 = 17 << 10;
/// The same, and no end of a disk that is not on a whole MiB.
const TAIL: u64 = 1 << 20;

/// The disks as they are at the start of each round.
pub struct Disks {
    originals: [PathBuf; 2],
    dir: PathBuf,
    /// Bytes that the first one's file takes.
    pub used: u64,
}

impl Disks {
    /// Makes them in `dir`, of `size` bytes each.
    pub fn make(dir: &Path, size: u64) -> Self {
        std::fs::create_dir_all(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let originals = [1, 2].map(|number| {
            let disk = dir.join(format!("web{number}-original.raw"));
            disks::demo_server(
                &disk,
                &format!("web{number}"),
                &format!("10.77.0.{}/24", 10 + number),
            );
            resize(&disk, size);
            disk
        });
        Self {
            used: disks::allocated(&originals[0]),
            originals,
            dir: dir.to_path_buf(),
        }
    }

    /// Copies of them on new devices.
    pub fn attach(&self) -> [Device; 2] {
        [0, 1].map(|number| {
            let file = self.dir.join(format!("web{}.raw", number + 1));
            let from = self.originals[number].to_string_lossy();
            run("cp", &["--sparse=always", &from, &file.to_string_lossy()]);
            Device {
                device: Loop::over(&file, 0, 0),
                file,
            }
        })
    }
}

/// Gives a demo server's disk another size, its file system too.
fn resize(disk: &Path, size: u64) {
    let before = std::fs::metadata(disk).map_or(0, |m| m.len());
    if before == size {
        return;
    }
    let file = disk.to_string_lossy();
    let sectors = |bytes: u64| (bytes / 512).to_string();
    let length = size
        .checked_sub(ROOT + TAIL)
        .unwrap_or_else(|| panic!("a disk of {size} bytes is too small"));
    if size > before {
        run("truncate", &["--size", &size.to_string(), &file]);
    }
    {
        let root = Loop::over(disk, ROOT, length.max(before - ROOT - TABLE));
        // 1: it mended something, which resizing demands that it was asked for.
        run_with("e2fsck", &["-fp", root.device()], &[0, 1]);
        run(
            "resize2fs",
            &[root.device(), &format!("{}s", sectors(length))],
        );
    }
    run("truncate", &["--size", &size.to_string(), &file]);
    // The second copy of the table is where the disk ended before: complaints are expected.
    run_with("sgdisk", &["--move-second-header", &file], &[0, 1, 2, 3, 4]);
    let unique = run("sgdisk", &["--info=2", &file]);
    let unique = unique
        .lines()
        .find_map(|line| line.strip_prefix("Partition unique GUID: "))
        .unwrap_or_else(|| panic!("{}: no second partition", disk.display()));
    let place = format!(
        "--new=2:{}:{}",
        sectors(ROOT),
        length / 512 + ROOT / 512 - 1
    );
    let guid = format!("--partition-guid=2:{unique}");
    run(
        "sgdisk",
        &["--delete=2", &place, "--typecode=2:8300", &guid, &file],
    );
}

/// A server's disk.
pub struct Device {
    device: Loop,
    file: PathBuf,
}

impl Device {
    /// Where it is.
    pub fn path(&self) -> &Path {
        Path::new(self.device.device())
    }

    /// Changes a part of the data on it; the kernel sees the writes as those of a server.
    pub fn change(&self, percent: &str, seed: u32) {
        disks::change_again(self.path(), percent, seed);
    }

    /// Leaves none of its pages in memory, and all of the file below it.
    pub fn drop_pages(&self) {
        run("blockdev", &["--flushbufs", self.device.device()]);
        let read = File::open(&self.file)
            .and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
        read.unwrap_or_else(|e| panic!("{}: {e}", self.file.display()));
    }
}
