//! The disks, read span by span without their holes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use relevo_tests::disks;
use relevo_tests::filesystems::run;
use relevo_wire::index::SPAN;

/// The unit in which a disk is known to hold data or nothing but zeros: a span of the index.
pub const PIECE: usize = SPAN as usize;

/// A disk and what of it is not zeros.
pub struct Disk {
    file: File,
    path: PathBuf,
    pieces: Vec<bool>,
}

impl Disk {
    fn open(path: PathBuf) -> Self {
        let file = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let size = file.metadata().map_or(0, |m| m.len());
        let mut disk = Self {
            file,
            path,
            pieces: vec![true; size.div_ceil(SPAN) as usize],
        };
        let mut piece = vec![0; PIECE];
        for number in 0..disk.pieces.len() {
            disk.read(number, &mut piece);
            disk.pieces[number] = piece.iter().any(|&byte| byte != 0);
        }
        disk
    }

    /// Calls `each` for every span of `length` bytes, a multiple of [`PIECE`], that holds data.
    pub fn spans(&self, length: usize, mut each: impl FnMut(&[u8])) {
        let mut span = vec![0; length];
        let many = length / PIECE;
        for (number, pieces) in self.pieces.chunks(many).enumerate() {
            if !pieces.contains(&true) {
                continue;
            }
            for (at, has_data) in pieces.iter().enumerate() {
                let bytes = &mut span[at * PIECE..(at + 1) * PIECE];
                match has_data {
                    true => self.read(number * many + at, bytes),
                    false => bytes.fill(0),
                }
            }
            each(&span[..pieces.len() * PIECE]);
        }
    }

    /// Reads a piece; behind the disk's end are zeros.
    fn read(&self, number: usize, piece: &mut [u8]) {
        let mut done = 0;
        while done < piece.len() {
            let at = (number * PIECE + done) as u64;
            match self.file.read_at(&mut piece[done..], at) {
                Ok(0) => return piece[done..].fill(0),
                Ok(read) => done += read,
                Err(e) => panic!("{} at {at}: {e}", self.path.display()),
            }
        }
    }
}

/// The disks of the comparison, in the order in which they come to a vault.
pub struct Disks {
    /// A server.
    pub first: Disk,
    /// The same one later, with three percent of its data changed.
    pub changed: Disk,
    /// The same one after ten more such days.
    pub aged: Disk,
    /// Its files in a new file system, each somewhere else.
    pub moved: Disk,
    /// Another server of the same make.
    pub other: Disk,
}

const DAYS: u32 = 10;
const PERCENT: &str = "3";

impl Disks {
    /// Makes them in `dir`.
    pub fn make(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let path = |name: &str| dir.join(format!("{name}.raw"));
        let copy = |from: &str, to: &str| {
            let (from, to) = (path(from), path(to));
            let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
            run("cp", &["--sparse=always", &from, &to]);
        };
        disks::demo_server(&path("first"), "web1", "10.77.0.11/24");
        disks::demo_server(&path("other"), "web2", "10.77.0.12/24");
        copy("first", "changed");
        disks::change_again(&path("changed"), PERCENT, 1);
        copy("changed", "aged");
        for day in 2..2 + DAYS {
            disks::change_again(&path("aged"), PERCENT, day);
        }
        moved(&path("first"), &path("moved"), dir);
        let open = |name| Disk::open(path(name));
        Self {
            first: open("first"),
            changed: open("changed"),
            aged: open("aged"),
            moved: open("moved"),
            other: open("other"),
        }
    }
}

/// Puts the files of a disk into a new file system, which lays them out anew.
fn moved(disk: &Path, to: &Path, dir: &Path) {
    // Where tests/demo-disk/build puts the root's partition.
    const ROOT: u64 = 2 << 20;
    let files = dir.join("files");
    std::fs::create_dir_all(&files).unwrap_or_else(|e| panic!("{}: {e}", files.display()));
    let file_system = format!("{}?offset={ROOT}", disk.display());
    let dump = format!("rdump / {}", files.display());
    run("debugfs", &["-R", &dump, &file_system]);
    let size = std::fs::metadata(disk).map_or(0, |m| m.len());
    disks::sparse(to, size);
    let (from, offset) = (files.to_string_lossy(), format!("offset={ROOT}"));
    let blocks = format!("{}k", (size - ROOT) / 1024 - 17);
    let target = to.to_string_lossy();
    run(
        "mkfs.ext4",
        &["-q", "-F", "-E", &offset, "-d", &from, &target, &blocks],
    );
    let _ = std::fs::remove_dir_all(&files);
}
