//! `relevo-vault token`: lets somebody in: an agent, a recovery site, a person.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use relevo_wire::enrollment::Token;
use relevo_wire::identity::Identity;
use relevo_wire::{TenantId, Timestamp};

use crate::audit::{Act, Audit, Event};
use crate::catalogue::{Catalogue, Role, TokenRow};
use crate::directory::Directory;
use crate::error::VaultError;
use crate::revocation;

/// A token that somebody wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// What it lets its bearer become.
    pub role: Role,
    /// How long it may wait.
    pub valid: Duration,
    /// The only tenant that it is for. Without it, the vault's only tenant, or the first:
    /// whoever gets it may then bring his keys.
    pub tenant: Option<TenantId>,
    /// Name or id of somebody of that role who is to be enrolled anew: the same id, with its
    /// history, while earlier certificates are revoked.
    pub again: Option<String>,
}

/// A token for the administrator to hand over.
#[derive(Clone, Debug, Serialize)]
pub struct NewToken {
    /// The secret text.
    pub token: String,
    /// What it lets its bearer become.
    pub role: Role,
    /// The only tenant that it is for.
    pub tenant: Option<TenantId>,
    /// Until when.
    pub expires: Timestamp,
    /// Whom it enrols anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub again: Option<String>,
}

/// Makes a token and notes it. Works beside a vault that serves.
pub fn make(directory: &Directory, wanted: &Wanted) -> Result<NewToken, VaultError> {
    let authority = directory.authority()?;
    let beside = crate::rebuild::open_beside(directory)?;
    let audit = Audit::open(directory.path(), directory.file().vault);
    audit.ready()?;
    let made = make_in(&beside.catalogue, authority.fingerprint(), wanted)?;
    audit.record(&event(&made, "local"))?;
    Ok(made)
}

/// The audit log's entry for a token that was made.
pub fn event(made: &NewToken, by: &str) -> Event {
    let again = made.again.as_deref();
    let on = match again {
        Some(who) => format!("{} {who} anew", made.role.text()),
        None => made.role.text().to_string(),
    };
    let event = Event::new(by, Act::TokenMade, on).result(format!("until {}", made.expires));
    match made.tenant {
        Some(tenant) => event.of(tenant),
        None => event,
    }
}

/// Makes a token. A vault with several tenants must be told which.
pub fn make_in(
    catalogue: &Catalogue,
    authority: [u8; 32],
    wanted: &Wanted,
) -> Result<NewToken, VaultError> {
    let tenants = match wanted.tenant {
        Some(tenant) => vec![tenant],
        None => catalogue.tenants()?,
    };
    let again = match &wanted.again {
        Some(who) => Some(revocation::find(catalogue, &tenants, who)??),
        None => None,
    };
    if let Some(one) = &again
        && role_of(&one.identity) != Some(wanted.role)
    {
        return Err(VaultError::Usage {
            reason: format!("'{}' is no {}", one.name, wanted.role.text()),
            remedy: format!("its identity is {}", one.identity),
        });
    }
    let tenant = again.as_ref().map(|one| one.tenant).or(wanted.tenant);
    if tenant.is_none() && tenants.len() > 1 {
        return Err(VaultError::Usage {
            reason: format!("the vault keeps images of {} tenants", tenants.len()),
            remedy: "name one with --tenant (its id stands in the tenant's key files)".into(),
        });
    }
    let tenant = tenant.or(tenants.first().copied());
    if tenant.is_none() && wanted.role.person().is_some() {
        return Err(VaultError::Usage {
            reason: "the vault has no tenant yet that somebody could look after".into(),
            remedy: "enrol an agent or recovery site first, or name the tenant with --tenant"
                .into(),
        });
    }
    let token = Token::generate(authority);
    let row = TokenRow {
        role: wanted.role,
        tenant,
        expires: Timestamp::now().plus(wanted.valid),
        again: again.as_ref().map(|one| one.id()),
    };
    catalogue.add_token(&Token::secret_hash(&token.secret), &row)?;
    Ok(NewToken {
        token: token.to_string(),
        role: row.role,
        tenant: row.tenant,
        expires: row.expires,
        again: again.map(|one| one.identity.to_string()),
    })
}

fn role_of(identity: &Identity) -> Option<Role> {
    match identity {
        Identity::Vault(_) => None,
        Identity::Agent { .. } => Some(Role::Agent),
        Identity::Recovery { .. } => Some(Role::Recovery),
        Identity::Operator { .. } => Some(Role::Operator),
        Identity::Auditor { .. } => Some(Role::Auditor),
        Identity::Administrator { .. } => Some(Role::Administrator),
    }
}

/// Reads a length of time such as `90s`, `15m`, `1h` or `7d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no length of time: write for instance 90s, 15m, 1h or 7d");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(unit).filter(|&s| s <= 366 * 86400);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| format!("'{text}' is longer than a year"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lengths_of_time() {
        assert_eq!(parse_duration("1h").unwrap(), Duration::from_secs(3600));
        assert_eq!(parse_duration("0s").unwrap(), Duration::ZERO);
        for wrong in [
            "",
            "1",
            "h",
            "1w",
            "-1h",
            "1.5h",
            "99999999999999999999d",
            "400d",
            "1µ",
        ] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
