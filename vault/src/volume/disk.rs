//! Packs and parity in a directory of a real file system: `packs/<tenant>/<number>.pack`.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use relevo_wire::TenantId;

use super::{FileId, Volume};

/// Files kept open; more are closed and opened again when needed.
const OPEN_FILES: usize = 256;

/// The packs below one directory.
pub struct DiskVolume {
    root: PathBuf,
    readers: Handles,
    writers: Handles,
}

type Handles = Mutex<HashMap<FileId, Arc<File>>>;

impl DiskVolume {
    /// The packs below `root`, which exists.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            readers: Handles::default(),
            writers: Handles::default(),
        }
    }

    /// Where a file is.
    pub fn path(&self, file: impl Into<FileId>) -> PathBuf {
        self.root.join(file.into().to_string())
    }

    fn open(&self, handles: &Handles, id: FileId, write: bool) -> io::Result<Arc<File>> {
        let mut handles = handles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = handles.get(&id) {
            return Ok(file.clone());
        }
        let file = OpenOptions::new()
            .read(true)
            .write(write)
            .open(self.path(id))?;
        if handles.len() >= OPEN_FILES {
            handles.clear();
        }
        let file = Arc::new(file);
        handles.insert(id, file.clone());
        Ok(file)
    }

    fn reader(&self, file: impl Into<FileId>) -> io::Result<Arc<File>> {
        self.open(&self.readers, file.into(), false)
    }

    fn writer(&self, file: impl Into<FileId>) -> io::Result<Arc<File>> {
        self.open(&self.writers, file.into(), true)
    }

    /// What is open under a name is not what has it next.
    fn close(&self, file: FileId) {
        for handles in [&self.readers, &self.writers] {
            let mut handles = handles.lock().unwrap_or_else(PoisonError::into_inner);
            handles.remove(&file);
        }
    }
}

impl Volume for DiskVolume {
    fn list_files(&self) -> io::Result<Vec<FileId>> {
        let mut files = Vec::new();
        for directory in fs::read_dir(&self.root)? {
            let directory = directory?.path();
            let Some(tenant) = name_of(&directory).and_then(|name| name.parse().ok()) else {
                continue;
            };
            for file in fs::read_dir(&directory)? {
                let path = file?.path();
                files.extend(name_of(&path).and_then(|name| FileId::of_name(tenant, name)));
            }
        }
        Ok(files)
    }

    fn create(&self, file: impl Into<FileId>) -> io::Result<()> {
        let path = self.path(file);
        if let Some(directory) = path.parent()
            && !directory.is_dir()
        {
            fs::DirBuilder::new().mode(0o700).create(directory)?;
        }
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map(drop)
    }

    fn write_at(&self, file: impl Into<FileId>, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writer(file)?.write_all_at(data, offset)
    }

    fn read_at(&self, file: impl Into<FileId>, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = self.reader(file)?;
        let mut filled = 0;
        while filled < buf.len() {
            match file.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    fn length(&self, file: impl Into<FileId>) -> io::Result<u64> {
        Ok(fs::metadata(self.path(file))?.len())
    }

    fn truncate(&self, file: impl Into<FileId>, length: u64) -> io::Result<()> {
        self.writer(file)?.set_len(length)
    }

    fn sync(&self, file: impl Into<FileId>) -> io::Result<()> {
        self.writer(file)?.sync_data()
    }

    fn remove(&self, file: impl Into<FileId>) -> io::Result<()> {
        let file = file.into();
        self.close(file);
        match fs::remove_file(self.path(file)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn rename(&self, from: impl Into<FileId>, to: impl Into<FileId>) -> io::Result<()> {
        let (from, to) = (from.into(), to.into());
        fs::rename(self.path(from), self.path(to))?;
        self.close(from);
        self.close(to);
        Ok(())
    }

    fn drop_cached(&self, file: impl Into<FileId>) {
        let file = file.into();
        // Opened anew by its name: a file that was taken away by others can be read as long as
        // it is open.
        self.close(file);
        if let Ok(file) = self.reader(file) {
            // Advice: where it is not taken, reads come from memory.
            let _ = rustix::fs::fadvise(&*file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }

    fn sync_directory(&self, tenant: TenantId) -> io::Result<()> {
        File::open(self.root.join(tenant.to_string()))?.sync_all()?;
        File::open(&self.root)?.sync_all()
    }
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}
