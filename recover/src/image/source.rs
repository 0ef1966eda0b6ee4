//! Where images come from: a vault that answers, or the packs that a vault wrote.

use std::sync::Arc;

use relevo_wire::chunk::CheckedChunk;
use relevo_wire::client::ClientError;
use relevo_wire::manifest::SealedManifest;
use relevo_wire::message::{PointEntry, ServerEntry};
use relevo_wire::{ChunkId, PointId, ServerId};
use tokio::runtime::Handle;

use super::link::VaultLink;
use super::packs::Packs;
use crate::failure::Failure;
use crate::site::PointSelector;
use crate::site::select::{select_point, select_server};

/// A source of images. Its methods may be called from any thread that is no worker of a runtime.
pub enum Source {
    /// Over the network.
    Vault(Arc<VaultLink>),
    /// From a directory, when there is no vault any more.
    Packs(Box<Packs>),
}

impl Source {
    /// The runtime on which its work is done.
    pub fn handle(&self) -> &Handle {
        match self {
            Self::Vault(link) => link.handle(),
            Self::Packs(packs) => packs.threads().handle(),
        }
    }

    /// Runs `future` on its runtime and waits for the result.
    pub fn wait_for<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Failure> {
        match self {
            Self::Vault(link) => link.wait_for(future),
            Self::Packs(packs) => packs.threads().wait_for(future),
        }
    }

    /// Fetches chunks in any order. `each` is given the place in `ids` and the chunk, exactly
    /// once per id; an error is that chunk's own.
    pub async fn fetch(
        &self,
        ids: &[ChunkId],
        each: impl FnMut(usize, Result<CheckedChunk, ClientError>),
    ) {
        match self {
            Self::Vault(link) => link.fetch(ids, each).await,
            Self::Packs(packs) => packs.fetch(ids, each),
        }
    }

    /// Ends all waiting: whoever waits gets an error.
    pub fn close(&self) {
        match self {
            Self::Vault(link) => link.close(),
            Self::Packs(_) => {}
        }
    }

    /// The tenant's servers, by name.
    pub fn servers(&self) -> Result<Vec<ServerEntry>, Failure> {
        match self {
            Self::Vault(link) => link.servers(),
            Self::Packs(packs) => Ok(packs.servers()),
        }
    }

    /// The recovery points of a server, newest first.
    pub fn points(&self, server: ServerId) -> Result<Vec<PointEntry>, Failure> {
        match self {
            Self::Vault(link) => link.points(server),
            Self::Packs(packs) => Ok(packs.points(server)),
        }
    }

    /// The manifest of a point, as it was stored.
    pub fn manifest(&self, point: PointId) -> Result<SealedManifest, Failure> {
        match self {
            Self::Vault(link) => link.manifest(point),
            Self::Packs(packs) => packs.manifest(point),
        }
    }

    /// The server of this name or id.
    pub fn select_server(&self, wanted: &str) -> Result<ServerEntry, Failure> {
        select_server(&self.servers()?, wanted)
    }

    /// The recovery point meant.
    pub fn select_point(
        &self,
        server: &ServerEntry,
        wanted: &PointSelector,
    ) -> Result<PointEntry, Failure> {
        select_point(&self.points(server.id)?, &server.name, wanted)
    }

    /// What in it is not as it was written, in words; nothing is known of a vault's.
    pub fn damage(&self) -> Vec<String> {
        match self {
            Self::Vault(_) => Vec::new(),
            Self::Packs(packs) => packs.damage(),
        }
    }

    /// A source that leads nowhere, for stores that are full already.
    #[cfg(test)]
    pub(super) fn unconnected() -> Arc<Self> {
        Arc::new(Self::Vault(VaultLink::unconnected()))
    }
}
