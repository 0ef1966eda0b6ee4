//! Single-use tokens. They are not in the packs: a lost catalogue loses those that wait.

use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use relevo_wire::message::TokenRole;
use relevo_wire::{PersonId, TenantId, Timestamp};

use super::Catalogue;
use crate::error::StoreError;
use crate::record::PersonRole;

/// What a token lets its bearer become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A server that is imaged: may add recovery points, read nothing.
    Agent,
    /// A recovery site: may read the tenant's recovery points.
    Recovery,
    /// Somebody who runs backups: lists, reports, holds and locks.
    Operator,
    /// Somebody who checks: lists, reports and the audit log.
    Auditor,
    /// Somebody who governs: may besides delete, release, revoke and let others in.
    Administrator,
}

impl Role {
    const ALL: [Self; 5] = [
        Self::Agent,
        Self::Recovery,
        Self::Operator,
        Self::Auditor,
        Self::Administrator,
    ];

    /// In one word.
    pub fn text(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Recovery => "recovery",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Administrator => "administrator",
        }
    }

    /// What a person of this role is; nothing for agents and recovery sites.
    pub fn person(self) -> Option<PersonRole> {
        match self {
            Self::Agent | Self::Recovery => None,
            Self::Operator => Some(PersonRole::Operator),
            Self::Auditor => Some(PersonRole::Auditor),
            Self::Administrator => Some(PersonRole::Administrator),
        }
    }
}

impl From<TokenRole> for Role {
    fn from(role: TokenRole) -> Self {
        match role {
            TokenRole::Agent => Self::Agent,
            TokenRole::Recovery => Self::Recovery,
            TokenRole::Operator => Self::Operator,
            TokenRole::Auditor => Self::Auditor,
            TokenRole::Administrator => Self::Administrator,
        }
    }
}

impl From<Role> for TokenRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Agent => Self::Agent,
            Role::Recovery => Self::Recovery,
            Role::Operator => Self::Operator,
            Role::Auditor => Self::Auditor,
            Role::Administrator => Self::Administrator,
        }
    }
}

/// A token that waits.
#[derive(Clone, Copy, Debug)]
pub struct TokenRow {
    /// What it is for.
    pub role: Role,
    /// The only tenant that it is for.
    pub tenant: Option<TenantId>,
    /// Until when.
    pub expires: Timestamp,
    /// Whom it enrols anew; somebody new when nobody.
    pub again: Option<[u8; 16]>,
}

impl TokenRow {
    /// The table's column: the role, and behind a slash whom it enrols anew.
    fn role_text(&self) -> String {
        match &self.again {
            None => self.role.text().into(),
            Some(id) => format!("{}/{}", self.role.text(), PersonId::from_bytes(*id)),
        }
    }

    fn parse_role(text: &str) -> Option<(Role, Option<[u8; 16]>)> {
        let (role, again) = match text.split_once('/') {
            Some((role, id)) => (role, Some(*id.parse::<PersonId>().ok()?.as_bytes())),
            None => (text, None),
        };
        let role = Role::ALL.into_iter().find(|known| known.text() == role)?;
        Some((role, again))
    }
}

/// Why a token is worth nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Never made here, or lost with the catalogue.
    #[error("this vault knows no such token")]
    Unknown,
    /// A token is good for one enrolment.
    #[error("this token was used at {0}")]
    Used(Timestamp),
    /// It waited too long.
    #[error("this token expired at {0}")]
    Expired(Timestamp),
    /// It is for other keys.
    #[error("this token is for tenant {0}, the keys are of another")]
    OtherTenant(TenantId),
    /// A second tenant must be let in by name.
    #[error("this token names no tenant, and the vault keeps images of others than {0}")]
    NamelessToken(TenantId),
    /// Whoever brings no keys comes with a token that names the tenant.
    #[error("this token names no tenant, and its bearer brings no keys that would")]
    NoTenant,
    /// The catalogue failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for TokenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Catalogue {
    /// Adds a token, durable at once. Old ones that can be used no more are dropped.
    pub fn add_token(&self, hash: &[u8; 32], token: &TokenRow) -> Result<(), StoreError> {
        let now = Timestamp::now();
        let month = 30 * 24 * 3600 * 1000;
        self.durably(|db| {
            db.db.execute(
                "DELETE FROM tokens WHERE expires < ?1",
                [now.as_millis() - month],
            )?;
            db.db.execute(
                "INSERT INTO tokens VALUES (?1, ?2, ?3, ?4, ?5, NULL)",
                params![
                    hash,
                    token.role_text(),
                    token.tenant.map(|t| *t.as_bytes()),
                    now.as_millis(),
                    token.expires.as_millis()
                ],
            )?;
            Ok(())
        })
    }

    /// Uses a token up, durable at once: of two who come with it only one gets in. Who has no
    /// keys names no tenant: then it is the token's. Whose it is is told with it.
    ///
    /// A token without a tenant is for the vault's only tenant, or makes the first.
    pub fn use_token(
        &self,
        hash: &[u8; 32],
        claimed: Option<TenantId>,
    ) -> Result<(TokenRow, TenantId), TokenError> {
        let now = Timestamp::now();
        // Without a lock on the catalogue: anybody may come with a token that is none.
        let known = self
            .db
            .prepare_cached("SELECT 1 FROM tokens WHERE hash = ?1")?
            .exists([hash])?;
        if !known {
            return Err(TokenError::Unknown);
        }
        self.durably(|this| {
            let row = this
                .db
                .prepare_cached("SELECT role, tenant, expires, used FROM tokens WHERE hash = ?1")?
                .query_row([hash], |row| {
                    let role: String = row.get(0)?;
                    let tenant: Option<[u8; 16]> = row.get(1)?;
                    let token = TokenRow::parse_role(&role).map(|(role, again)| TokenRow {
                        role,
                        tenant: tenant.map(TenantId::from_bytes),
                        expires: Timestamp::from_millis(row.get(2).unwrap_or_default()),
                        again,
                    });
                    Ok((token, row.get::<_, Option<i64>>(3)?))
                })
                .optional()?;
            let Some((Some(token), used)) = row else {
                return Err(TokenError::Unknown);
            };
            if let Some(used) = used {
                return Err(TokenError::Used(Timestamp::from_millis(used)));
            }
            if token.expires <= now {
                return Err(TokenError::Expired(token.expires));
            }
            let tenant = match (token.tenant, claimed) {
                (Some(only), Some(other)) if only != other => {
                    return Err(TokenError::OtherTenant(only));
                }
                (Some(only), _) => only,
                (None, None) => return Err(TokenError::NoTenant),
                (None, Some(tenant)) => {
                    let known = this.tenants()?;
                    if !known.is_empty() && known != [tenant] {
                        return Err(TokenError::NamelessToken(tenant));
                    }
                    tenant
                }
            };
            this.tenant_or_new(tenant)?;
            this.db.execute(
                "UPDATE tokens SET used = ?1 WHERE hash = ?2",
                params![now.as_millis(), hash],
            )?;
            Ok((token, tenant))
        })
    }

    /// Gives a token back that was used up for an enrolment which then failed, and forgets the
    /// tenant that it would have made.
    pub fn return_token(&self, hash: &[u8; 32], tenant: TenantId) -> Result<(), StoreError> {
        self.durably(|this| {
            this.db
                .execute("UPDATE tokens SET used = NULL WHERE hash = ?1", [hash])?;
            this.db.execute(
                "DELETE FROM tenants WHERE id = ?1
                 AND NOT EXISTS (SELECT 1 FROM packs WHERE tenant = tenants.number)",
                [tenant.as_bytes()],
            )?;
            Ok(())
        })
    }

    /// Copies the tokens of another catalogue that can be read; how many.
    pub fn take_tokens_from(&self, path: &std::path::Path) -> Result<usize, StoreError> {
        let path = path.to_string_lossy();
        self.db.execute("ATTACH DATABASE ?1 AS old", [path])?;
        let copied = self
            .db
            .execute("INSERT OR IGNORE INTO tokens SELECT * FROM old.tokens", []);
        self.db.execute_batch("DETACH DATABASE old")?;
        Ok(copied?)
    }

    /// A transaction that is on stable storage when this returns.
    fn durably<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let set = |level: &str| {
            self.db
                .pragma_update(None, "synchronous", level)
                .map_err(StoreError::from)
        };
        set("FULL")?;
        let done = self.transaction(work);
        set("NORMAL")?;
        done
    }
}
