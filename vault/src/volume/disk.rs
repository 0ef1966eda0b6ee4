//! Packs in a directory of a real file system: `packs/<tenant>/<number>.pack`.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use relevo_wire::TenantId;

use super::{PackId, Volume};

/// Files kept open; more are closed and opened again when needed.
const OPEN_FILES: usize = 256;

/// The packs below one directory.
pub struct DiskVolume {
    root: PathBuf,
    readers: Handles,
    writers: Handles,
}

type Handles = Mutex<HashMap<PackId, Arc<File>>>;

impl DiskVolume {
    /// The packs below `root`, which exists.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            readers: Handles::default(),
            writers: Handles::default(),
        }
    }

    /// Where a pack is.
    pub fn path(&self, pack: PackId) -> PathBuf {
        self.root.join(pack.to_string())
    }

    fn open(&self, handles: &Handles, pack: PackId, write: bool) -> io::Result<Arc<File>> {
        let mut handles = handles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = handles.get(&pack) {
            return Ok(file.clone());
        }
        let file = OpenOptions::new()
            .read(true)
            .write(write)
            .open(self.path(pack))?;
        if handles.len() >= OPEN_FILES {
            handles.clear();
        }
        let file = Arc::new(file);
        handles.insert(pack, file.clone());
        Ok(file)
    }

    fn reader(&self, pack: PackId) -> io::Result<Arc<File>> {
        self.open(&self.readers, pack, false)
    }

    fn writer(&self, pack: PackId) -> io::Result<Arc<File>> {
        self.open(&self.writers, pack, true)
    }
}

impl Volume for DiskVolume {
    fn list(&self) -> io::Result<Vec<PackId>> {
        let mut packs = Vec::new();
        for directory in fs::read_dir(&self.root)? {
            let directory = directory?.path();
            let Some(tenant) = name_of(&directory).and_then(|name| name.parse().ok()) else {
                continue;
            };
            for file in fs::read_dir(&directory)? {
                let number = name_of(&file?.path())
                    .and_then(|name| name.strip_suffix(".pack"))
                    .and_then(|digits| digits.parse().ok());
                packs.extend(number.map(|number| PackId { tenant, number }));
            }
        }
        Ok(packs)
    }

    fn create(&self, pack: PackId) -> io::Result<()> {
        let path = self.path(pack);
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

    fn write_at(&self, pack: PackId, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writer(pack)?.write_all_at(data, offset)
    }

    fn read_at(&self, pack: PackId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = self.reader(pack)?;
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

    fn length(&self, pack: PackId) -> io::Result<u64> {
        Ok(fs::metadata(self.path(pack))?.len())
    }

    fn truncate(&self, pack: PackId, length: u64) -> io::Result<()> {
        self.writer(pack)?.set_len(length)
    }

    fn sync(&self, pack: PackId) -> io::Result<()> {
        self.writer(pack)?.sync_data()
    }

    fn remove(&self, pack: PackId) -> io::Result<()> {
        for handles in [&self.readers, &self.writers] {
            let mut handles = handles.lock().unwrap_or_else(PoisonError::into_inner);
            handles.remove(&pack);
        }
        match fs::remove_file(self.path(pack)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
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
