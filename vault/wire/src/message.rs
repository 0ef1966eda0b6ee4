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

/// What a tenant keeps, and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct TenantReport {
    /// Whose.
    #[n(0)]
    pub tenant: TenantId,
    /// The vault's clock.
    #[n(1)]
    pub now: Timestamp,
    /// Bytes of the tenant's packs.
    #[n(2)]
    pub stored_bytes: u64,
    /// Of these, bytes that nothing refers to any more.
    #[n(3)]
    pub dead_bytes: u64,
    /// Most bytes that may be stored.
    #[n(4)]
    pub quota_bytes: Option<u64>,
    /// Most bytes a second that are taken.
    #[n(5)]
    pub quota_rate: Option<u64>,
    /// Recovery points.
    #[n(6)]
    pub points: u64,
    /// Of these, held back from deletion.
    #[n(7)]
    pub held: u64,
    /// Of these, never proven whole.
    #[n(8)]
    pub unverified: u64,
    /// When the one that was proven whole longest ago was.
    #[n(9)]
    pub oldest_verification: Option<Timestamp>,
    /// Pieces of packs that are known to be damaged.
    #[n(10)]
    pub losses: u64,
    /// Recovery points that were deleted.
    #[n(11)]
    pub deleted: u64,
    /// Packs that collection has retired.
    #[n(12)]
    pub retired_packs: u64,
    /// When it last retired one.
    #[n(13)]
    pub last_collected: Option<Timestamp>,
    /// The servers and their newest recovery points.
    #[n(14)]
    pub servers: Vec<ServerEntry>,
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct AuditEntry {
    /// Its number in the vault's log, from 1.
    #[n(0)]
    pub sequence: u64,
    /// When.
    #[n(1)]
    pub time: Timestamp,
    /// Who: an identity, or `local` for the vault's own command line.
    #[n(2)]
    pub who: String,
    /// What was done.
    #[n(3)]
    pub act: String,
    /// On what.
    #[n(4)]
    pub on: String,
    /// What came of it.
    #[n(5)]
    pub result: String,
    /// BLAKE3 that the next entry is chained to.
    #[cbor(n(6), with = "minicbor::bytes")]
    #[serde(serialize_with = "hexadecimal")]
    pub hash: [u8; 32],
}

fn hexadecimal<S: serde::Serializer>(hash: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&data_encoding::HEXLOWER.encode_display(hash))
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// The request breaks the protocol.
    Malformed,
    /// Unknown, used or expired token.
    Token,
    /// The certificate does not allow it.
    Forbidden,
    /// No such server, point or session.
    NotFound,
    /// The vault has no room left.
    Full,
    /// The vault's storage failed.
    Storage,
    /// A chunk does not hash to its id or a manifest contradicts itself.
    Corrupt,
    /// The tenant has stored all that it may.
    Quota,
    /// The recovery point is held or locked.
    Kept,
    /// One that this release does not know.
    Other,
}

impl RefusalCode {
    /// All that this release knows; each one's place is its number.
    pub const KNOWN: [Self; 9] = [
        Self::Malformed,
        Self::Token,
        Self::Forbidden,
        Self::NotFound,
        Self::Full,
        Self::Storage,
        Self::Corrupt,
        Self::Quota,
        Self::Kept,
    ];

    /// In one lower-case word, for metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Token => "token",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Full => "full",
            Self::Storage => "storage",
            Self::Corrupt => "corrupt",
            Self::Quota => "quota",
            Self::Kept => "kept",
            Self::Other => "other",
        }
    }
}

impl<C> Encode<C> for RefusalCode {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        let number = Self::KNOWN.iter().position(|known| known == self);
        e.u32(number.map_or(u32::MAX, |number| number as u32))?.ok()
    }
}

/// A code of a later release is still a refusal, with its cause and remedy in words.
impl<'b, C> Decode<'b, C> for RefusalCode {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let number = d.u32()? as usize;
        Ok(Self::KNOWN.get(number).copied().unwrap_or(Self::Other))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards older clients: what later vaults refuse is still read as a refusal.
    #[test]
    fn codes_keep_their_numbers_and_unknown_ones_are_refusals_too() {
        for (number, code) in RefusalCode::KNOWN.into_iter().enumerate() {
            let bytes = minicbor::to_vec(code).unwrap();
            assert_eq!(bytes, [number as u8]);
            assert_eq!(minicbor::decode::<RefusalCode>(&bytes).unwrap(), code);
        }
        let later = minicbor::to_vec(23u32).unwrap();
        assert_eq!(
            minicbor::decode::<RefusalCode>(&later).unwrap(),
            RefusalCode::Other
        );
    }

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
