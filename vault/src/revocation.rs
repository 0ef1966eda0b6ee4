//! Certificates that count no more.
//!
//! A revocation is a record in the tenant's packs: certificates of an identity that were issued
//! up to a moment are worth nothing. It is asked at each connection and each request, and open
//! connections are closed.

use std::time::Duration;

use relevo_wire::identity::Identity;
use relevo_wire::message::RefusalCode;
use relevo_wire::{TenantId, Timestamp};
use serde::Serialize;

use crate::audit::{Act, Event};
use crate::catalogue::{Catalogue, Enrolled};
use crate::error::{StoreError, VaultError};
use crate::ingest::Vault;
use crate::record::{Record, RevocationRecord};
use crate::volume::Volume;

/// A revocation covers certificates that say that they were issued so much later: the vault's
/// clock may have been ahead then. One that says more is not valid yet.
const CLOCK_WAS_AHEAD: Duration = Duration::from_secs(3600);
/// Longest reason, in bytes.
const MAX_REASON: usize = 500;

/// The record that revokes all certificates that an identity has, given what is revoked already.
pub fn record(
    identity: &Identity,
    until: Option<Timestamp>,
    by: &str,
    reason: &str,
) -> RevocationRecord {
    let now = Timestamp::now().plus(CLOCK_WAS_AHEAD);
    RevocationRecord {
        identity: identity.to_string(),
        // Certificates that followed an earlier revocation were issued right behind it.
        until: until.map_or(now, |until| now.max(first_after(until))),
        by: by.into(),
        reason: reason.into(),
    }
}

/// The first moment of issue that a revocation does not cover.
pub fn first_after(until: Timestamp) -> Timestamp {
    until.plus(Duration::from_millis(1))
}

/// Somebody whose certificates were revoked.
#[derive(Clone, Debug, Serialize)]
pub struct Revoked {
    /// Whose.
    pub tenant: TenantId,
    /// As certificates name it.
    pub identity: String,
    /// For people.
    pub name: String,
}

/// The one who is called so: by name, id or identity.
pub fn find(
    catalogue: &Catalogue,
    tenants: &[TenantId],
    who: &str,
) -> Result<Result<Enrolled, Unclear>, StoreError> {
    let mut found = Vec::new();
    for tenant in tenants {
        let all = catalogue.enrolled(*tenant)?;
        found.extend(all.into_iter().filter(|one| one.is_called(who)));
    }
    Ok(match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(one), false) => {
            found.push(one);
            let names: Vec<_> = found.iter().map(|one| one.identity.to_string()).collect();
            Err(Unclear {
                reason: format!("{} are called '{who}'", found.len()),
                remedy: format!("name one of: {}", names.join(", ")),
            })
        }
        (None, _) => Err(Unclear {
            reason: format!("nobody is called '{who}'"),
            remedy: "give the name or id of a server, recovery site or person".into(),
        }),
    })
}

/// Nobody, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unclear {
    /// Why.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

impl From<Unclear> for VaultError {
    fn from(unclear: Unclear) -> Self {
        Self::Usage {
            reason: unclear.reason,
            remedy: unclear.remedy,
        }
    }
}

impl From<Unclear> for relevo_wire::message::Refusal {
    fn from(unclear: Unclear) -> Self {
        Self::new(RefusalCode::NotFound, unclear.reason, unclear.remedy)
    }
}

/// A reason as records and the audit log take it.
pub fn check_reason(reason: &str) -> Result<(), VaultError> {
    let fits = (1..=MAX_REASON).contains(&reason.len()) && !reason.chars().any(char::is_control);
    match fits {
        true => Ok(()),
        false => Err(VaultError::Usage {
            reason: format!("a reason has 1 to {MAX_REASON} bytes and no control characters"),
            remedy: "give one with --reason".into(),
        }),
    }
}

/// Revokes for the vault's own command line, which sees all tenants.
pub fn revoke<V: Volume>(
    vault: &Vault<V>,
    tenant: Option<TenantId>,
    who: &str,
    reason: &str,
    by: &str,
) -> Result<Revoked, VaultError> {
    check_reason(reason)?;
    let tenants = match tenant {
        Some(tenant) => vec![tenant],
        None => vault.store().read(|c| c.tenants())?,
    };
    let one = vault.store().read(|c| find(c, &tenants, who))??;
    vault.revoke(&one, reason, by)?;
    Ok(Revoked {
        tenant: one.tenant,
        identity: one.identity.to_string(),
        name: one.name,
    })
}

impl<V: Volume> Vault<V> {
    /// Revokes all certificates of somebody, closes his connections and notes it.
    pub fn revoke(&self, one: &Enrolled, reason: &str, by: &str) -> Result<(), VaultError> {
        let until = self.store().read(|c| c.revoked_until(&one.identity))?;
        let revoked = record(&one.identity, until, by, reason);
        self.store()
            .append_blocking(one.tenant, vec![Record::Revocation(revoked)])?;
        self.revocations_changed();
        tracing::warn!(identity = %one.identity, name = one.name, reason, by, "revoked");
        let event = Event::new(by, Act::Revoked, one.identity.to_string());
        self.note(&event.of(one.tenant).result(reason))
    }
}
