//! What entries of a pack mean.

mod governance;

use minicbor::{Decode, Encode};

use bytes::Bytes;
use relevo_wire::chunk::CheckedChunk;
use relevo_wire::index::NodeLinks;
use relevo_wire::manifest::SealedManifest;
use relevo_wire::{ServerId, SiteId, Timestamp};

use crate::clock::VaultTime;
use crate::pack::EntryKind;

pub use governance::{
    ClockRecord, DeletionRecord, HoldRecord, LockRecord, PersonRecord, PersonRole, RetiredRecord,
    RevocationRecord,
};

/// A recovery point, as its pack holds it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PointRecord {
    /// As the agent sealed it.
    #[n(0)]
    pub manifest: SealedManifest,
    /// When the vault took it.
    #[n(1)]
    pub committed: Timestamp,
    /// Bytes of packs that it added.
    #[n(2)]
    pub stored: u64,
    /// Not to be deleted before this moment of vault time.
    #[n(3)]
    pub locked: Option<VaultTime>,
}

/// A server's enrolment.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ServerRecord {
    /// The server.
    #[n(0)]
    pub id: ServerId,
    /// Its name.
    #[n(1)]
    pub name: String,
    /// When.
    #[n(2)]
    pub enrolled: Timestamp,
}

/// A recovery site's enrolment.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SiteRecord {
    /// The site.
    #[n(0)]
    pub id: SiteId,
    /// Its name.
    #[n(1)]
    pub name: String,
    /// When.
    #[n(2)]
    pub enrolled: Timestamp,
}

/// A record of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A chunk.
    Chunk(CheckedChunk),
    /// A recovery point.
    Point(Box<PointRecord>),
    /// A server.
    Server(ServerRecord),
    /// A recovery site.
    Site(SiteRecord),
    /// A recovery point was deleted.
    Deletion(DeletionRecord),
    /// A pack is gone.
    Retired(RetiredRecord),
    /// A hold was set or released.
    Hold(HoldRecord),
    /// A lock was set or lengthened.
    Lock(LockRecord),
    /// Vault time and the audit log's head.
    Clock(ClockRecord),
    /// A person.
    Person(PersonRecord),
    /// Certificates count no more.
    Revocation(RevocationRecord),
}

impl Record {
    /// Its kind.
    pub fn kind(&self) -> EntryKind {
        match self {
            Self::Chunk(_) => EntryKind::Chunk,
            Self::Point(_) => EntryKind::Point,
            Self::Server(_) => EntryKind::Server,
            Self::Site(_) => EntryKind::Site,
            Self::Deletion(_) => EntryKind::Deletion,
            Self::Retired(_) => EntryKind::Retired,
            Self::Hold(_) => EntryKind::Hold,
            Self::Lock(_) => EntryKind::Lock,
            Self::Clock(_) => EntryKind::Clock,
            Self::Person(_) => EntryKind::Person,
            Self::Revocation(_) => EntryKind::Revocation,
        }
    }

    /// Id and bytes of its entry.
    pub fn encode(&self) -> Result<([u8; 32], Bytes), String> {
        let body = match self {
            Self::Chunk(chunk) => return Ok((*chunk.id().as_bytes(), chunk.bytes().clone())),
            Self::Point(point) => minicbor::to_vec(point),
            Self::Server(server) => minicbor::to_vec(server),
            Self::Site(site) => minicbor::to_vec(site),
            Self::Deletion(deletion) => minicbor::to_vec(deletion),
            Self::Retired(retired) => minicbor::to_vec(retired),
            Self::Hold(hold) => minicbor::to_vec(hold),
            Self::Lock(lock) => minicbor::to_vec(lock),
            Self::Clock(clock) => minicbor::to_vec(clock),
            Self::Person(person) => minicbor::to_vec(person),
            Self::Revocation(revocation) => minicbor::to_vec(revocation),
        }
        .map_err(|e| e.to_string())?;
        Ok((*blake3::hash(&body).as_bytes(), body.into()))
    }

    /// Reads the record of an entry whose body must hash to `id`.
    pub fn decode(kind: EntryKind, id: &[u8; 32], body: Bytes) -> Result<Self, String> {
        let chunk = CheckedChunk::of(body);
        if chunk.id().as_bytes() != id {
            return Err("its bytes do not hash to its id".into());
        }
        let body = chunk.bytes();
        match kind {
            EntryKind::Void => return Err("it holds nothing".into()),
            EntryKind::Chunk => return Ok(Self::Chunk(chunk)),
            EntryKind::Point => minicbor::decode(body).map(|p| Self::Point(Box::new(p))),
            EntryKind::Server => minicbor::decode(body).map(Self::Server),
            EntryKind::Site => minicbor::decode(body).map(Self::Site),
            EntryKind::Deletion => minicbor::decode(body).map(Self::Deletion),
            EntryKind::Retired => minicbor::decode(body).map(Self::Retired),
            EntryKind::Hold => minicbor::decode(body).map(Self::Hold),
            EntryKind::Lock => minicbor::decode(body).map(Self::Lock),
            EntryKind::Clock => minicbor::decode(body).map(Self::Clock),
            EntryKind::Person => minicbor::decode(body).map(Self::Person),
            EntryKind::Revocation => minicbor::decode(body).map(Self::Revocation),
        }
        .map_err(|e| format!("it cannot be read: {e}"))
    }
}

/// Which place a chunk may take in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkKind {
    /// A piece of a disk or of an inventory.
    Data,
    /// A node of this level of an index.
    Node(u8),
}

impl ChunkKind {
    /// Of this chunk; an error when it claims to be a node and is none.
    pub fn of(chunk: &CheckedChunk) -> Result<Self, relevo_wire::chunk::SealError> {
        if NodeLinks::is_node(chunk) {
            Ok(Self::Node(NodeLinks::parse(chunk)?.level()))
        } else {
            Ok(Self::Data)
        }
    }

    /// As the catalogue writes it.
    pub fn number(self) -> i64 {
        match self {
            Self::Data => 0,
            Self::Node(level) => 1 + i64::from(level),
        }
    }

    /// From what the catalogue holds.
    pub fn from_number(number: i64) -> Self {
        match u8::try_from(number - 1) {
            Ok(level) => Self::Node(level),
            Err(_) => Self::Data,
        }
    }
}
