//! What two peers say to each other: one request and its answer per QUIC stream.
//!
//! A stream carries frames (see [`crate::frame`]); each frame is one CBOR value. The first is a
//! [`Request`]. [`Request::Put`] is followed by one frame per chunk, its sealed bytes as they
//! are; the answer to [`Request::Get`] is likewise one frame of sealed bytes per chunk asked
//! for, in that order, an empty one where the vault has no such chunk. Streams are cheap and
//! run side by side, so nothing waits for a round trip of another.

mod entry;
mod refusal;

use minicbor::{Decode, Encode};

use crate::id::{ChunkId, PointId, ServerId, SessionId, TenantId, VaultId};
use crate::manifest::SealedManifest;
use crate::policy::BackupPolicy;
use crate::time::Timestamp;

pub use entry::{AuditEntry, PointEntry, ServerEntry, TenantReport};
pub use refusal::{Refusal, RefusalCode};

/// Most ids in one [`Request::Have`] or [`Request::Get`].
pub const MAX_IDS: usize = 4096;
/// Most chunks in one [`Request::Put`].
pub const MAX_PUT: usize = 1024;
/// Fewer recovery points than this in an answer are all that there were: the longest ones fill a
/// frame with no fewer.
pub const FULL_PAGE: usize = 15;
/// Most missing ids that [`Response::Incomplete`] names; there may be more.
pub const MAX_MISSING: usize = 4096;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Says who speaks; the first request of a connection.
    #[n(0)]
    Hello {
        /// Release of the client, for logs.
        #[n(0)]
        software: String,
    },
    /// Turns a token into an identity. The only request of one who has no certificate yet.
    #[n(1)]
    Enroll {
        /// The token's secret.
        #[cbor(n(0), with = "minicbor::bytes")]
        secret: [u8; 32],
        /// PKCS #10 request, DER.
        #[cbor(n(1), with = "minicbor::bytes")]
        certificate_request: Vec<u8>,
        /// Name of the server or site, for people.
        #[n(2)]
        name: String,
        /// The tenant whose keys the client holds.
        #[n(3)]
        tenant: TenantId,
    },
    /// Opens an upload. Chunks that it stores or is told of stay until it ends.
    #[n(2)]
    OpenSession,
    /// Asks which of these chunks the vault has.
    #[n(3)]
    Have {
        /// The upload.
        #[n(0)]
        session: SessionId,
        /// At most [`MAX_IDS`].
        #[n(1)]
        ids: Vec<ChunkId>,
    },
    /// Stores the chunks that follow, at most [`MAX_PUT`].
    #[n(4)]
    Put {
        /// The upload.
        #[n(0)]
        session: SessionId,
        /// How many frames follow.
        #[n(1)]
        chunks: u32,
    },
    /// Makes the upload a recovery point.
    #[n(5)]
    Commit {
        /// The upload.
        #[n(0)]
        session: SessionId,
        /// The manifest.
        #[n(1)]
        manifest: SealedManifest,
    },
    /// Asks for the tenant's servers.
    #[n(6)]
    ListServers,
    /// Asks for the recovery points of a server, newest first.
    #[n(7)]
    ListPoints {
        /// The server.
        #[n(0)]
        server: ServerId,
        /// Only points that come after this one in the list. Without it the list begins.
        #[n(1)]
        after: Option<PointCursor>,
    },
    /// Asks for a recovery point's manifest.
    #[n(8)]
    GetManifest {
        /// The recovery point.
        #[n(0)]
        point: PointId,
    },
    /// Asks for chunks.
    #[n(9)]
    Get {
        /// At most [`MAX_IDS`].
        #[n(0)]
        ids: Vec<ChunkId>,
    },
    /// Asks for a new certificate of the same identity, for a new key.
    #[n(10)]
    Renew {
        /// PKCS #10 request, DER.
        #[cbor(n(0), with = "minicbor::bytes")]
        certificate_request: Vec<u8>,
    },
    /// Asks what the tenant keeps and how it is.
    #[n(11)]
    Report,
    /// Asks for the tenant's entries in the audit log, oldest first.
    #[n(12)]
    AuditLog {
        /// Only entries with higher numbers.
        #[n(0)]
        after: u64,
    },
    /// Deletes a recovery point, unless it is held or locked.
    #[n(13)]
    DeletePoint {
        /// Which.
        #[n(0)]
        point: PointId,
        /// Why, for the audit log.
        #[n(1)]
        reason: String,
        /// Also when it is its server's latest.
        #[n(2)]
        even_latest: bool,
    },
    /// Holds a recovery point back from deletion until it is released.
    #[n(14)]
    Hold {
        /// Which.
        #[n(0)]
        point: PointId,
        /// Why.
        #[n(1)]
        reason: String,
    },
    /// Ends a hold.
    #[n(15)]
    Release {
        /// Which.
        #[n(0)]
        point: PointId,
        /// Why.
        #[n(1)]
        reason: String,
    },
    /// Locks a recovery point: nobody deletes it before so many days of vault time are over.
    /// A lock is never shortened.
    #[n(16)]
    LockPoint {
        /// Which.
        #[n(0)]
        point: PointId,
        /// Days from now.
        #[n(1)]
        days: u16,
    },
    /// Revokes all certificates that somebody of the tenant was issued so far.
    #[n(17)]
    Revoke {
        /// Name, id or identity of a server, recovery site or person.
        #[n(0)]
        who: String,
        /// Why.
        #[n(1)]
        reason: String,
    },
    /// Makes a token for somebody of the tenant.
    #[n(18)]
    MakeToken {
        /// What its bearer becomes.
        #[n(0)]
        role: TokenRole,
        /// How long it may be used, in milliseconds; at most a year.
        #[n(1)]
        valid: u64,
        /// Name or id of somebody of that role who is to be enrolled anew, keeping the id.
        #[n(2)]
        again: Option<String>,
    },
    /// Asks how this server is to be imaged.
    #[n(19)]
    GetPolicy,
}

/// A place in a list of recovery points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PointCursor {
    /// Moment of the last point seen.
    #[n(0)]
    pub taken: Timestamp,
    /// The point.
    #[n(1)]
    pub point: PointId,
}

impl PointCursor {
    /// Behind this point.
    pub fn behind(entry: &PointEntry) -> Self {
        Self {
            taken: entry.manifest.taken,
            point: entry.manifest.point,
        }
    }
}

/// What a token lets its bearer become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum TokenRole {
    /// A server's agent.
    #[n(0)]
    Agent,
    /// A recovery site.
    #[n(1)]
    Recovery,
    /// An operator.
    #[n(2)]
    Operator,
    /// An auditor.
    #[n(3)]
    Auditor,
    /// An administrator.
    #[n(4)]
    Administrator,
}

/// What the vault answers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Response {
    /// The request failed.
    #[n(0)]
    Refused(#[n(0)] Refusal),
    /// To [`Request::Hello`].
    #[n(1)]
    Welcome {
        /// The vault.
        #[n(0)]
        vault: VaultId,
        /// Release of the vault, for logs.
        #[n(1)]
        software: String,
        /// The vault's clock.
        #[n(2)]
        now: Timestamp,
        /// Changes when chunks may have gone: what a client remembers of stored chunks is
        /// only worth something within one epoch.
        #[n(3)]
        epoch: u64,
    },
    /// To [`Request::Enroll`] and [`Request::Renew`].
    #[n(2)]
    Enrolled {
        /// The certificate, DER.
        #[cbor(n(0), with = "minicbor::bytes")]
        certificate: Vec<u8>,
        /// The vault's authority, DER.
        #[cbor(n(1), with = "minicbor::bytes")]
        authority: Vec<u8>,
        /// What the certificate stands for, as text ([`crate::identity::Identity`]).
        #[n(2)]
        identity: String,
        /// When it expires.
        #[n(3)]
        expires: Timestamp,
    },
    /// To [`Request::OpenSession`].
    #[n(3)]
    SessionOpened {
        /// The upload.
        #[n(0)]
        session: SessionId,
    },
    /// To [`Request::Have`]: bit *i* (lowest first) is set when id *i* is stored.
    #[n(4)]
    Known(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// To [`Request::Put`]: every chunk is on stable storage.
    #[n(5)]
    Stored {
        /// Bytes that this added to the vault; chunks it had already add none.
        #[n(0)]
        added: u64,
    },
    /// To [`Request::Commit`]: the recovery point is on stable storage with all it refers to.
    #[n(6)]
    Committed {
        /// Bytes of packs that the session's chunks and the manifest added.
        #[n(0)]
        stored: u64,
    },
    /// To [`Request::Commit`]: these are missing, so nothing became visible. Send and commit again.
    #[n(7)]
    Incomplete {
        /// At most [`MAX_MISSING`].
        #[n(0)]
        missing: Vec<ChunkId>,
    },
    /// To [`Request::ListServers`].
    #[n(8)]
    Servers(#[n(0)] Vec<ServerEntry>),
    /// To [`Request::ListPoints`].
    #[n(9)]
    Points(#[n(0)] Vec<PointEntry>),
    /// To [`Request::GetManifest`].
    #[n(10)]
    Manifest(#[n(0)] SealedManifest),
    /// To [`Request::Get`]: the chunks follow.
    #[n(11)]
    Chunks,
    /// To [`Request::Report`].
    #[n(12)]
    Report(#[n(0)] Box<TenantReport>),
    /// To [`Request::AuditLog`]. Empty when there are no more.
    #[n(13)]
    AuditEntries(#[n(0)] Vec<AuditEntry>),
    /// It is done and on stable storage.
    #[n(14)]
    Done {
        /// What came of it, for people.
        #[n(0)]
        what: String,
    },
    /// To [`Request::MakeToken`].
    #[n(15)]
    Token {
        /// The text to hand over.
        #[n(0)]
        token: String,
        /// Until when it may be used.
        #[n(1)]
        expires: Timestamp,
    },
    /// To [`Request::GetPolicy`].
    #[n(16)]
    Policy(#[n(0)] Box<BackupPolicy>),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards peers of the first release: without a page asked for, the bytes are as they were.
    #[test]
    fn a_list_without_a_page_is_asked_for_as_ever() {
        let server = ServerId::from_bytes([7; 16]);
        let bytes = minicbor::to_vec(Request::ListPoints {
            server,
            after: None,
        });
        let first = [&[0x82, 7, 0x81, 0x50][..], &[7; 16]].concat();
        assert_eq!(bytes.unwrap(), first);
    }
}
