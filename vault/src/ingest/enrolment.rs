//! Turns a token into a certificate, and a certificate into the next.

use std::time::Duration;

use relevo_wire::enrollment::Token;
use relevo_wire::identity::{Identity, check_request};
use relevo_wire::message::{Refusal, Response};
use relevo_wire::{PersonId, ServerId, SiteId, TenantId, Timestamp};

use super::peer::of_person;
use super::refusal::{malformed, not_found, token_refused};
use super::{Caller, Vault};
use crate::audit::{Act, Event};
use crate::catalogue::{Role, TokenRow};
use crate::record::{PersonRecord, Record, ServerRecord, SiteRecord};
use crate::revocation;
use crate::volume::Volume;

/// How long a certificate is accepted. Its bearer renews it when half of that is over.
pub const CLIENT_VALIDITY: Duration = Duration::from_secs(180 * 24 * 3600);
/// Longest name of a server, site or person, in bytes.
const MAX_NAME: usize = 200;
/// What somebody without keys names as his tenant.
const NO_TENANT: TenantId = TenantId::from_bytes([0; 16]);

impl<V: Volume> Vault<V> {
    pub(super) fn enroll(
        &self,
        caller: &Caller,
        secret: &[u8; 32],
        certificate_request: &[u8],
        name: &str,
        claimed: TenantId,
    ) -> Result<Response, Refusal> {
        let hash = Token::secret_hash(secret);
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(malformed(format!(
                "a name has 1 to {MAX_NAME} bytes and no control characters"
            )));
        }
        // Before the token counts for anything, the vault's first tenant included.
        check_request(certificate_request).map_err(|e| malformed(e.to_string()))?;
        let claimed = (claimed != NO_TENANT).then_some(claimed);
        let (token, tenant) = self
            .store
            .read(|c| Ok(c.use_token(&hash, claimed)))?
            .map_err(token_refused)?;
        let enrolled = self.enroll_with(caller, &token, tenant, certificate_request, name);
        if enrolled.is_err()
            && let Err(error) = self.store.read(|c| c.return_token(&hash, tenant))
        {
            tracing::warn!(%error, "a token is lost to an enrolment that failed");
        }
        enrolled
    }

    fn enroll_with(
        &self,
        caller: &Caller,
        token: &TokenRow,
        tenant: TenantId,
        certificate_request: &[u8],
        name: &str,
    ) -> Result<Response, Refusal> {
        self.check_audit()?;
        let (identity, record) = newcomer(token, tenant, name);
        let mut records = vec![record];
        let mut issued = Timestamp::now();
        if token.again.is_some() {
            // Whoever has the lost key is somebody else from now on.
            let until = self.store.read(|c| c.revoked_until(&identity))?;
            let revoked = revocation::record(&identity, until, &caller.text(), "enrolled anew");
            issued = revocation::first_after(revoked.until);
            records.push(Record::Revocation(revoked));
        } else if let Some(until) = self.store.read(|c| c.revoked_until(&identity))? {
            issued = issued.max(revocation::first_after(until));
        }
        let certificate = self
            .authority
            .issue_client_at(
                certificate_request,
                &identity,
                name,
                issued,
                CLIENT_VALIDITY,
            )
            .map_err(|e| malformed(e.to_string()))?;
        self.store.append_blocking(tenant, records)?;
        self.revocations_changed();
        tracing::info!(%identity, name, "enrolled");
        let result = match token.again {
            Some(_) => format!("as {name}, anew: earlier certificates are revoked"),
            None => format!("as {name}"),
        };
        let event = Event::new(caller.text(), Act::Enrolled, identity.to_string());
        self.note(&event.of(tenant).result(result))?;
        Ok(self.enrolled(&identity, certificate))
    }

    /// A new certificate for who has one that counts.
    pub(super) fn renew(
        &self,
        caller: &Caller,
        certificate_request: &[u8],
    ) -> Result<Response, Refusal> {
        let Some(identity) = caller.peer.identity() else {
            return Err(not_found("there is no certificate to renew".into()));
        };
        let tenant = identity.tenant().unwrap_or(NO_TENANT);
        let until = self.store.read(|c| c.revoked_until(&identity))?;
        let after = until.map(revocation::first_after);
        let issued = after.map_or(Timestamp::now(), |after| after.max(Timestamp::now()));
        let known = self.store.read(|c| c.enrolled(tenant))?;
        let name = known.into_iter().find(|one| one.identity == identity);
        let name = name.map_or_else(|| "relevo".into(), |one| one.name);
        let certificate = self
            .authority
            .issue_client_at(
                certificate_request,
                &identity,
                &name,
                issued,
                CLIENT_VALIDITY,
            )
            .map_err(|e| malformed(e.to_string()))?;
        let event = Event::new(caller.text(), Act::Renewed, identity.to_string());
        let event = event
            .of(tenant)
            .result(format!("until {}", certificate.expires));
        // It gives nobody more than he has, and without it a log that stays broken would lock
        // all agents and recovery sites out in the end. The failure was told.
        let _ = self.note(&event);
        tracing::info!(%identity, "certificate renewed");
        Ok(self.enrolled(&identity, certificate))
    }

    fn enrolled(&self, identity: &Identity, issued: relevo_wire::identity::Issued) -> Response {
        Response::Enrolled {
            certificate: issued.certificate.to_vec(),
            authority: self.authority.certificate().to_vec(),
            identity: identity.to_string(),
            expires: issued.expires,
        }
    }
}

/// Who a token makes of its bearer, and the record that says so.
fn newcomer(token: &TokenRow, tenant: TenantId, name: &str) -> (Identity, Record) {
    let (name, enrolled) = (name.to_string(), Timestamp::now());
    let again = token.again;
    match (token.role, token.role.person()) {
        (_, Some(role)) => {
            let id = again.map_or_else(PersonId::random, PersonId::from_bytes);
            let record = PersonRecord {
                id,
                role,
                name,
                enrolled,
            };
            (of_person(tenant, role, id), Record::Person(record))
        }
        (Role::Recovery, None) => {
            let id = again.map_or_else(SiteId::random, SiteId::from_bytes);
            let record = SiteRecord { id, name, enrolled };
            (
                Identity::Recovery { tenant, site: id },
                Record::Site(record),
            )
        }
        (_, None) => {
            let id = again.map_or_else(ServerId::random, ServerId::from_bytes);
            let record = ServerRecord { id, name, enrolled };
            (
                Identity::Agent { tenant, server: id },
                Record::Server(record),
            )
        }
    }
}
