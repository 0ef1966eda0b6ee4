//! The certificate authority of a vault: what it issues, to whom, and for how long.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};

use super::{CLOCKS_DIFFER, Credentials, ISSUED, Identity, IdentityError, VAULT_NAME};
use crate::id::VaultId;
use crate::time::Timestamp;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Whether a request for a certificate can be read and is signed by its own key: to be known
/// before anything is done for its sake.
pub fn check_request(request: &[u8]) -> Result<(), IdentityError> {
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))?;
    Ok(())
}

/// A certificate that was just issued.
pub struct Issued {
    /// DER.
    pub certificate: CertificateDer<'static>,
    /// When it stops being accepted.
    pub expires: Timestamp,
}

/// The certificate authority of a vault.
pub struct Authority {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Authority {
    /// A new authority for a new vault, valid for 30 years.
    pub fn generate(vault: VaultId) -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Relevo vault {vault}"));
        validity(&mut params, 30 * YEAR);
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self {
            certificate,
            key: key.serialize_der(),
        })
    }

    /// From what [`certificate`](Self::certificate) and [`key_der`](Self::key_der) gave.
    pub fn from_der(certificate: Vec<u8>, key: Vec<u8>) -> Self {
        Self {
            certificate: certificate.into(),
            key,
        }
    }

    /// Its certificate, which signs itself.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// PKCS #8, DER.
    pub fn key_der(&self) -> &[u8] {
        &self.key
    }

    /// BLAKE3 of the certificate: what a token pins.
    pub fn fingerprint(&self) -> [u8; 32] {
        *blake3::hash(&self.certificate).as_bytes()
    }

    /// The vault's own credentials, valid for a year from now.
    pub fn issue_vault(&self, vault: VaultId) -> Result<Credentials, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![VAULT_NAME.to_string()])?;
        params.subject_alt_names.push(uri(&Identity::Vault(vault))?);
        params
            .distinguished_name
            .push(DnType::CommonName, VAULT_NAME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        validity(&mut params, YEAR);
        let certificate = params.signed_by(&key, &self.issuer()?)?.der().clone();
        let chain = vec![certificate, self.certificate.clone()];
        Ok(Credentials::new(chain, key.serialize_der()))
    }

    /// A client's certificate for the key in its request. Nothing else is taken from the request.
    pub fn issue_client(
        &self,
        request: &[u8],
        identity: &Identity,
        name: &str,
        valid_for: Duration,
    ) -> Result<Issued, IdentityError> {
        self.issue_client_at(request, identity, name, Timestamp::now(), valid_for)
    }

    /// As [`issue_client`](Self::issue_client), with the moment that counts as its issue: one
    /// that replaces revoked certificates must be later than what was revoked.
    pub fn issue_client_at(
        &self,
        request: &[u8],
        identity: &Identity,
        name: &str,
        issued: Timestamp,
        valid_for: Duration,
    ) -> Result<Issued, IdentityError> {
        let request = CertificateSigningRequestDer::from(request);
        let mut request = CertificateSigningRequestParams::from_der(&request)?;
        let mut params = CertificateParams::default();
        let moment = format!("{ISSUED}{}", issued.as_millis());
        // The identity first: earlier releases take the first name for it.
        params.subject_alt_names = vec![uri(identity)?, SanType::URI(moment.try_into()?)];
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let expires = validity(&mut params, valid_for);
        request.params = params;
        let certificate = request.signed_by(&self.issuer()?)?.der().clone();
        Ok(Issued {
            certificate,
            expires,
        })
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, IdentityError> {
        let key = KeyPair::try_from(self.key.as_slice())?;
        Ok(Issuer::from_ca_cert_der(&self.certificate, key)?)
    }
}

fn uri(identity: &Identity) -> Result<SanType, IdentityError> {
    Ok(SanType::URI(identity.to_string().try_into()?))
}

/// Valid from an hour ago, for `valid_for` from now.
fn validity(params: &mut CertificateParams, valid_for: Duration) -> Timestamp {
    let now = std::time::SystemTime::now();
    params.not_before = (now - CLOCKS_DIFFER).into();
    params.not_after = (now + valid_for).into();
    Timestamp::now().plus(valid_for)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::id::{PersonId, ServerId, SiteId, TenantId};
    use crate::identity::{Applicant, Validity};

    #[test]
    fn a_certificate_says_who_it_was_issued_to() {
        let authority = Authority::generate(VaultId::random()).unwrap();
        let identity = Identity::Agent {
            tenant: TenantId::random(),
            server: ServerId::random(),
        };
        let applicant = Applicant::generate().unwrap();
        let issued = authority
            .issue_client(&applicant.request, &identity, "db1", YEAR)
            .unwrap();
        assert_eq!(
            Identity::of_certificate(&issued.certificate).unwrap(),
            identity
        );
        assert!(Identity::of_certificate(&applicant.credentials.chain[0]).is_err());
    }

    /// Guards revocation, which counts certificates by the moment of their issue, and renewal.
    #[test]
    fn a_certificate_says_when_it_was_issued_to_the_millisecond() {
        let authority = Authority::generate(VaultId::random()).unwrap();
        let identity = Identity::Auditor {
            tenant: TenantId::random(),
            person: PersonId::random(),
        };
        let request = Applicant::generate().unwrap().request;
        check_request(&request).unwrap();
        assert!(check_request(&request[1..]).is_err());
        let later = Timestamp::now().plus(Duration::from_millis(3_600_001));
        let issued = authority
            .issue_client_at(&request, &identity, "a", later, YEAR)
            .unwrap();
        let validity = Validity::of_certificate(&issued.certificate).unwrap();
        assert_eq!(validity.issued, later);
        assert!(issued.expires.since(validity.expires) < Duration::from_secs(1));
        assert_eq!(
            Identity::of_certificate(&issued.certificate).unwrap(),
            identity
        );
        assert!(!validity.is_half_over(Timestamp::now()));
        assert!(validity.is_half_over(Timestamp::now().plus(YEAR / 2 + CLOCKS_DIFFER)));
        // One of a release that did not say: half a second exact.
        let vault = authority.issue_vault(VaultId::random()).unwrap();
        let validity = Validity::of_certificate(&vault.chain[0]).unwrap();
        assert!(Timestamp::now().since(validity.issued) < Duration::from_secs(60));
    }

    #[test]
    fn an_altered_request_gets_no_certificate() {
        let authority = Authority::generate(VaultId::random()).unwrap();
        let identity = Identity::Recovery {
            tenant: TenantId::random(),
            site: SiteId::random(),
        };
        let mut request = Applicant::generate().unwrap().request;
        let last = request.len() - 1;
        request[last] ^= 1;
        assert!(
            authority
                .issue_client(&request, &identity, "x", YEAR)
                .is_err()
        );
    }
}
