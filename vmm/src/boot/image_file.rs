//! A kernel or an initramfs that was opened before the machine gave up the right to open files.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file that is read again each time the machine starts.
#[derive(Debug, Clone)]
pub struct ImageFile {
    path: PathBuf,
    file: Arc<File>,
}

impl ImageFile {
    /// Opens `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(File::open(path)?),
        })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length now, in bytes.
    pub(crate) fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Reads all of it; `None` if it has more than `most` bytes. Kernels and initramfs come
    /// out of a server's image: nobody says that they are as small as they should be.
    pub(crate) fn read_at_most(&self, most: u64) -> io::Result<Option<Vec<u8>>> {
        let mut data = Vec::new();
        let from_start = FromStart {
            file: &self.file,
            at: 0,
        };
        from_start
            .take(most.saturating_add(1))
            .read_to_end(&mut data)?;
        Ok((data.len() as u64 <= most).then_some(data))
    }
}

/// Reads from the start, whatever was read before.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
