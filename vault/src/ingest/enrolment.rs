//! Turns a token into a certificate.

use std::time::Duration;

use relevo_wire::enrollment::Token;
use relevo_wire::identity::Identity;
use relevo_wire::message::{Refusal, Response};
use relevo_wire::{ServerId, SiteId, TenantId, Timestamp};

use super::Vault;
use super::refusal::{malformed, token_refused};
use crate::catalogue::Role;
use crate::record::{Record, ServerRecord, SiteRecord};
use crate::volume::Volume;

/// How long a certificate of an agent or recovery site is accepted.
pub const CLIENT_VALIDITY: Duration = Duration::from_secs(2 * 365 * 24 * 3600);
/// Longest name of a server or site, in bytes.
const MAX_NAME: usize = 200;

impl<V: Volume> Vault<V> {
    pub(super) fn enroll(
        &self,
        secret: &[u8; 32],
        certificate_request: &[u8],
        name: &str,
        tenant: TenantId,
    ) -> Result<Response, Refusal> {
        let hash = Token::secret_hash(secret);
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(malformed(format!(
                "a name has 1 to {MAX_NAME} bytes and no control characters"
            )));
        }
        let token = self
            .store
            .read(|c| Ok(c.use_token(&hash, tenant)))?
            .map_err(token_refused)?;
        let enrolled = Timestamp::now();
        let name = name.to_string();
        let (identity, record) = match token.role {
            Role::Agent => {
                let id = ServerId::random();
                let identity = Identity::Agent { tenant, server: id };
                (
                    identity,
                    Record::Server(ServerRecord {
                        id,
                        name: name.clone(),
                        enrolled,
                    }),
                )
            }
            Role::Recovery => {
                let id = SiteId::random();
                let identity = Identity::Recovery { tenant, site: id };
                (
                    identity,
                    Record::Site(SiteRecord {
                        id,
                        name: name.clone(),
                        enrolled,
                    }),
                )
            }
        };
        let issued = self
            .authority
            .issue_client(certificate_request, &identity, &name, CLIENT_VALIDITY)
            .map_err(|e| malformed(e.to_string()))
            .and_then(|issued| {
                self.store.append_blocking(tenant, vec![record])?;
                Ok(issued)
            });
        let issued = match issued {
            Ok(issued) => issued,
            Err(refusal) => {
                if let Err(error) = self.store.read(|c| c.return_token(&hash)) {
                    tracing::warn!(%error, "a token is lost to an enrolment that failed");
                }
                return Err(refusal);
            }
        };
        tracing::info!(%identity, name, "enrolled");
        Ok(Response::Enrolled {
            certificate: issued.certificate.to_vec(),
            authority: self.authority.certificate().to_vec(),
            identity: identity.to_string(),
            expires: issued.expires,
        })
    }
}
