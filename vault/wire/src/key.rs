//! Keys of a tenant, and the two files that carry them.
//!
//! | key | who has it | what it opens |
//! | --- | --- | --- |
//! | tenant secret | agents, recovery site | nothing by itself: it makes equal blocks of one tenant equal chunks, and of two tenants different ones |
//! | public key (X25519) | agents, recovery site | nothing: manifests are sealed to it |
//! | private key (X25519) | recovery site only | manifests, and through them every index and chunk |
//!
//! The vault has none of them.

use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::agreement::{self, X25519};
use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::id::{TenantId, random_bytes};
use crate::secret_file;

/// Why a key file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read or written.
    #[error("key file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is not a key file, or not one of this kind.
    #[error("key file {path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key bytes are not a key.
    #[error("not an X25519 key")]
    BadKey,
}

/// 32 bytes that make a tenant's chunk keys its own.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct TenantSecret([u8; 32]);

impl TenantSecret {
    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The key that seals one chunk: keyed BLAKE3 of its plaintext under the tenant secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkKey([u8; 32]);

impl ChunkKey {
    /// From its bytes, as an index holds them.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for ChunkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChunkKey(…)")
    }
}

/// The tenant's public X25519 key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantPublicKey(pub(crate) [u8; 32]);

/// The tenant's private X25519 key. Lives at the recovery site.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct TenantPrivateKey([u8; 32]);

impl TenantPrivateKey {
    /// The public key that belongs to it.
    pub fn public(&self) -> Result<TenantPublicKey, KeyError> {
        let public = self
            .agreement_key()?
            .compute_public_key()
            .map_err(|_| KeyError::BadKey)?;
        let bytes = public.as_ref().try_into().map_err(|_| KeyError::BadKey)?;
        Ok(TenantPublicKey(bytes))
    }

    pub(crate) fn agreement_key(&self) -> Result<agreement::PrivateKey, KeyError> {
        agreement::PrivateKey::from_private_key(&X25519, &self.0).map_err(|_| KeyError::BadKey)
    }
}

/// What an agent needs to seal: it can write images and read none.
#[derive(Clone)]
pub struct SealingKeys {
    /// Whose keys these are.
    pub tenant: TenantId,
    /// Makes chunk keys.
    pub secret: TenantSecret,
    /// Manifests are sealed to it.
    pub public: TenantPublicKey,
}

/// What a recovery site needs to open images.
#[derive(Clone)]
pub struct OpeningKeys {
    /// The sealing half.
    pub sealing: SealingKeys,
    /// Opens manifests.
    pub private: TenantPrivateKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    format: String,
    tenant: TenantId,
    secret: String,
    public: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    private: Option<String>,
}

const SEALING_FORMAT: &str = "relevo-sealing-keys/1";
const OPENING_FORMAT: &str = "relevo-opening-keys/1";

impl OpeningKeys {
    /// New keys for a new tenant.
    pub fn generate() -> Result<Self, KeyError> {
        let private = TenantPrivateKey(random_bytes());
        let sealing = SealingKeys {
            tenant: TenantId::random(),
            secret: TenantSecret(random_bytes()),
            public: private.public()?,
        };
        Ok(Self { sealing, private })
    }

    /// Writes a new file that only its owner can read; refuses to replace one.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let file = KeyFile {
            format: OPENING_FORMAT.into(),
            private: Some(HEX.encode(&self.private.0)),
            ..self.sealing.to_file(OPENING_FORMAT)
        };
        write_secret_file(path, &file)
    }

    /// Reads the file that [`write`](Self::write) made.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let file = read_file(path, OPENING_FORMAT)?;
        let private = file.private.as_deref().unwrap_or_default();
        let private = TenantPrivateKey(decode_key(path, "private", private)?);
        let sealing = SealingKeys::from_file(path, &file)?;
        if private.public()? != sealing.public {
            return Err(malformed(
                path,
                "its private and public keys do not belong together",
            ));
        }
        Ok(Self { sealing, private })
    }
}

impl SealingKeys {
    /// Writes a new file that only its owner can read; refuses to replace one.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        write_secret_file(path, &self.to_file(SEALING_FORMAT))
    }

    /// Reads the file that [`write`](Self::write) made.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        Self::from_file(path, &read_file(path, SEALING_FORMAT)?)
    }

    fn to_file(&self, format: &str) -> KeyFile {
        KeyFile {
            format: format.into(),
            tenant: self.tenant,
            secret: HEX.encode(&self.secret.0),
            public: HEX.encode(&self.public.0),
            private: None,
        }
    }

    fn from_file(path: &Path, file: &KeyFile) -> Result<Self, KeyError> {
        Ok(Self {
            tenant: file.tenant,
            secret: TenantSecret(decode_key(path, "secret", &file.secret)?),
            public: TenantPublicKey(decode_key(path, "public", &file.public)?),
        })
    }
}

fn malformed(path: &Path, reason: impl Into<String>) -> KeyError {
    KeyError::Malformed {
        path: path.to_path_buf(),
        reason: reason.into(),
    }
}

fn decode_key(path: &Path, name: &str, text: &str) -> Result<[u8; 32], KeyError> {
    HEX.decode(text.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| malformed(path, format!("'{name}' is not 64 hexadecimal digits")))
}

fn read_file(path: &Path, format: &str) -> Result<KeyFile, KeyError> {
    let text = std::fs::read_to_string(path).map_err(|source| KeyError::Io {
        path: path.to_path_buf(),
        source,
    })?;
    let file: KeyFile = toml::from_str(&text).map_err(|e| malformed(path, e.message()))?;
    if file.format != format {
        return Err(malformed(
            path,
            format!("it is '{}', expected '{format}'", file.format),
        ));
    }
    Ok(file)
}

fn write_secret_file(path: &Path, file: &KeyFile) -> Result<(), KeyError> {
    let fail = |source| KeyError::Io {
        path: path.to_path_buf(),
        source,
    };
    let text = toml::to_string(file).map_err(|e| malformed(path, e.to_string()))?;
    secret_file::create(path, &text).map_err(fail)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn key_files_read_back_and_are_not_mistaken_for_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let keys = OpeningKeys::generate().unwrap();
        let (opening, sealing) = (dir.path().join("o.toml"), dir.path().join("s.toml"));
        keys.write(&opening).unwrap();
        keys.sealing.write(&sealing).unwrap();
        assert!(OpeningKeys::read(&opening).unwrap().sealing.secret == keys.sealing.secret);
        assert_eq!(
            SealingKeys::read(&sealing).unwrap().public,
            keys.sealing.public
        );
        // The agent's file must not carry the private key, nor pass for the site's.
        assert!(
            !std::fs::read_to_string(&sealing)
                .unwrap()
                .contains("private")
        );
        assert!(OpeningKeys::read(&sealing).is_err());
        assert!(
            keys.write(&opening).is_err(),
            "an existing key file must never be replaced"
        );
    }
}
