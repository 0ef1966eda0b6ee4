//! A recovery point's manifest: what makes an image of the chunks.
//!
//! Its clear part names the server, the time and the roots, so that the vault can list the
//! point and prove it complete. Its body (disks, keys of the roots, consistency) is sealed to
//! the tenant's X25519 key, and both are authenticated under a key from the tenant secret: the
//! vault can neither read a manifest nor make or alter one.
//!
//! Version 2 adds fields at the ends of version 1, so that what reads 2 reads 1.

mod consistency;
mod faults;

use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::rand::SystemRandom;
use minicbor::{Decode, Encode};

use crate::chunk::{NONCE, open_with, seal_tail};
use crate::id::{ChunkId, PointId, ServerId};
use crate::index::ChunkRef;
use crate::key::{ChunkKey, Generation, OpeningKeys, SealingKeys, TenantPublicKey, TenantSecret};
use crate::time::Timestamp;

pub use consistency::{Consistency, Held, HookPhase, HookRun};
pub use faults::{Faults, Gone, MAX_UNREADABLE};

/// The version of this page.
pub const MANIFEST_VERSION: u32 = 2;

/// Why a manifest could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not the encoding of a manifest.
    #[error("the manifest is malformed: {0}")]
    Malformed(String),
    /// Made by a newer release.
    #[error("the manifest has version {0}, newer than this release reads: update Relevo")]
    Newer(u32),
    /// Not made with this tenant's keys, or changed since.
    #[error("the manifest was not made with this tenant's keys, or was altered")]
    Unauthentic,
}

/// Amounts of one run, in bytes and chunks. They tell the vault sizes that it sees anyway.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize,
)]
pub struct RunTotals {
    /// Bytes of the disks, holes included.
    #[n(0)]
    pub disk: u64,
    /// Bytes read from the disks.
    #[n(1)]
    pub read: u64,
    /// Bytes in spans that differ from the last image.
    #[n(2)]
    pub changed: u64,
    /// Plaintext bytes of chunks that the vault did not have.
    #[n(3)]
    pub new: u64,
    /// Sealed bytes sent, index included.
    #[n(4)]
    pub sent: u64,
}

/// The clear part.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PublicManifest {
    /// [`MANIFEST_VERSION`].
    #[n(0)]
    pub version: u32,
    /// The server that was imaged.
    #[n(1)]
    pub server: ServerId,
    /// The recovery point.
    #[n(2)]
    pub point: PointId,
    /// The moment whose state the image holds.
    #[n(3)]
    pub taken: Timestamp,
    /// Roots of the disks' indexes.
    #[n(4)]
    pub roots: Vec<ChunkId>,
    /// Chunks that hold the inventory.
    #[n(5)]
    pub inventory: Vec<ChunkId>,
    /// What the run read and sent.
    #[n(6)]
    pub totals: RunTotals,
}

/// One disk of the image.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DiskImage {
    /// The server's name for it, such as `sda`.
    #[n(0)]
    pub name: String,
    /// Size in bytes.
    #[n(1)]
    pub size: u64,
    /// Root of its index; none when it is all zeros.
    #[n(2)]
    pub root: Option<SealedRef>,
    /// Logical sector size in bytes.
    #[n(3)]
    pub sector: u32,
    /// The hardware's serial number, where known.
    #[n(4)]
    pub serial: Option<String>,
    /// What of it is missing; none when nothing is.
    #[n(5)]
    pub faults: Option<Faults>,
}

/// A [`ChunkRef`] as a manifest writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SealedRef {
    /// The chunk.
    #[n(0)]
    pub id: ChunkId,
    #[cbor(n(1), with = "minicbor::bytes")]
    key: [u8; 32],
    /// Plaintext length in bytes, for data chunks; 0 for nodes.
    #[n(2)]
    pub length: u32,
}

impl SealedRef {
    /// A reference to a node.
    pub fn node(chunk: ChunkRef) -> Self {
        Self::data(chunk, 0)
    }

    /// A reference to a data chunk of `length` bytes of plaintext.
    pub fn data(chunk: ChunkRef, length: u32) -> Self {
        Self {
            id: chunk.id,
            key: *chunk.key.as_bytes(),
            length,
        }
    }

    /// Id and key.
    pub fn chunk(&self) -> ChunkRef {
        ChunkRef {
            id: self.id,
            key: ChunkKey::from_bytes(self.key),
        }
    }
}

/// The sealed part.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ManifestBody {
    /// The disks in the server's order.
    #[n(0)]
    pub disks: Vec<DiskImage>,
    /// The inventory's JSON, cut into chunks.
    #[n(1)]
    pub inventory: Vec<SealedRef>,
    /// How the disks were held still.
    #[n(2)]
    pub consistency: Consistency,
    /// The chunker that cut the disks ([`crate::chunker::CHUNKER`]).
    #[n(3)]
    pub chunker: u32,
    /// The agent's version.
    #[n(4)]
    pub agent: String,
    /// When the run began and ended.
    #[n(5)]
    pub started: Timestamp,
    /// When the last block was read.
    #[n(6)]
    pub finished: Timestamp,
    /// How the disks were held still; none in manifests of version 1.
    #[n(7)]
    pub held: Option<Held>,
}

/// A manifest as it crosses the network and rests in the vault.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SealedManifest {
    #[cbor(n(0), with = "minicbor::bytes")]
    public: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    ephemeral: [u8; 32],
    #[cbor(n(2), with = "minicbor::bytes")]
    body: Vec<u8>,
    #[cbor(n(3), with = "minicbor::bytes")]
    mac: [u8; 32],
}

impl SealedManifest {
    /// Seals a body to the tenant's key. `public.roots` and `.inventory` are filled from it.
    pub fn seal(
        keys: &SealingKeys,
        mut public: PublicManifest,
        body: &ManifestBody,
    ) -> Result<Self, ManifestError> {
        public.roots = body
            .disks
            .iter()
            .filter_map(|disk| disk.root)
            .map(|root| root.id)
            .collect();
        public.inventory = body.inventory.iter().map(|part| part.id).collect();
        let public = to_bytes(&public)?;
        let failed = |_| ManifestError::Malformed("the key agreement failed".into());
        let own = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).map_err(failed)?;
        let own_public = own.compute_public_key().map_err(failed)?;
        let ephemeral: [u8; 32] = own_public.as_ref().try_into().unwrap_or([0; 32]);
        let peer = UnparsedPublicKey::new(&X25519, keys.public.0);
        let key = agreement::agree_ephemeral(own, peer, ManifestError::Unauthentic, |shared| {
            Ok(body_key(&ephemeral, &keys.public, shared))
        })?;
        // The key is fresh for each manifest, so that its only nonce may be zero.
        let mut sealed = vec![0; NONCE];
        sealed.extend_from_slice(&to_bytes(body)?);
        seal_tail(&mut sealed, NONCE, &key, [0; NONCE], &public);
        let mac = authenticator(&keys.secret, &public, &ephemeral, &sealed);
        Ok(Self {
            public,
            ephemeral,
            body: sealed,
            mac,
        })
    }

    /// Reads the clear part, as the vault does; says nothing about who made it.
    pub fn public(&self) -> Result<PublicManifest, ManifestError> {
        let public: PublicManifest = from_bytes(&self.public)?;
        if public.version > MANIFEST_VERSION {
            return Err(ManifestError::Newer(public.version));
        }
        Ok(public)
    }

    /// Bytes of the clear part.
    pub fn public_length(&self) -> usize {
        self.public.len()
    }

    /// Opens it at the recovery site, with the keys of whatever generation it was sealed to.
    pub fn open(
        &self,
        keys: &OpeningKeys,
    ) -> Result<(PublicManifest, ManifestBody), ManifestError> {
        let mac = |secret: &TenantSecret| {
            authenticator(secret, &self.public, &self.ephemeral, &self.body)
        };
        let made_by = |generation: &Generation| {
            blake3::Hash::from(mac(&generation.secret)) == blake3::Hash::from(self.mac)
        };
        // Generations may share a secret: the pair decides.
        for generation in keys.generations().filter(made_by) {
            let public = self.public()?;
            if let Some(body) = self.open_body(&generation)? {
                return Ok((public, from_bytes(&body)?));
            }
        }
        Err(ManifestError::Unauthentic)
    }

    /// The body, when it was sealed to this generation's public key.
    fn open_body(&self, generation: &Generation) -> Result<Option<Vec<u8>>, ManifestError> {
        let own = generation
            .private
            .agreement_key()
            .map_err(|_| ManifestError::Unauthentic)?;
        let peer = UnparsedPublicKey::new(&X25519, self.ephemeral);
        let key = agreement::agree(&own, peer, ManifestError::Unauthentic, |shared| {
            Ok(body_key(&self.ephemeral, &generation.public, shared))
        })?;
        Ok(open_with(&self.body, &key, &self.public))
    }

    /// Its encoding.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        to_bytes(self)
    }

    /// Reads its encoding.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        from_bytes(bytes)
    }
}

fn body_key(ephemeral: &[u8; 32], recipient: &TenantPublicKey, shared: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("relevo 1 manifest sealing");
    hasher.update(ephemeral).update(&recipient.0).update(shared);
    *hasher.finalize().as_bytes()
}

fn authenticator(
    secret: &TenantSecret,
    public: &[u8],
    ephemeral: &[u8; 32],
    body: &[u8],
) -> [u8; 32] {
    let key = blake3::derive_key("relevo 1 manifest authentication", secret.as_bytes());
    let mut hasher = blake3::Hasher::new_keyed(&key);
    hasher
        .update(&(public.len() as u64).to_le_bytes())
        .update(public)
        .update(ephemeral)
        .update(body);
    *hasher.finalize().as_bytes()
}

fn to_bytes<T: Encode<()>>(value: &T) -> Result<Vec<u8>, ManifestError> {
    minicbor::to_vec(value).map_err(|e| ManifestError::Malformed(e.to_string()))
}

fn from_bytes<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, ManifestError> {
    minicbor::decode(bytes).map_err(|e| ManifestError::Malformed(e.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample(keys: &SealingKeys) -> (SealedManifest, ManifestBody) {
        sample_of(keys, MANIFEST_VERSION)
    }

    fn sample_of(keys: &SealingKeys, version: u32) -> (SealedManifest, ManifestBody) {
        let root = ChunkRef {
            id: ChunkId::of(b"root"),
            key: ChunkKey::from_bytes([9; 32]),
        };
        let body = ManifestBody {
            disks: vec![DiskImage {
                name: "sda".into(),
                size: 1 << 32,
                root: Some(SealedRef::node(root)),
                sector: 512,
                serial: None,
                faults: None,
            }],
            inventory: vec![],
            consistency: Consistency::Offline,
            chunker: 1,
            agent: "test".into(),
            started: Timestamp::from_millis(1),
            finished: Timestamp::from_millis(2),
            held: None,
        };
        let public = PublicManifest {
            version,
            server: ServerId::random(),
            point: PointId::random(),
            taken: Timestamp::from_millis(1),
            roots: vec![],
            inventory: vec![],
            totals: RunTotals::default(),
        };
        (SealedManifest::seal(keys, public, &body).unwrap(), body)
    }

    #[test]
    fn opens_with_the_private_key_only() {
        let keys = OpeningKeys::generate().unwrap();
        let (sealed, body) = sample(&keys.sealing);
        let bytes = sealed.to_bytes().unwrap();
        let sealed = SealedManifest::from_bytes(&bytes).unwrap();
        let (public, opened) = sealed.open(&keys).unwrap();
        assert_eq!(opened, body);
        assert_eq!(public.roots, vec![ChunkId::of(b"root")]);
        // The same secret with another private key: what a stolen agent could try.
        let mut stolen = OpeningKeys::generate().unwrap();
        stolen.sealing = keys.sealing.clone();
        assert_eq!(
            sealed.open(&stolen).unwrap_err(),
            ManifestError::Unauthentic
        );
    }

    /// Guards whoever has an older release against taking what he does not know for what he does,
    /// and every recovery point made before.
    #[test]
    fn older_versions_open_and_newer_ones_are_refused_in_words() {
        let keys = OpeningKeys::generate().unwrap();
        for version in 1..=MANIFEST_VERSION {
            assert!(sample_of(&keys.sealing, version).0.open(&keys).is_ok());
        }
        let newer = sample_of(&keys.sealing, MANIFEST_VERSION + 1).0;
        let expected = ManifestError::Newer(MANIFEST_VERSION + 1);
        assert_eq!(newer.open(&keys).unwrap_err(), expected);
        assert_eq!(newer.public().unwrap_err(), expected);
    }

    /// Guards old images after a rotation, and new ones against keys that were rotated away.
    #[test]
    fn every_generation_opens_what_was_sealed_in_its_time() {
        let first = OpeningKeys::generate().unwrap();
        let mut keys = first.clone();
        let mut sealed = vec![sample(&keys.sealing)];
        for new_secret in [false, true, false] {
            keys.rotate(new_secret).unwrap();
            sealed.push(sample(&keys.sealing));
        }
        for (manifest, body) in &sealed {
            assert_eq!(&manifest.open(&keys).unwrap().1, body);
        }
        assert!(sealed[0].0.open(&first).is_ok());
        assert!(sealed[1].0.open(&first).is_err());
        assert!(sealed[2].0.open(&first).is_err());
    }

    #[test]
    fn an_altered_manifest_is_refused_wherever_the_change_is() {
        let keys = OpeningKeys::generate().unwrap();
        let (sealed, _) = sample(&keys.sealing);
        let bytes = sealed.to_bytes().unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let opened = SealedManifest::from_bytes(&changed).and_then(|m| m.open(&keys));
            assert!(opened.is_err(), "byte {at} changed unnoticed");
        }
    }
}
