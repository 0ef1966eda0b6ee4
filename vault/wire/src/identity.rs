//! Who somebody is: certificates, and the authority of a vault that issues them.
//!
//! Every peer proves itself by a certificate of the vault's own authority, with the identity
//! in a URI name. One who is not enrolled yet shows a certificate signed by itself, and may
//! only ask to be enrolled. Connections name the vault [`VAULT_NAME`], whatever address it has:
//! the authority is what is trusted, not the name service.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::id::{ServerId, SiteId, TenantId, VaultId};
use crate::time::Timestamp;

/// The name in every vault's certificate.
pub const VAULT_NAME: &str = "vault.relevo.internal";
const SCHEME: &str = "relevo:";
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate library refused.
    #[error("certificate: {0}")]
    Certificate(String),
    /// The text is no identity.
    #[error("'{0}' is not an identity that this release knows")]
    Unknown(String),
}

impl From<rcgen::Error> for IdentityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Certificate(error.to_string())
    }
}

/// What a certificate stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A vault.
    Vault(VaultId),
    /// The agent of a server: may add recovery points of that server.
    Agent {
        /// Whose server.
        tenant: TenantId,
        /// The server.
        server: ServerId,
    },
    /// A recovery site: may read all recovery points of a tenant.
    Recovery {
        /// Whose site.
        tenant: TenantId,
        /// The site.
        site: SiteId,
    },
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vault(vault) => write!(f, "{SCHEME}vault/{vault}"),
            Self::Agent { tenant, server } => write!(f, "{SCHEME}agent/{tenant}/{server}"),
            Self::Recovery { tenant, site } => write!(f, "{SCHEME}recovery/{tenant}/{site}"),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let unknown = || IdentityError::Unknown(text.chars().take(200).collect());
        let parts: Vec<_> = text
            .strip_prefix(SCHEME)
            .ok_or_else(unknown)?
            .split('/')
            .collect();
        let parsed = match parts.as_slice() {
            ["vault", vault] => vault.parse().ok().map(Self::Vault),
            ["agent", tenant, server] => tenant
                .parse()
                .ok()
                .zip(server.parse().ok())
                .map(|(tenant, server)| Self::Agent { tenant, server }),
            ["recovery", tenant, site] => tenant
                .parse()
                .ok()
                .zip(site.parse().ok())
                .map(|(tenant, site)| Self::Recovery { tenant, site }),
            _ => None,
        };
        parsed.ok_or_else(unknown)
    }
}

impl Identity {
    /// Reads the identity from a certificate whose chain the TLS layer has checked.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|e| IdentityError::Certificate(e.to_string()))?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|e| IdentityError::Certificate(e.to_string()))?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        names
            .iter()
            .find_map(|name| match name {
                GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(uri.parse()),
                _ => None,
            })
            .unwrap_or_else(|| {
                Err(IdentityError::Unknown(
                    "a certificate without a name".into(),
                ))
            })
    }
}

/// A private key and what proves it.
pub struct Credentials {
    /// The certificate, then those it needs to be checked.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS #8, DER.
    key: Vec<u8>,
}

impl Credentials {
    /// From a chain and a PKCS #8 key.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: Vec<u8>) -> Self {
        Self { chain, key }
    }

    /// The private key as TLS takes it.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }

    /// PKCS #8, DER.
    pub fn key_der(&self) -> &[u8] {
        &self.key
    }
}

/// A key of one who is about to enrol, with the request for its certificate.
pub struct Applicant {
    /// Shown in TLS until there is a better one; signed by itself.
    pub credentials: Credentials,
    /// PKCS #10, DER.
    pub request: Vec<u8>,
}

impl Applicant {
    /// A new key.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "relevo applicant");
        let request = params.serialize_request(&key)?.der().to_vec();
        let certificate = params.self_signed(&key)?;
        let credentials = Credentials::new(vec![certificate.der().clone()], key.serialize_der());
        Ok(Self {
            credentials,
            request,
        })
    }
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
        let request = CertificateSigningRequestDer::from(request);
        let mut request = CertificateSigningRequestParams::from_der(&request)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(identity)?];
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

/// Valid from an hour ago, since clocks differ, for `valid_for` from now.
fn validity(params: &mut CertificateParams, valid_for: Duration) -> Timestamp {
    let now = std::time::SystemTime::now();
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = (now + valid_for).into();
    Timestamp::now().plus(valid_for)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
