//! Refusals in words, with the remedy.

use relevo_wire::message::{Refusal, RefusalCode};

use crate::catalogue::TokenError;

/// A peer that breaks the protocol.
pub fn malformed(message: String) -> Refusal {
    Refusal::new(
        RefusalCode::Malformed,
        message,
        "update this program and the vault to the same release",
    )
}

pub(super) fn forbidden(message: &str, remedy: &str) -> Refusal {
    Refusal::new(RefusalCode::Forbidden, message, remedy)
}

pub(super) fn not_found(message: String) -> Refusal {
    Refusal::new(
        RefusalCode::NotFound,
        message,
        "see what there is: 'relevo-recover list'",
    )
}

pub(super) fn token_refused(error: TokenError) -> Refusal {
    let remedy = match &error {
        TokenError::Store(error) => return error.clone().into(),
        TokenError::NamelessToken(tenant) | TokenError::OtherTenant(tenant) => {
            format!(
                "use the keys of the token's tenant, or make a token with --tenant; here {tenant}"
            )
        }
        _ => "ask the vault's administrator for a new token: 'relevo-vault token'".into(),
    };
    Refusal::new(RefusalCode::Token, error.to_string(), remedy)
}
