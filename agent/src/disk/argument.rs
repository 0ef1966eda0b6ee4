//! A disk as named on the command line.

use std::path::{Path, PathBuf};
use std::str::FromStr;

/// `PATH` or `PATH=NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskArgument {
    /// Where it is.
    pub path: PathBuf,
    /// What to call it in the image.
    pub name: String,
}

impl FromStr for DiskArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, name) = match text.rsplit_once('=') {
            // A path may itself have a '=' in it.
            Some((path, name)) if !Path::new(text).exists() => (path, Some(name)),
            _ => (text, None),
        };
        if path.is_empty() {
            return Err("expected PATH or PATH=NAME".into());
        }
        match name {
            None => Ok(Self::from(PathBuf::from(path))),
            Some(name) if is_name(name) => Ok(Self {
                path: path.into(),
                name: name.into(),
            }),
            Some(name) => Err(format!(
                "'{name}' is not a disk's name: letters, digits, '-', '_' and '.' only"
            )),
        }
    }
}

impl From<PathBuf> for DiskArgument {
    /// Named after the file, without its extension.
    fn from(path: PathBuf) -> Self {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let name: String = stem
            .chars()
            .map(|c| if is_name_char(c) { c } else { '-' })
            .collect();
        let name = if name.is_empty() { "disk".into() } else { name };
        Self { path, name }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.chars().all(is_name_char)
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn disks_are_named_after_their_file_or_as_told() {
        let named = |text: &str| text.parse::<DiskArgument>().map(|d| d.name);
        assert_eq!(named("/dev/sda").unwrap(), "sda");
        assert_eq!(named("/srv/old server.raw").unwrap(), "old-server");
        assert_eq!(named("/srv/a.raw=vda").unwrap(), "vda");
        assert!(named("/srv/a.raw=a/b").is_err());
        assert!(named("").is_err());
    }
}
