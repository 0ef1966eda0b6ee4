//! Records of what may be deleted, what was, and who may do it.
//!
//! All of them may occur more than once, when a pack was rewritten; they are read in any order,
//! so that the later or stronger of two counts: of holds the later one, of locks the longer, of
//! clocks the one that is further.

use minicbor::{Decode, Encode};
use serde::Serialize;

use relevo_wire::{PersonId, PointId, ServerId, Timestamp};

use crate::clock::VaultTime;

/// A recovery point was deleted. Stays as long as any pack may hold the point.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeletionRecord {
    /// Which.
    #[n(0)]
    pub point: PointId,
    /// Of which server.
    #[n(1)]
    pub server: ServerId,
    /// When.
    #[n(2)]
    pub deleted: Timestamp,
    /// Who did it: an identity, `local` for the vault's own command line, `retention`.
    #[n(3)]
    pub by: String,
    /// Why.
    #[n(4)]
    pub reason: String,
    /// The tenant's highest pack when it was deleted: no later pack holds the point.
    #[n(5)]
    pub highest: u32,
}

/// A pack's live entries were copied to later packs; the file is gone, or about to be.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RetiredRecord {
    /// Number of the pack, of the same tenant. Never used again.
    #[n(0)]
    pub pack: u32,
    /// When.
    #[n(1)]
    pub retired: Timestamp,
}

/// A recovery point is held back from deletion, or no longer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HoldRecord {
    /// Which.
    #[n(0)]
    pub point: PointId,
    /// Held, or released.
    #[n(1)]
    pub held: bool,
    /// When. Of several the latest counts.
    #[n(2)]
    pub when: Timestamp,
    /// Who did it.
    #[n(3)]
    pub by: String,
    /// Why.
    #[n(4)]
    pub reason: String,
}

/// A recovery point may not be deleted before a moment of vault time.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LockRecord {
    /// Which.
    #[n(0)]
    pub point: PointId,
    /// Until when. Of several the longest counts.
    #[n(1)]
    pub until: VaultTime,
    /// When it was locked.
    #[n(2)]
    pub when: Timestamp,
    /// Who did it.
    #[n(3)]
    pub by: String,
}

/// How far vault time has come, and what the audit log was then.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClockRecord {
    /// Vault time. Of several the furthest counts.
    #[n(0)]
    pub time: VaultTime,
    /// The wall clock then.
    #[n(1)]
    pub wall: Timestamp,
    /// Entries of the audit log.
    #[n(2)]
    pub audit_entries: u64,
    /// Hash of its last entry.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub audit_head: [u8; 32],
}

/// What somebody who looks after a tenant's images may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum PersonRole {
    /// Runs backups, checks, retention and holds.
    #[n(0)]
    Operator,
    /// Sees lists, reports and the audit log.
    #[n(1)]
    Auditor,
    /// Everything within the tenant.
    #[n(2)]
    Administrator,
}

/// The enrolment of an operator, auditor or administrator.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PersonRecord {
    /// Who.
    #[n(0)]
    pub id: PersonId,
    /// May do what.
    #[n(1)]
    pub role: PersonRole,
    /// Name.
    #[n(2)]
    pub name: String,
    /// When.
    #[n(3)]
    pub enrolled: Timestamp,
}

/// Certificates of an identity that were issued up to a moment count no more.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RevocationRecord {
    /// The identity, as in certificates.
    #[n(0)]
    pub identity: String,
    /// Certificates issued until then are revoked. Of several the latest counts.
    #[n(1)]
    pub until: Timestamp,
    /// Who did it.
    #[n(2)]
    pub by: String,
    /// Why.
    #[n(3)]
    pub reason: String,
}
