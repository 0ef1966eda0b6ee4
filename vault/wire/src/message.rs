//! What two peers say to each other: one request and its answer per QUIC stream.
//!
//! A stream carries frames (see [`crate::frame`]); each frame is one CBOR value. The first is a
//! [`Request`]. [`Request::Put`] is followed by one frame per chunk, its sealed bytes as they
//! are; the answer to [`Request::Get`] is likewise one frame of sealed bytes per chunk asked
//! for, in that order, an empty one where the vault has no such chunk. Streams are cheap and
//! run side by side, so nothing waits for a round trip of another.

use minicbor::{Decode, Encode};

use crate::id::{ChunkId, PointId, ServerId, SessionId, TenantId, VaultId};
use crate::manifest::{PublicManifest, SealedManifest};
use crate::time::Timestamp;

/// Most ids in one [`Request::Have`] or [`Request::Get`].
pub const MAX_IDS: usize = 4096;
/// Most chunks in one [`Request::Put`].
pub const MAX_PUT: usize = 1024;
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
    /// To [`Request::Enroll`].
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
}

/// A protected server.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct ServerEntry {
    /// Its id.
    #[n(0)]
    pub id: ServerId,
    /// Its name.
    #[n(1)]
    pub name: String,
    /// When it was enrolled.
    #[n(2)]
    pub enrolled: Timestamp,
    /// Number of recovery points.
    #[n(3)]
    pub points: u64,
    /// The newest one's moment.
    #[n(4)]
    pub latest: Option<Timestamp>,
}

/// A recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PointEntry {
    /// The clear part of its manifest.
    #[n(0)]
    pub manifest: PublicManifest,
    /// When the vault acknowledged it.
    #[n(1)]
    pub committed: Timestamp,
    /// Bytes it added to the vault.
    #[n(2)]
    pub stored: u64,
    /// When it was last verified whole, if it was.
    #[n(3)]
    pub verified: Option<Timestamp>,
}

/// Why the vault refused, in words for the administrator.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of refusal, for programs.
    #[n(0)]
    pub code: RefusalCode,
    /// Cause.
    #[n(1)]
    pub message: String,
    /// What to do about it.
    #[n(2)]
    pub remedy: String,
}

impl Refusal {
    /// A refusal in words.
    pub fn new(code: RefusalCode, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum RefusalCode {
    /// The request breaks the protocol.
    #[n(0)]
    Malformed,
    /// Unknown, used or expired token.
    #[n(1)]
    Token,
    /// The certificate does not allow it.
    #[n(2)]
    Forbidden,
    /// No such server, point or session.
    #[n(3)]
    NotFound,
    /// The vault has no room left.
    #[n(4)]
    Full,
    /// The vault's storage failed.
    #[n(5)]
    Storage,
    /// A chunk does not hash to its id or a manifest contradicts itself.
    #[n(6)]
    Corrupt,
}
