//! `relevo-vault token`: lets one agent or recovery site in.

use std::time::Duration;

use serde::Serialize;

use relevo_wire::enrollment::Token;
use relevo_wire::{TenantId, Timestamp};

use crate::catalogue::{Catalogue, Role, TokenRow};
use crate::directory::Directory;
use crate::error::VaultError;

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
}

/// Makes a token. Works beside a vault that serves.
///
/// Without `tenant` it is for the vault's only tenant, or for the first: whoever gets it may
/// then bring his keys. A vault with several tenants must be told which.
pub fn make(
    directory: &Directory,
    role: Role,
    valid: Duration,
    tenant: Option<TenantId>,
) -> Result<NewToken, VaultError> {
    let authority = directory.authority()?;
    let beside = crate::rebuild::open_beside(directory)?;
    let catalogue = &beside.catalogue;
    let tenants = catalogue.tenants()?;
    if tenant.is_none() && tenants.len() > 1 {
        return Err(VaultError::Usage {
            reason: format!("the vault keeps images of {} tenants", tenants.len()),
            remedy: "name one with --tenant (its id stands in the tenant's key files)".into(),
        });
    }
    let token = Token::generate(authority.fingerprint());
    let row = TokenRow {
        role,
        tenant: tenant.or(tenants.first().copied()),
        expires: Timestamp::now().plus(valid),
    };
    add(catalogue, &token, &row)?;
    Ok(NewToken {
        token: token.to_string(),
        role,
        tenant: row.tenant,
        expires: row.expires,
    })
}

fn add(catalogue: &Catalogue, token: &Token, row: &TokenRow) -> Result<(), VaultError> {
    catalogue.add_token(&Token::secret_hash(&token.secret), row)?;
    Ok(())
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
