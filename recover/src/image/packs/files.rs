//! The pack files below a directory: a vault's, a copy of its packs, or one tenant's.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use relevo_vault::pack::{FIRST_ENTRY, PACK_VERSION, PackHeader};
use relevo_wire::TenantId;

/// Files kept open.
const OPEN_FILES: usize = 256;
/// How deep packs may lie: `vault/packs/TENANT/00000001.pack`.
const DEPTH: usize = 3;

/// A pack of the tenant.
#[derive(Clone, Debug)]
pub struct PackFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it says of itself.
    pub header: PackHeader,
    /// Its length in bytes.
    pub length: u64,
}

/// The packs of one tenant, in the order in which they were written.
pub struct PackFiles {
    packs: Vec<PackFile>,
    open: Mutex<HashMap<usize, Arc<File>>>,
}

/// What a look around found besides.
#[derive(Default)]
pub struct Around {
    /// Packs of other tenants, by tenant.
    pub others: BTreeMap<TenantId, usize>,
    /// Packs that cannot be used, and why.
    pub unusable: Vec<String>,
}

impl PackFiles {
    /// Looks for the packs of `tenant`.
    pub fn find(dir: &Path, tenant: TenantId) -> io::Result<(Self, Around)> {
        let (mut paths, mut around) = (Vec::new(), Around::default());
        collect(dir, DEPTH, &mut paths)?;
        paths.sort();
        let mut packs: Vec<PackFile> = Vec::new();
        for path in paths {
            match read_header(&path) {
                Ok(pack) if pack.header.pack.tenant == tenant => packs.push(pack),
                Ok(pack) => *around.others.entry(pack.header.pack.tenant).or_default() += 1,
                Err(reason) => around
                    .unusable
                    .push(format!("pack {}: {reason}", path.display())),
            }
        }
        packs.sort_by_key(|pack| (pack.header.pack.number, pack.header.created));
        let open = Mutex::default();
        Ok((Self { packs, open }, around))
    }

    /// All of them.
    pub fn all(&self) -> &[PackFile] {
        &self.packs
    }

    /// Fills `buf` from `offset` of pack number `pack` of the list; fewer bytes only at its end.
    pub fn read_at(&self, pack: usize, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = self.open(pack)?;
        let mut filled = 0;
        while filled < buf.len() {
            match file.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    /// Reads exactly `length` bytes.
    pub fn read(&self, pack: usize, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut buf = vec![0; length];
        match self.read_at(pack, offset, &mut buf)? {
            filled if filled == length => Ok(buf),
            _ => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the pack ends too early",
            )),
        }
    }

    fn open(&self, pack: usize) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&pack) {
            return Ok(file.clone());
        }
        if open.len() >= OPEN_FILES {
            open.clear();
        }
        let file = Arc::new(File::open(&self.packs[pack].path)?);
        open.insert(pack, file.clone());
        Ok(file)
    }
}

fn collect(dir: &Path, depth: usize, packs: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "pack") && path.is_file() {
            packs.push(path);
        } else if depth > 0 && path.is_dir() {
            collect(&path, depth - 1, packs)?;
        }
    }
    Ok(())
}

fn read_header(path: &Path) -> Result<PackFile, String> {
    let read = || {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut bytes = vec![0; FIRST_ENTRY.min(length) as usize];
        // One copy in a sector that cannot be read leaves the other.
        for part in bytes.chunks_mut(4096).enumerate() {
            let _ = file.read_exact_at(part.1, part.0 as u64 * 4096);
        }
        Ok((bytes, length))
    };
    let (bytes, length) = read().map_err(|e: io::Error| e.to_string())?;
    let (header, _) = PackHeader::decode(&bytes)
        .ok_or_else(|| "both copies of its header are damaged".to_string())?;
    if header.version > PACK_VERSION {
        let version = header.version;
        return Err(format!(
            "it has version {version}, newer than this release reads: update Relevo"
        ));
    }
    Ok(PackFile {
        path: path.into(),
        header,
        length,
    })
}
