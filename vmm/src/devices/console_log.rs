//! The file that a console is written to.
//!
//! A guest writes to its serial port as much as it likes. Its file holds all of it up to
//! [`MOST`]; then the older half is cut out, so that a guest cannot fill the host's disk and
//! what it said last is always there. Whoever follows the file sees it become shorter.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The longest such a file becomes, in bytes.
pub const MOST: u64 = 64 << 20;

/// What stands where something was cut out.
const NOTE: &[u8] = b"[relevo-vmm: older output was cut out here]\n";

/// An open file, always written at its end.
pub struct ConsoleLog {
    file: File,
    len: u64,
    /// No limit for what is no file of a disk, such as a pipe.
    most: Option<u64>,
}

impl ConsoleLog {
    /// Opens `path`, made when it is missing. What it holds already stays.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::with_limit(path, MOST)
    }

    fn with_limit(path: &Path, most: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let mut file = options.create(true).append(true).open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_file() {
            // Read as well, to keep the newer half.
            file = options.read(true).open(path)?;
        }
        Ok(Self {
            file,
            len: metadata.len(),
            most: metadata.is_file().then_some(most),
        })
    }

    /// Another handle, for when this one is not used any more.
    pub fn try_clone(&self) -> io::Result<Self> {
        let file = self.file.try_clone()?;
        let len = file.metadata()?.len();
        Ok(Self {
            file,
            len,
            most: self.most,
        })
    }

    fn cut(&mut self, most: u64) -> io::Result<()> {
        let mut newer = vec![0; (most / 2) as usize];
        let end = std::mem::take(&mut self.len);
        let from = end.saturating_sub(newer.len() as u64);
        self.file.read_exact_at(&mut newer, from)?;
        self.file.set_len(0)?;
        self.file.write_all(NOTE)?;
        self.file.write_all(&newer)?;
        self.len = (NOTE.len() + newer.len()) as u64;
        Ok(())
    }
}

impl Write for ConsoleLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.len += written as u64;
        if let Some(most) = self.most.filter(|most| self.len > *most) {
            self.cut(most)?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    //! Guards that the file has an end, and that it holds what was said last.
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_talkative_guest_does_not_fill_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        std::fs::write(&path, "before\n").unwrap();
        let mut log = ConsoleLog::with_limit(&path, 4096).unwrap();
        for n in 0..10_000 {
            writeln!(log, "line {n}").unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() <= 4096 + 16);
            if n == 5000 {
                // As when the machine is started again.
                log = log.try_clone().unwrap();
            }
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("[relevo-vmm: older output"), "{text}");
        assert!(text.ends_with("line 9998\nline 9999\n"));
    }

    #[test]
    fn what_fits_is_kept_whole_behind_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        std::fs::write(&path, "before\n").unwrap();
        ConsoleLog::open(&path).unwrap().write_all(b"now").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\nnow");
        ConsoleLog::open(Path::new("/dev/null"))
            .unwrap()
            .write_all(b"gone")
            .unwrap();
    }
}
