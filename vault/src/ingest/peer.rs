//! Who asks, as the connection's certificate says.

use std::fmt;

use relevo_wire::identity::Identity;
use relevo_wire::{PersonId, ServerId, SiteId, TenantId, Timestamp};

use crate::record::PersonRole;

/// Who asks, as the connection's certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Somebody without a certificate of this vault.
    Applicant,
    /// A server's agent.
    Agent(TenantId, ServerId),
    /// A recovery site.
    Recovery(TenantId, SiteId),
    /// An operator, auditor or administrator.
    Person(TenantId, PersonRole, PersonId),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applicant => f.write_str("applicant"),
            Self::Agent(_, server) => write!(f, "agent of {server}"),
            Self::Recovery(_, site) => write!(f, "recovery site {site}"),
            Self::Person(_, PersonRole::Operator, person) => write!(f, "operator {person}"),
            Self::Person(_, PersonRole::Auditor, person) => write!(f, "auditor {person}"),
            Self::Person(_, PersonRole::Administrator, person) => {
                write!(f, "administrator {person}")
            }
        }
    }
}

impl Peer {
    /// Who a certificate's identity is to a vault.
    pub fn of(identity: Identity) -> Self {
        match identity {
            Identity::Agent { tenant, server } => Self::Agent(tenant, server),
            Identity::Recovery { tenant, site } => Self::Recovery(tenant, site),
            Identity::Operator { tenant, person } => {
                Self::Person(tenant, PersonRole::Operator, person)
            }
            Identity::Auditor { tenant, person } => {
                Self::Person(tenant, PersonRole::Auditor, person)
            }
            Identity::Administrator { tenant, person } => {
                Self::Person(tenant, PersonRole::Administrator, person)
            }
            Identity::Vault(_) => Self::Applicant,
        }
    }

    /// The certificate's identity; an applicant has none.
    pub fn identity(&self) -> Option<Identity> {
        match *self {
            Self::Applicant => None,
            Self::Agent(tenant, server) => Some(Identity::Agent { tenant, server }),
            Self::Recovery(tenant, site) => Some(Identity::Recovery { tenant, site }),
            Self::Person(tenant, role, person) => Some(of_person(tenant, role, person)),
        }
    }

    /// Whose data it is about.
    pub fn tenant(&self) -> Option<TenantId> {
        self.identity().and_then(|identity| identity.tenant())
    }

    /// As audit log and records name it.
    pub fn text(&self) -> String {
        match self.identity() {
            Some(identity) => identity.to_string(),
            None => "applicant".into(),
        }
    }
}

/// The identity of a person in this role.
pub fn of_person(tenant: TenantId, role: PersonRole, person: PersonId) -> Identity {
    match role {
        PersonRole::Operator => Identity::Operator { tenant, person },
        PersonRole::Auditor => Identity::Auditor { tenant, person },
        PersonRole::Administrator => Identity::Administrator { tenant, person },
    }
}

/// A peer on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who.
    pub peer: Peer,
    /// When the certificate was issued: revoked are those issued up to some moment.
    pub issued: Timestamp,
    /// The address, for the audit log.
    pub from: String,
}

impl Caller {
    /// As the audit log names it: the identity, or the address of somebody unknown.
    pub fn text(&self) -> String {
        match self.peer {
            Peer::Applicant => self.from.clone(),
            peer => peer.text(),
        }
    }
}
