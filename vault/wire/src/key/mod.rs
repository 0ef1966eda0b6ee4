//! Keys of a tenant, and the files and papers that carry them.
//!
//! | key | who has it | what it opens |
//! | --- | --- | --- |
//! | tenant secret | agents, recovery site | nothing by itself: it makes equal blocks of one tenant equal chunks, and of two tenants different ones |
//! | public key (X25519) | agents, recovery site | nothing: manifests are sealed to it |
//! | private key (X25519) | recovery site only | manifests, and through them every index and chunk |
//!
//! The vault has none of them.
//!
//! * `file`: the two key files; keys come in generations, of which the newest seals and each
//!   opens what it sealed.
//! * `wrapped`, `passphrase`, `recovery`: opening keys at rest, of no use to a thief.
//! * `shamir`, `typed`: recovery keys among officers, and bytes that people type.

mod file;
mod hex;
mod passphrase;
mod recovery;
mod shamir;
pub mod typed;
mod wrapped;

use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::agreement::{self, X25519};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::id::{TenantId, random_bytes};
use crate::time::Timestamp;

pub use file::KeyFile;
pub use passphrase::{Passphrase, PassphraseCost};
pub use recovery::{RecoveryId, RecoveryKey, RecoveryPublicKey, Share, ShareError};
pub use typed::TypedError;
pub use wrapped::{Unlock, WrappedKeys, Wrapping};

/// Why keys could not be used.
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
    /// A newer release wrote it.
    #[error("key file {path} has version {version}, newer than this release reads")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// It wants a passphrase or a recovery key.
    #[error("the keys in {path} are wrapped: {ways} opens them")]
    Wrapped {
        /// The file.
        path: PathBuf,
        /// What opens it.
        ways: String,
    },
    /// The passphrase is another one.
    #[error("the passphrase does not open these keys")]
    WrongPassphrase,
    /// No passphrase opens it.
    #[error("no passphrase opens these keys, but {0}")]
    NotByPassphrase(String),
    /// The recovery key is another one.
    #[error("recovery key {given} does not open these keys, but {ways}")]
    WrongRecoveryKey {
        /// The one that was given.
        given: RecoveryId,
        /// What opens them.
        ways: String,
    },
    /// The key opens, and what it opens is not what was wrapped.
    #[error("the wrapped keys were altered or damaged")]
    Altered,
    /// The file asks for more than is sane.
    #[error(
        "its passphrase costs {memory_kib} KiB, {passes} passes, {lanes} lanes: outside of what is taken (at most 1 GiB, 16 passes, 16 lanes)"
    )]
    Cost {
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// Too short to protect a file.
    #[error(
        "the passphrase has {found} characters: at least {} are needed",
        passphrase::SHORTEST
    )]
    ShortPassphrase {
        /// Its characters.
        found: usize,
    },
    /// Neither open nor wrapped, or wrapped too often.
    #[error("keys are wrapped in one to {} ways", wrapped::MOST_SLOTS)]
    NoWrapping,
    /// No generation, or too many.
    #[error("{0} generations: a key file has 1 to {most}", most = file::MOST_GENERATIONS)]
    Generations(usize),
    /// An unwrapped file without secrets.
    #[error("a generation lacks its secret or its private key")]
    NoSecrets,
    /// Generations that are not newest first.
    #[error("its generations are not in order, newest first")]
    Disordered,
    /// Private and public key do not belong together.
    #[error("its private and public keys do not belong together")]
    NotAPair,
    /// The lines are not those of a paper.
    #[error("these lines are not those of a key paper")]
    NotAPaper,
    /// Lines were mistyped.
    #[error(transparent)]
    Typed(#[from] TypedError),
    /// Shares do not give a key.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The key bytes are not a key.
    #[error("not an X25519 key")]
    BadKey,
}

impl KeyError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }
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
    /// Counts the tenant's generations of keys, from 1.
    pub generation: u32,
    /// Makes chunk keys.
    pub secret: TenantSecret,
    /// Manifests are sealed to it.
    pub public: TenantPublicKey,
    /// Secrets of earlier generations, newest first: what was sealed under them is known again
    /// and not sent again.
    pub previous_secrets: Vec<TenantSecret>,
}

/// What a recovery site needs to open images.
#[derive(Clone)]
pub struct OpeningKeys {
    /// The sealing half.
    pub sealing: SealingKeys,
    /// Opens manifests.
    pub private: TenantPrivateKey,
    /// When the newest generation was made; unknown in files of version 1.
    pub made: Option<Timestamp>,
    /// Earlier generations, newest first: they open what was sealed in their time.
    pub previous: Vec<Generation>,
}

/// The keys of one time.
#[derive(Clone)]
pub struct Generation {
    /// Counts from 1.
    pub number: u32,
    /// When it was made; unknown in files of version 1.
    pub made: Option<Timestamp>,
    /// Makes chunk keys, authenticates manifests.
    pub secret: TenantSecret,
    /// Manifests are sealed to it.
    pub public: TenantPublicKey,
    /// Opens manifests.
    pub private: TenantPrivateKey,
}

impl OpeningKeys {
    /// New keys for a new tenant.
    pub fn generate() -> Result<Self, KeyError> {
        let private = TenantPrivateKey(random_bytes());
        let sealing = SealingKeys {
            tenant: TenantId::random(),
            generation: 1,
            secret: TenantSecret(random_bytes()),
            public: private.public()?,
            previous_secrets: Vec::new(),
        };
        Ok(Self {
            sealing,
            private,
            made: Some(Timestamp::now()),
            previous: Vec::new(),
        })
    }

    /// Begins a new generation: a new pair, and with `new_secret` a new tenant secret. What was
    /// sealed before still opens.
    pub fn rotate(&mut self, new_secret: bool) -> Result<(), KeyError> {
        let mut generations: Vec<Generation> = self.generations().collect();
        let newest = generations.first().ok_or(KeyError::Generations(0))?;
        let private = TenantPrivateKey(random_bytes());
        let next = Generation {
            number: newest.number.checked_add(1).ok_or(KeyError::Disordered)?,
            made: Some(Timestamp::now()),
            secret: match new_secret {
                true => TenantSecret(random_bytes()),
                false => newest.secret.clone(),
            },
            public: private.public()?,
            private,
        };
        generations.insert(0, next);
        *self = Self::from_generations(self.sealing.tenant, generations)?;
        Ok(())
    }

    /// All generations, newest first.
    pub fn generations(&self) -> impl Iterator<Item = Generation> + '_ {
        let newest = Generation {
            number: self.sealing.generation,
            made: self.made,
            secret: self.sealing.secret.clone(),
            public: self.sealing.public,
            private: self.private.clone(),
        };
        std::iter::once(newest).chain(self.previous.iter().cloned())
    }

    /// Whether these are the same generations of the same tenant's keys.
    pub fn same_as(&self, other: &Self) -> bool {
        self.sealing.tenant == other.sealing.tenant
            && self.generations().count() == other.generations().count()
            && self.has_all_of(other)
    }

    /// Whether these open all that `other` opens.
    pub fn has_all_of(&self, other: &Self) -> bool {
        self.sealing.tenant == other.sealing.tenant
            && other.generations().all(|theirs| {
                self.generations().any(|own| {
                    (own.number, own.public) == (theirs.number, theirs.public)
                        && own.secret == theirs.secret
                })
            })
    }

    /// From generations, newest first; each is checked.
    fn from_generations(
        tenant: TenantId,
        mut generations: Vec<Generation>,
    ) -> Result<Self, KeyError> {
        if generations.is_empty() || generations.len() > file::MOST_GENERATIONS {
            return Err(KeyError::Generations(generations.len()));
        }
        if !generations.is_sorted_by(|a, b| a.number > b.number) {
            return Err(KeyError::Disordered);
        }
        for generation in &generations {
            if generation.private.public()? != generation.public {
                return Err(KeyError::NotAPair);
            }
        }
        let newest = generations.remove(0);
        let mut previous_secrets: Vec<TenantSecret> = Vec::new();
        for generation in &generations {
            let secret = &generation.secret;
            if *secret != newest.secret && !previous_secrets.contains(secret) {
                previous_secrets.push(secret.clone());
            }
        }
        Ok(Self {
            sealing: SealingKeys {
                tenant,
                generation: newest.number,
                secret: newest.secret,
                public: newest.public,
                previous_secrets,
            },
            private: newest.private,
            made: newest.made,
            previous: generations,
        })
    }
}
