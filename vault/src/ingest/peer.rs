//! Who asks, as the connection's certificate says.

use std::fmt;

use relevo_wire::identity::Identity;
use relevo_wire::{ServerId, SiteId, TenantId};

/// Who asks, as the connection's certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Somebody without a certificate of this vault.
    Applicant,
    /// A server's agent.
    Agent(TenantId, ServerId),
    /// A recovery site.
    Recovery(TenantId, SiteId),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applicant => f.write_str("applicant"),
            Self::Agent(_, server) => write!(f, "agent of {server}"),
            Self::Recovery(_, site) => write!(f, "recovery site {site}"),
        }
    }
}

impl Peer {
    /// Who a certificate's identity is to a vault.
    pub fn of(identity: Identity) -> Self {
        match identity {
            Identity::Agent { tenant, server } => Self::Agent(tenant, server),
            Identity::Recovery { tenant, site } => Self::Recovery(tenant, site),
            Identity::Vault(_) => Self::Applicant,
        }
    }
}
