//! What lists and reports are made of: servers, recovery points, a tenant's state, the audit log.

use minicbor::{Decode, Encode};

use crate::id::{ServerId, TenantId};
use crate::manifest::PublicManifest;
use crate::time::Timestamp;

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
