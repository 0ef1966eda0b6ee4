//! Who may ask what: the one place that says so.

use relevo_wire::message::{Refusal, Request};

use super::Peer;
use super::refusal::forbidden;
use crate::record::PersonRole;

/// Kinds of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// [`Request::Hello`]
    Hello,
    /// [`Request::Enroll`]
    Enroll,
    /// [`Request::OpenSession`]
    OpenSession,
    /// [`Request::Have`]
    Have,
    /// [`Request::Put`]
    Put,
    /// [`Request::Commit`]
    Commit,
    /// [`Request::ListServers`]
    ListServers,
    /// [`Request::ListPoints`]
    ListPoints,
    /// [`Request::GetManifest`]
    GetManifest,
    /// [`Request::Get`]
    Get,
    /// [`Request::Renew`]
    Renew,
    /// [`Request::Report`]
    Report,
    /// [`Request::AuditLog`]
    AuditLog,
    /// [`Request::DeletePoint`]
    DeletePoint,
    /// [`Request::Hold`]
    Hold,
    /// [`Request::Release`]
    Release,
    /// [`Request::LockPoint`]
    LockPoint,
    /// [`Request::Revoke`]
    Revoke,
    /// [`Request::MakeToken`]
    MakeToken,
    /// [`Request::GetPolicy`]
    GetPolicy,
}

impl Kind {
    /// All of them, in the order of their numbers on the wire.
    pub const ALL: [Self; 20] = [
        Self::Hello,
        Self::Enroll,
        Self::OpenSession,
        Self::Have,
        Self::Put,
        Self::Commit,
        Self::ListServers,
        Self::ListPoints,
        Self::GetManifest,
        Self::Get,
        Self::Renew,
        Self::Report,
        Self::AuditLog,
        Self::DeletePoint,
        Self::Hold,
        Self::Release,
        Self::LockPoint,
        Self::Revoke,
        Self::MakeToken,
        Self::GetPolicy,
    ];

    /// Of a request.
    pub fn of(request: &Request) -> Self {
        match request {
            Request::Hello { .. } => Self::Hello,
            Request::Enroll { .. } => Self::Enroll,
            Request::OpenSession => Self::OpenSession,
            Request::Have { .. } => Self::Have,
            Request::Put { .. } => Self::Put,
            Request::Commit { .. } => Self::Commit,
            Request::ListServers => Self::ListServers,
            Request::ListPoints { .. } => Self::ListPoints,
            Request::GetManifest { .. } => Self::GetManifest,
            Request::Get { .. } => Self::Get,
            Request::Renew { .. } => Self::Renew,
            Request::Report => Self::Report,
            Request::AuditLog { .. } => Self::AuditLog,
            Request::DeletePoint { .. } => Self::DeletePoint,
            Request::Hold { .. } => Self::Hold,
            Request::Release { .. } => Self::Release,
            Request::LockPoint { .. } => Self::LockPoint,
            Request::Revoke { .. } => Self::Revoke,
            Request::MakeToken { .. } => Self::MakeToken,
            Request::GetPolicy => Self::GetPolicy,
        }
    }

    /// True when the audit log must tell it: then it is not done without. Enrolments are too, but
    /// not before their token was looked at: strangers are not told how the log fares.
    pub fn is_noted(self) -> bool {
        matches!(
            self,
            Self::DeletePoint
                | Self::Hold
                | Self::Release
                | Self::LockPoint
                | Self::Revoke
                | Self::MakeToken
        )
    }

    /// In one lower-case word, for metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Enroll => "enroll",
            Self::OpenSession => "open_session",
            Self::Have => "have",
            Self::Put => "put",
            Self::Commit => "commit",
            Self::ListServers => "list_servers",
            Self::ListPoints => "list_points",
            Self::GetManifest => "get_manifest",
            Self::Get => "get",
            Self::Renew => "renew",
            Self::Report => "report",
            Self::AuditLog => "audit_log",
            Self::DeletePoint => "delete_point",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::LockPoint => "lock_point",
            Self::Revoke => "revoke",
            Self::MakeToken => "make_token",
            Self::GetPolicy => "get_policy",
        }
    }
}

/// What somebody may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Without a certificate.
    Applicant,
    /// A server's agent.
    Agent,
    /// A recovery site.
    Recovery,
    /// A person.
    Person(PersonRole),
}

impl Standing {
    /// Of a peer.
    pub fn of(peer: Peer) -> Self {
        match peer {
            Peer::Applicant => Self::Applicant,
            Peer::Agent(..) => Self::Agent,
            Peer::Recovery(..) => Self::Recovery,
            Peer::Person(_, role, _) => Self::Person(role),
        }
    }
}

/// The table.
pub fn allowed(standing: Standing, kind: Kind) -> bool {
    use Kind::*;
    use PersonRole::*;
    match standing {
        Standing::Applicant => matches!(kind, Enroll),
        Standing::Agent => matches!(
            kind,
            Hello | Renew | OpenSession | Have | Put | Commit | GetPolicy
        ),
        Standing::Recovery => matches!(
            kind,
            Hello | Renew | ListServers | ListPoints | GetManifest | Get
        ),
        Standing::Person(Auditor) => matches!(
            kind,
            Hello | Renew | ListServers | ListPoints | Report | AuditLog
        ),
        Standing::Person(Operator) => matches!(
            kind,
            Hello | Renew | ListServers | ListPoints | Report | Hold | LockPoint
        ),
        Standing::Person(Administrator) => matches!(
            kind,
            Hello
                | Renew
                | ListServers
                | ListPoints
                | Report
                | AuditLog
                | Hold
                | LockPoint
                | Release
                | DeletePoint
                | Revoke
                | MakeToken
        ),
    }
}

/// Refuses what the table does not allow, saying who may.
pub fn check(peer: Peer, kind: Kind) -> Result<(), Refusal> {
    let standing = Standing::of(peer);
    if allowed(standing, kind) {
        return Ok(());
    }
    Err(match (standing, kind) {
        (Standing::Applicant, _) => forbidden(
            "a certificate that this vault issued is needed",
            "enrol with a token first",
        ),
        (_, Kind::Enroll) => forbidden(
            "this peer is enrolled already",
            "enrol without a certificate",
        ),
        (Standing::Agent, _) => forbidden(
            "an agent may write recovery points and read none",
            "read from a recovery site",
        ),
        (Standing::Recovery, _) => forbidden(
            "a recovery site may read recovery points and write none",
            "back up from an agent",
        ),
        (Standing::Person(_), Kind::Get | Kind::GetManifest) => forbidden(
            "who governs images does not read them",
            "read from a recovery site",
        ),
        (Standing::Person(PersonRole::Auditor), _) => forbidden(
            "an auditor may look and change nothing",
            "ask an operator or administrator of the tenant",
        ),
        (Standing::Person(_), _) => forbidden(
            "this role does not allow it",
            "ask an administrator of the tenant",
        ),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use relevo_wire::message::RefusalCode;
    use relevo_wire::{PersonId, ServerId, SiteId, TenantId};

    /// Guards the table against any change that nobody meant: written out once more, by request.
    #[test]
    fn every_role_may_do_what_is_written_here_and_nothing_else() {
        let (tenant, person) = (TenantId::random(), PersonId::random());
        // Applicant, agent, recovery site, operator, auditor, administrator.
        let peers = [
            Peer::Applicant,
            Peer::Agent(tenant, ServerId::random()),
            Peer::Recovery(tenant, SiteId::random()),
            Peer::Person(tenant, PersonRole::Operator, person),
            Peer::Person(tenant, PersonRole::Auditor, person),
            Peer::Person(tenant, PersonRole::Administrator, person),
        ];
        let table = [
            (Kind::Hello, ". a r o u A"),
            (Kind::Enroll, "x . . . . ."),
            (Kind::OpenSession, ". a . . . ."),
            (Kind::Have, ". a . . . ."),
            (Kind::Put, ". a . . . ."),
            (Kind::Commit, ". a . . . ."),
            (Kind::ListServers, ". . r o u A"),
            (Kind::ListPoints, ". . r o u A"),
            (Kind::GetManifest, ". . r . . ."),
            (Kind::Get, ". . r . . ."),
            (Kind::Renew, ". a r o u A"),
            (Kind::Report, ". . . o u A"),
            (Kind::AuditLog, ". . . . u A"),
            (Kind::DeletePoint, ". . . . . A"),
            (Kind::Hold, ". . . o . A"),
            (Kind::Release, ". . . . . A"),
            (Kind::LockPoint, ". . . o . A"),
            (Kind::Revoke, ". . . . . A"),
            (Kind::MakeToken, ". . . . . A"),
            (Kind::GetPolicy, ". a . . . ."),
        ];
        assert_eq!(table.map(|(kind, _)| kind), Kind::ALL);
        for (number, (kind, row)) in table.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
            for (peer, mark) in peers.into_iter().zip(row.split(' ')) {
                let verdict = check(peer, kind);
                assert_eq!(verdict.is_ok(), mark != ".", "{peer} {kind:?}");
                if let Err(refusal) = verdict {
                    assert_eq!(refusal.code, RefusalCode::Forbidden);
                    assert!(!refusal.remedy.is_empty());
                }
            }
        }
    }
}
