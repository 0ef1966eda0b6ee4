//! Proofs that a row of the cache was written by this agent, about this vault as it now is.

use relevo_wire::index::ChunkRef;
use relevo_wire::key::{ChunkKey, TenantSecret};
use relevo_wire::{ServerId, TenantId, VaultId};

use super::KnownSpan;

/// Whose knowledge a cache holds; another scope's is worth nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The vault that has the chunks.
    pub vault: VaultId,
    /// Its epoch: chunks may go when it changes.
    pub epoch: u64,
    /// Whose keys seal them.
    pub tenant: TenantId,
    /// The server that is imaged.
    pub server: ServerId,
}

impl Scope {
    /// As written in the file.
    pub fn text(&self) -> String {
        let Self {
            vault,
            epoch,
            tenant,
            server,
        } = self;
        format!("{vault}/{epoch}/{tenant}/{server}")
    }
}

/// Makes the proofs.
#[derive(Clone)]
pub struct Prover([u8; 32]);

impl Prover {
    /// Of this scope.
    pub fn new(scope: &Scope, secret: &TenantSecret) -> Self {
        let base = blake3::derive_key("relevo 1 agent cache", secret.as_bytes());
        Self(*blake3::keyed_hash(&base, scope.text().as_bytes()).as_bytes())
    }

    /// What stands for a chunk's key.
    pub fn tag(&self, key: &ChunkKey) -> [u8; 32] {
        *blake3::keyed_hash(&self.0, key.as_bytes()).as_bytes()
    }

    /// Of a row of `chunks`.
    pub fn chunk(&self, chunk: &ChunkRef) -> [u8; 8] {
        self.prove(&[b"c", chunk.key.as_bytes(), chunk.id.as_bytes()])
    }

    /// Of a row of `spans` or `staged`.
    pub fn span(&self, disk: &str, span: u64, known: &KnownSpan) -> [u8; 8] {
        let (number, shape) = (span.to_le_bytes(), known.shape.to_le_bytes());
        match &known.data {
            Some((hash, leaf)) => {
                let (id, key) = (leaf.id.as_bytes(), leaf.key.as_bytes());
                self.prove(&[b"s", &number, &shape, hash, id, key, disk.as_bytes()])
            }
            None => self.prove(&[b"z", &number, &shape, disk.as_bytes()]),
        }
    }

    fn prove(&self, parts: &[&[u8]]) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        let mut proof = [0; 8];
        proof.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        proof
    }
}
