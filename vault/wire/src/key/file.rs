//! Key files as TOML, and the same content in few bytes for paper.
//!
//! Version 2 of both files carries generations; version 1 had one and is still read. Files are
//! written whole: a new one never replaces another, [`KeyFile::replace`] does so in one step.

use std::path::Path;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::hex::{Hex, HexBytes};
use super::wrapped::{MOST_SLOTS, WrappedKeys};
use super::{
    Generation, KeyError, OpeningKeys, SealingKeys, TenantPrivateKey, TenantPublicKey,
    TenantSecret, typed,
};
use crate::id::TenantId;
use crate::secret_file;
use crate::time::Timestamp;

pub(super) const OPENING: &str = "relevo-opening-keys/2";
const SEALING: &str = "relevo-sealing-keys/2";
/// Most bytes of a key file: far more than a thousand generations take.
const MOST_BYTES: u64 = 1 << 20;
/// Most generations of a file.
pub(super) const MOST_GENERATIONS: usize = 1000;
/// First byte of a key file on paper.
const KIND_PAPER: u8 = 3;

/// `opening-keys.toml`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpeningFile {
    pub format: String,
    pub tenant: TenantId,
    /// The secrets of all generations, when wrapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<HexBytes>,
    /// Newest first.
    pub generation: Vec<ClearGeneration>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wrapping: Vec<Slot>,
}

/// A generation; with its secrets in an unwrapped file only.
#[derive(Clone, Serialize, Deserialize, Encode, Decode)]
#[serde(deny_unknown_fields)]
pub struct ClearGeneration {
    #[n(0)]
    pub number: u32,
    #[n(1)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Timestamp>,
    #[n(2)]
    pub public: Hex<32>,
    #[n(3)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Hex<32>>,
    #[n(4)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<Hex<32>>,
}

/// One way into a wrapped file. `key` is the content key, sealed.
#[derive(Clone, Serialize, Deserialize, Encode, Decode)]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Slot {
    #[n(0)]
    Passphrase {
        #[n(0)]
        memory_kib: u32,
        #[n(1)]
        passes: u32,
        #[n(2)]
        lanes: u32,
        #[n(3)]
        salt: Hex<16>,
        #[n(4)]
        key: HexBytes,
    },
    #[n(1)]
    RecoveryKey {
        #[n(0)]
        recipient: Hex<32>,
        #[n(1)]
        ephemeral: Hex<32>,
        #[n(2)]
        key: HexBytes,
    },
}

/// `sealing-keys.toml`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealingFile {
    format: String,
    tenant: TenantId,
    generation: u32,
    secret: Hex<32>,
    public: Hex<32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    previous_secrets: Vec<Hex<32>>,
}

/// Version 1 of both files.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FirstFile {
    #[serde(rename = "format")]
    _format: String,
    tenant: TenantId,
    secret: Hex<32>,
    public: Hex<32>,
    private: Option<Hex<32>>,
}

/// Opening keys as a file or a paper has them.
#[derive(Clone)]
pub enum KeyFile {
    /// They can be used as they are.
    Open(OpeningKeys),
    /// They want a passphrase or a recovery key first.
    Wrapped(WrappedKeys),
}

impl KeyFile {
    /// Reads `opening-keys.toml` of any version.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let (version, table) = parse(path, "relevo-opening-keys")?;
        let invalid = |e: toml::de::Error| malformed(path, e.message());
        if version == 1 {
            let file: FirstFile = table.try_into().map_err(invalid)?;
            let private = file
                .private
                .ok_or_else(|| malformed(path, "it has no private key"))?;
            let generation = Generation {
                number: 1,
                made: None,
                secret: TenantSecret::from_bytes(file.secret.0),
                public: TenantPublicKey(file.public.0),
                private: TenantPrivateKey(private.0),
            };
            let keys = OpeningKeys::from_generations(file.tenant, vec![generation]);
            return keys
                .map(Self::Open)
                .map_err(|e| malformed(path, e.to_string()));
        }
        let file: OpeningFile = table.try_into().map_err(invalid)?;
        Self::from_file(file).map_err(|e| match e {
            KeyError::Cost { .. } => e,
            e => malformed(path, e.to_string()),
        })
    }

    /// Whose keys these are.
    pub fn tenant(&self) -> TenantId {
        match self {
            Self::Open(keys) => keys.sealing.tenant,
            Self::Wrapped(wrapped) => wrapped.tenant(),
        }
    }

    /// The generations' numbers and ages, newest first.
    pub fn generations(&self) -> Vec<(u32, Option<Timestamp>)> {
        let file = self.to_file();
        file.generation.iter().map(|g| (g.number, g.made)).collect()
    }

    /// The keys, when nothing else is needed for them.
    pub fn open(self, path: &Path) -> Result<OpeningKeys, KeyError> {
        match self {
            Self::Open(keys) => Ok(keys),
            Self::Wrapped(wrapped) => Err(KeyError::Wrapped {
                path: path.into(),
                ways: wrapped.ways(),
            }),
        }
    }

    /// Writes a new file that only its owner can read; refuses to replace one.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        secret_file::create(path, &self.text(path)?).map_err(|e| KeyError::io(path, e))
    }

    /// Puts the file in the place of another, in one step: after a crash there is one of the two.
    pub fn replace(&self, path: &Path) -> Result<(), KeyError> {
        secret_file::replace(path, &self.text(path)?).map_err(|e| KeyError::io(path, e))
    }

    /// The lines that go on paper: [`from_typed`](Self::from_typed) makes the file of them again.
    pub fn lines(&self) -> Result<Vec<String>, KeyError> {
        let file = self.to_file();
        let mut payload = Zeroizing::new(vec![KIND_PAPER]);
        let parts = (file.tenant, &file.generation, &file.sealed, &file.wrapping);
        minicbor::encode(parts, &mut *payload).map_err(|_| KeyError::Altered)?;
        Ok(typed::lines(&payload))
    }

    /// From the typed lines of a paper.
    pub fn from_typed(text: &[u8]) -> Result<Self, KeyError> {
        let Some((&KIND_PAPER, rest)) = text.split_first() else {
            return Err(KeyError::NotAPaper);
        };
        type Parts = (TenantId, Vec<ClearGeneration>, Option<HexBytes>, Vec<Slot>);
        let parts: Result<Parts, _> = minicbor::decode(rest);
        let (tenant, generation, sealed, wrapping) = parts.map_err(|_| KeyError::NotAPaper)?;
        Self::from_file(OpeningFile {
            format: OPENING.into(),
            tenant,
            generation,
            sealed,
            wrapping,
        })
    }

    fn text(&self, path: &Path) -> Result<Zeroizing<String>, KeyError> {
        let text = toml::to_string(&self.to_file());
        text.map(Zeroizing::new)
            .map_err(|e| malformed(path, e.to_string()))
    }

    fn to_file(&self) -> OpeningFile {
        match self {
            Self::Wrapped(wrapped) => wrapped.file.clone(),
            Self::Open(keys) => OpeningFile {
                format: OPENING.into(),
                tenant: keys.sealing.tenant,
                generation: keys
                    .generations()
                    .map(|g| ClearGeneration::of(&g, true))
                    .collect(),
                sealed: None,
                wrapping: Vec::new(),
            },
        }
    }

    fn from_file(file: OpeningFile) -> Result<Self, KeyError> {
        if file.generation.is_empty() || file.generation.len() > MOST_GENERATIONS {
            return Err(KeyError::Generations(file.generation.len()));
        }
        if file.wrapping.len() > MOST_SLOTS || file.wrapping.is_empty() != file.sealed.is_none() {
            return Err(KeyError::NoWrapping);
        }
        if file.sealed.is_some() {
            for slot in &file.wrapping {
                slot.check()?;
            }
            return Ok(Self::Wrapped(WrappedKeys { file }));
        }
        let generations: Option<Vec<_>> = file.generation.iter().map(|g| g.open()).collect();
        let generations = generations.ok_or(KeyError::NoSecrets)?;
        OpeningKeys::from_generations(file.tenant, generations).map(Self::Open)
    }
}

impl OpeningKeys {
    /// Writes a new, unwrapped file that only its owner can read; refuses to replace one.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        KeyFile::Open(self.clone()).write(path)
    }

    /// Reads an unwrapped file of any version.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        KeyFile::read(path)?.open(path)
    }
}

impl SealingKeys {
    /// Writes a new file that only its owner can read; refuses to replace one.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        secret_file::create(path, &self.text(path)?).map_err(|e| KeyError::io(path, e))
    }

    /// Puts the file in the place of another, in one step.
    pub fn replace(&self, path: &Path) -> Result<(), KeyError> {
        secret_file::replace(path, &self.text(path)?).map_err(|e| KeyError::io(path, e))
    }

    /// Reads a file of any version.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let (version, table) = parse(path, "relevo-sealing-keys")?;
        let invalid = |e: toml::de::Error| malformed(path, e.message());
        if version == 1 {
            let file: FirstFile = table.try_into().map_err(invalid)?;
            return Ok(Self {
                tenant: file.tenant,
                generation: 1,
                secret: TenantSecret::from_bytes(file.secret.0),
                public: TenantPublicKey(file.public.0),
                previous_secrets: Vec::new(),
            });
        }
        let file: SealingFile = table.try_into().map_err(invalid)?;
        if file.previous_secrets.len() > MOST_GENERATIONS {
            let error = KeyError::Generations(file.previous_secrets.len());
            return Err(malformed(path, error.to_string()));
        }
        let secret = |hex: &Hex<32>| TenantSecret::from_bytes(hex.0);
        Ok(Self {
            tenant: file.tenant,
            generation: file.generation,
            secret: secret(&file.secret),
            public: TenantPublicKey(file.public.0),
            previous_secrets: file.previous_secrets.iter().map(secret).collect(),
        })
    }

    fn text(&self, path: &Path) -> Result<Zeroizing<String>, KeyError> {
        let hex = |secret: &TenantSecret| Hex(*secret.as_bytes());
        let text = toml::to_string(&SealingFile {
            format: SEALING.into(),
            tenant: self.tenant,
            generation: self.generation,
            secret: hex(&self.secret),
            public: Hex(self.public.0),
            previous_secrets: self.previous_secrets.iter().map(hex).collect(),
        });
        text.map(Zeroizing::new)
            .map_err(|e| malformed(path, e.to_string()))
    }
}

impl ClearGeneration {
    pub(super) fn of(generation: &Generation, with_secrets: bool) -> Self {
        Self {
            number: generation.number,
            made: generation.made,
            public: Hex(generation.public.0),
            secret: with_secrets.then(|| Hex(*generation.secret.as_bytes())),
            private: with_secrets.then_some(Hex(generation.private.0)),
        }
    }

    fn open(&self) -> Option<Generation> {
        Some(Generation {
            number: self.number,
            made: self.made,
            secret: TenantSecret::from_bytes(self.secret?.0),
            public: TenantPublicKey(self.public.0),
            private: TenantPrivateKey(self.private?.0),
        })
    }
}

impl OpeningFile {
    /// What the sealed part is bound to.
    pub(super) fn clear_parts(&self) -> Result<Vec<u8>, KeyError> {
        minicbor::to_vec((&self.format, self.tenant, &self.generation))
            .map_err(|_| KeyError::Altered)
    }
}

impl Slot {
    /// What the wrapped content key is bound to.
    pub(super) fn clear_parts(&self, tenant: &TenantId) -> Result<Vec<u8>, KeyError> {
        let mut clear = self.clone();
        clear.fill(Vec::new());
        minicbor::to_vec(("relevo 1 wrapping", tenant, clear)).map_err(|_| KeyError::Altered)
    }

    pub(super) fn fill(&mut self, sealed: Vec<u8>) {
        let (Self::Passphrase { key, .. } | Self::RecoveryKey { key, .. }) = self;
        key.0 = sealed;
    }

    fn check(&self) -> Result<(), KeyError> {
        match *self {
            Self::Passphrase {
                memory_kib,
                passes,
                lanes,
                ..
            } => super::PassphraseCost {
                memory_kib,
                passes,
                lanes,
            }
            .check()
            .map(drop),
            Self::RecoveryKey { .. } => Ok(()),
        }
    }
}

/// Version and content of a key file of this kind.
fn parse(path: &Path, kind: &str) -> Result<(u32, toml::Table), KeyError> {
    let length = std::fs::metadata(path)
        .map_err(|e| KeyError::io(path, e))?
        .len();
    if length > MOST_BYTES {
        return Err(malformed(path, format!("it has {length} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| KeyError::io(path, e))?;
    let text = Zeroizing::new(text);
    let table: toml::Table = toml::from_str(&text).map_err(|e| malformed(path, e.message()))?;
    let format = table.get("format").and_then(toml::Value::as_str);
    let version =
        format.and_then(|format| format.strip_prefix(kind)?.strip_prefix('/')?.parse().ok());
    match version {
        Some(version @ 1..=2) => Ok((version, table)),
        Some(version) => Err(KeyError::Newer {
            path: path.into(),
            version,
        }),
        None => {
            let found = format.unwrap_or("no key file").to_string();
            Err(malformed(
                path,
                format!("it is '{found}', expected '{kind}'"),
            ))
        }
    }
}

fn malformed(path: &Path, reason: impl Into<String>) -> KeyError {
    KeyError::Malformed {
        path: path.to_path_buf(),
        reason: reason.into(),
    }
}

#[cfg(test)]
#[path = "file_test.rs"]
mod tests;
