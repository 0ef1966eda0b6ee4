//! Several file systems seen as one tree, as the server saw them once it was up.
//!
//! Symbolic links are followed here and not by the file systems, because a link may lead from
//! one into another (`/lib -> usr/lib` with `/usr` on its own volume).

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{FileSystem, FsError, Node};

const MAX_LINKS: usize = 40;

/// Where a path ended up.
#[derive(Clone)]
pub struct Place {
    /// Index of the volume that holds it, as given to [`Tree::mount`].
    pub volume: usize,
    /// Path within that volume.
    pub path: String,
    /// What is there.
    pub node: Node,
}

/// File systems joined at their mount points.
#[derive(Default, Clone)]
pub struct Tree {
    mounts: BTreeMap<String, (usize, Rc<dyn FileSystem>)>,
}

impl Tree {
    /// A tree of one file system.
    pub fn of(volume: usize, fs: Rc<dyn FileSystem>) -> Self {
        let mut tree = Self::default();
        tree.mount("/", volume, fs);
        tree
    }

    /// Puts a file system at an absolute path (`/`, `/boot`, …); `volume` is the caller's number for it.
    pub fn mount(&mut self, at: &str, volume: usize, fs: Rc<dyn FileSystem>) {
        let at = if at == "/" {
            String::new()
        } else {
            at.trim_end_matches('/').to_owned()
        };
        self.mounts.insert(at, (volume, fs));
    }

    /// Mount points, without the root, and their volumes.
    pub fn mounts(&self) -> impl Iterator<Item = (&str, usize)> {
        self.mounts
            .iter()
            .filter(|(at, _)| !at.is_empty())
            .map(|(at, (volume, _))| (at.as_str(), *volume))
    }

    /// Finds what `path` names, following every symbolic link; `None` if it does not exist.
    pub fn find(&self, path: &str) -> Result<Option<Place>, FsError> {
        let mut pending: Vec<String> = parts(path);
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = pending.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            done.push(part);
            let Some((_, fs, inner)) = self.mounted(&done) else {
                return Ok(None);
            };
            match fs.node(&inner)? {
                None => return Ok(None),
                Some(Node::Symlink(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(FsError::LinkLoop { path: path.into() });
                    }
                    done.pop();
                    if target.starts_with('/') {
                        done.clear();
                    }
                    pending.extend(parts(&target));
                }
                Some(Node::Directory) => {}
                Some(_) if pending.is_empty() => {}
                Some(_) => return Ok(None),
            }
        }
        let Some((volume, fs, inner)) = self.mounted(&done) else {
            return Ok(None);
        };
        Ok(fs.node(&inner)?.map(|node| Place {
            volume,
            path: inner,
            node,
        }))
    }

    /// Whether `path` names a regular file.
    pub fn is_file(&self, path: &str) -> bool {
        matches!(
            self.find(path),
            Ok(Some(Place {
                node: Node::File(_),
                ..
            }))
        )
    }

    /// Reads a regular file; `None` if there is none at `path`.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, FsError> {
        match self.find(path)? {
            Some(Place {
                path,
                node: Node::File(_),
                volume,
            }) => match self.volume(volume) {
                Some(fs) => fs.read(&path).map(Some),
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// Reads a text file; bytes that are not UTF-8 are replaced. `None` if it cannot be read.
    pub fn text(&self, path: &str) -> Option<String> {
        let bytes = self.read(path).ok()??;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Names in a directory, sorted; empty if there is none at `path`.
    pub fn list(&self, path: &str) -> Vec<String> {
        match self.find(path) {
            Ok(Some(Place {
                path,
                node: Node::Directory,
                volume,
            })) => self
                .volume(volume)
                .and_then(|fs| fs.list(&path).ok())
                .unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    fn volume(&self, volume: usize) -> Option<&Rc<dyn FileSystem>> {
        self.mounts
            .values()
            .find(|(v, _)| *v == volume)
            .map(|(_, fs)| fs)
    }

    /// The volume mounted deepest on the way to these components, and the rest of the path.
    fn mounted(&self, components: &[String]) -> Option<(usize, &Rc<dyn FileSystem>, String)> {
        for depth in (0..=components.len()).rev() {
            let at: String = components[..depth]
                .iter()
                .map(|c| format!("/{c}"))
                .collect();
            if let Some((volume, fs)) = self.mounts.get(&at) {
                return Some((*volume, fs, format!("/{}", components[depth..].join("/"))));
            }
        }
        None
    }
}

/// Components of a path, last first, so that they can be popped.
fn parts(path: &str) -> Vec<String> {
    path.split('/')
        .rev()
        .filter(|p| !p.is_empty() && *p != ".")
        .map(str::to_owned)
        .collect()
}
