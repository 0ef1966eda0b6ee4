//! Several file systems seen as one tree, as the server saw them once it was up.
//!
//! Symbolic links are followed here and not by the file systems, because a link may lead from
//! one into another (`/lib -> usr/lib` with `/usr` on its own volume).

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{FileSystem, FsError, Node};

const MAX_LINKS: usize = 40;
/// Steps of one look-up, links included; and how deep it may come. A damaged directory may hold
/// itself, so that links through it would lead ever deeper.
const MAX_STEPS: usize = 1024;
const MAX_DEPTH: usize = 128;
/// Largest file that is read as text: `modules.dep`, the largest there is, has a megabyte.
const MAX_TEXT: u64 = 16 << 20;

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
        let (mut links, mut steps) = (0, 0);
        while let Some(part) = pending.pop() {
            steps += 1;
            if steps > MAX_STEPS || done.len() >= MAX_DEPTH {
                return Err(FsError::LinkLoop { path: path.into() });
            }
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

    /// Reads a file unless it is too large to be a text.
    pub fn small(&self, path: &str) -> Option<Vec<u8>> {
        let place = self.find(path).ok()??;
        match place.node {
            Node::File(length) if length <= MAX_TEXT => {
                self.volume(place.volume)?.read(&place.path).ok()
            }
            _ => None,
        }
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
        let bytes = self.small(path)?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A directory that holds itself, a link that leads through it many times, and a huge file.
    struct Twisted;

    impl FileSystem for Twisted {
        fn node(&self, path: &str) -> Result<Option<Node>, FsError> {
            Ok(Some(match path.rsplit('/').next() {
                Some("deep") => Node::Symlink("d/".repeat(2000) + "deep"),
                Some("huge") => Node::File(1 << 40),
                Some("small") => Node::File(5),
                _ => Node::Directory,
            }))
        }

        fn list(&self, _: &str) -> Result<Vec<String>, FsError> {
            Ok(Vec::new())
        }

        fn read(&self, path: &str) -> Result<Vec<u8>, FsError> {
            assert!(path.ends_with("small"), "{path} was read into memory");
            Ok(b"small".to_vec())
        }
    }

    #[test]
    fn links_that_lead_ever_deeper_end() {
        let tree = Tree::of(0, Rc::new(Twisted));
        assert!(matches!(tree.find("/deep"), Err(FsError::LinkLoop { .. })));
        assert!(
            tree.find("/usr/lib/modules/6.1.0/kernel")
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn a_huge_file_is_no_text() {
        let tree = Tree::of(0, Rc::new(Twisted));
        assert_eq!(tree.text("/huge"), None);
        assert_eq!(tree.text("/small").as_deref(), Some("small"));
    }
}
