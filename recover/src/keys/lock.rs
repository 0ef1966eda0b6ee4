//! How a key file is to be wrapped, and recovery keys as pages for a safe or for officers.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use relevo_wire::key::{
    KeyFile, OpeningKeys, Passphrase, PassphraseCost, RecoveryKey, RecoveryPublicKey, Unlock,
    WrappedKeys, Wrapping,
};
use relevo_wire::{TenantId, Timestamp};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// `K/N`: any K of N shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Shares that give the key.
    pub threshold: u8,
    /// Shares made.
    pub count: u8,
}

impl FromStr for Split {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (threshold, count) = text.split_once('/')?;
            let (threshold, count) = (threshold.parse().ok()?, count.parse().ok()?);
            (threshold >= 2 && threshold <= count).then_some(Self { threshold, count })
        };
        parse().ok_or_else(|| {
            format!("'{text}' is no split such as 3/5: any 3 of 5 shares (2 or more, at most 255)")
        })
    }
}

/// The ways into a key file.
#[derive(Default)]
pub struct Locks {
    /// By a passphrase.
    pub passphrase: Option<Passphrase>,
    /// By recovery keys.
    pub recovery: Vec<RecoveryPublicKey>,
}

impl Locks {
    /// Those of a file that was opened: the passphrase where it is known.
    pub fn of(file: &KeyFile, by: Option<&Unlock>) -> Self {
        let KeyFile::Wrapped(wrapped) = file else {
            return Self::default();
        };
        Self {
            passphrase: match by {
                Some(Unlock::Passphrase(passphrase)) => Some(passphrase.clone()),
                _ => None,
            },
            recovery: wrapped.recovery_keys(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.passphrase.is_none() && self.recovery.is_empty()
    }

    /// The key file: wrapped in these ways, or open when there are none.
    pub fn close(&self, keys: OpeningKeys) -> Result<KeyFile, Failure> {
        if self.is_empty() {
            return Ok(KeyFile::Open(keys));
        }
        let cost = PassphraseCost::default();
        let passphrase = self.passphrase.iter();
        let mut ways: Vec<Wrapping<'_>> = passphrase
            .map(|passphrase| Wrapping::Passphrase(passphrase, cost))
            .collect();
        ways.extend(self.recovery.iter().map(|key| Wrapping::Recovery(*key)));
        Ok(KeyFile::Wrapped(WrappedKeys::wrap(&keys, &ways)?))
    }
}

/// Writes a new recovery key, whole or in shares, as pages to be printed. Returns their paths.
pub fn write_recovery_pages(
    key: &RecoveryKey,
    split: Option<Split>,
    tenant: TenantId,
    dir: &Path,
) -> Result<Vec<PathBuf>, Failure> {
    let id = key.public()?.id();
    let head = |what: &str| {
        format!(
            "RELEVO {what}\ntenant {tenant}\nmade {}\n\n",
            Timestamp::now()
        )
    };
    let Some(split) = split else {
        let title = format!("RECOVERY KEY {id}");
        let explained = "Whoever has these lines and a key file or key paper that recovery key opens, opens\n\
            every image of this tenant. Keep this page in a safe, away from the site. On screens\n\
            and disks it has no place: print it, then delete the file.\n";
        let text = page(&head(&title), &key.lines(), explained);
        let path = dir.join("recovery-key.txt");
        write_secret(&path, &text)?;
        return Ok(vec![path]);
    };
    let mut paths = Vec::new();
    for share in key.split(split.threshold, split.count)? {
        let (number, count, threshold) = (share.number, split.count, split.threshold);
        let title = format!(
            "RECOVERY KEY {id}\nshare {number} of {count}: any {threshold} give the key; set {:04x}",
            share.set
        );
        let explained = format!(
            "This page alone tells nothing. With {} more of its set it opens every image of this\n\
             tenant. Keep it where no other share is. On screens and disks it has no place: print\n\
             it, then delete the file.\n",
            threshold - 1
        );
        let text = page(&head(&title), &share.lines(), &explained);
        let path = dir.join(format!("share-{number}-of-{count}.txt"));
        write_secret(&path, &text)?;
        paths.push(path);
    }
    Ok(paths)
}

fn page(head: &str, lines: &[String], explained: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new(head.to_string());
    text.push_str("-----BEGIN RELEVO RECOVERY KEY-----\n");
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str("-----END RELEVO RECOVERY KEY-----\n\n");
    text.push_str(explained);
    text
}

/// Writes a new file that only its owner can read; refuses to replace one.
pub fn write_secret(path: &Path, text: &str) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Failure::new(
                format!("{} exists already", path.display()),
                "choose another directory, or move it away",
            ),
            _ => Failure::io(path, &e),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits() {
        let (threshold, count) = (3, 5);
        assert_eq!("3/5".parse(), Ok(Split { threshold, count }));
        for wrong in ["", "3", "1/5", "6/5", "0/0", "3/256", "a/b", "2/3/4"] {
            assert!(wrong.parse::<Split>().is_err(), "{wrong}");
        }
    }
}
