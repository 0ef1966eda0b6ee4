//! A disk that cannot be read everywhere: a file of a file system of our own (FUSE), and a loop
//! device over it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry,
    ReplyOpen, Request,
};

use crate::filesystems::run;

const DISK: INodeNo = INodeNo(2);
const NAME: &str = "disk.raw";
/// Nothing is to be remembered of it.
const AT_ONCE: Duration = Duration::ZERO;

/// Bytes that cannot be read.
type Bad = Arc<Mutex<Vec<Range<u64>>>>;

/// The disk. Its loop device, its mount and its files go when it is dropped.
pub struct AilingDisk {
    bad: Bad,
    device: PathBuf,
    // In this order: what is mounted goes before its directory.
    _session: BackgroundSession,
    dir: tempfile::TempDir,
}

impl AilingDisk {
    /// Over a file, which it shows as it is but for what [`fail`](Self::fail) names.
    pub fn over(content: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let file = File::open(content).unwrap_or_else(|e| panic!("{}: {e}", content.display()));
        let bad = Bad::default();
        let shown = Shown {
            bad: bad.clone(),
            file,
        };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::RO, MountOption::FSName("ailing".into())];
        let session = fuser::spawn_mount(shown, dir.path(), &config)
            .unwrap_or_else(|e| panic!("a file system of our own cannot be mounted: {e}"));
        let file = dir.path().join(NAME);
        let shown = run(
            "losetup",
            &["--find", "--show", "--read-only", &file.to_string_lossy()],
        );
        Self {
            bad,
            device: PathBuf::from(shown.trim()),
            _session: session,
            dir,
        }
    }

    /// The block device.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// The same bytes as a file.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join(NAME)
    }

    /// From now on these bytes, and no others, cannot be read.
    pub fn fail(&self, bytes: &[Range<u64>]) {
        *self.bad.lock().unwrap_or_else(PoisonError::into_inner) = bytes.to_vec();
    }
}

impl Drop for AilingDisk {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

/// The file system.
struct Shown {
    file: File,
    bad: Bad,
}

impl Shown {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_disk = inode == DISK;
        let size = self.file.metadata().map_or(0, |metadata| metadata.len());
        FileAttr {
            ino: inode,
            size: if is_disk { size } else { 0 },
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: match is_disk {
                true => FileType::RegularFile,
                false => FileType::Directory,
            },
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn bytes(&self, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let end = offset + u64::from(size);
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        if bad.iter().any(|bad| bad.start < end && offset < bad.end) {
            return Err(io::ErrorKind::Other.into());
        }
        let mut bytes = vec![0; size as usize];
        let mut done = 0;
        while done < bytes.len() {
            match self
                .file
                .read_at(&mut bytes[done..], offset + done as u64)?
            {
                0 => break,
                n => done += n,
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }
}

impl Filesystem for Shown {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == NAME {
            true => reply.entry(&AT_ONCE, &self.attributes(DISK), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&AT_ONCE, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // The kernel asks each time, so that faults come and go.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.bytes(offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(_) => reply.error(Errno::EIO),
        }
    }
}
