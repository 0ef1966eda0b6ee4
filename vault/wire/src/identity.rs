//! Who somebody is: certificates, and the authority of a vault that issues them.
//!
//! Every peer proves itself by a certificate of the vault's own authority, with the identity
//! in a URI name. One who is not enrolled yet shows a certificate signed by itself, and may
//! only ask to be enrolled. Connections name the vault [`VAULT_NAME`], whatever address it has:
//! the authority is what is trusted, not the name service.

mod authority;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::id::{PersonId, ServerId, SiteId, TenantId, VaultId};
use crate::time::Timestamp;

pub use authority::{Authority, Issued, check_request};

/// The name in every vault's certificate.
pub const VAULT_NAME: &str = "vault.relevo.internal";
const SCHEME: &str = "relevo:";
/// Before a moment in milliseconds since 1970: when a certificate was issued. X.509 knows
/// seconds only, and a certificate that replaces a revoked one may come within one.
const ISSUED: &str = "relevo:issued/";
/// Certificates are valid from so long before they were issued, since clocks differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(3600);

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
    /// Somebody who runs backups: may list, report, hold and lock recovery points of a tenant.
    Operator {
        /// Whose.
        tenant: TenantId,
        /// Who.
        person: PersonId,
    },
    /// Somebody who checks: may see a tenant's lists, reports and audit log.
    Auditor {
        /// Whose.
        tenant: TenantId,
        /// Who.
        person: PersonId,
    },
    /// Somebody who governs: may besides delete, release, revoke and let others in.
    Administrator {
        /// Whose.
        tenant: TenantId,
        /// Who.
        person: PersonId,
    },
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vault(vault) => write!(f, "{SCHEME}vault/{vault}"),
            Self::Agent { tenant, server } => write!(f, "{SCHEME}agent/{tenant}/{server}"),
            Self::Recovery { tenant, site } => write!(f, "{SCHEME}recovery/{tenant}/{site}"),
            Self::Operator { tenant, person } => write!(f, "{SCHEME}operator/{tenant}/{person}"),
            Self::Auditor { tenant, person } => write!(f, "{SCHEME}auditor/{tenant}/{person}"),
            Self::Administrator { tenant, person } => {
                write!(f, "{SCHEME}administrator/{tenant}/{person}")
            }
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
            [role, tenant, id] => tenant
                .parse()
                .ok()
                .and_then(|tenant| Self::within(tenant, role, id)),
            _ => None,
        };
        parsed.ok_or_else(unknown)
    }
}

impl Identity {
    /// The tenant it belongs to; a vault belongs to none.
    pub fn tenant(&self) -> Option<TenantId> {
        match *self {
            Self::Vault(_) => None,
            Self::Agent { tenant, .. }
            | Self::Recovery { tenant, .. }
            | Self::Operator { tenant, .. }
            | Self::Auditor { tenant, .. }
            | Self::Administrator { tenant, .. } => Some(tenant),
        }
    }

    fn within(tenant: TenantId, role: &str, id: &str) -> Option<Self> {
        let person = || id.parse().ok();
        match role {
            "agent" => id.parse().ok().map(|server| Self::Agent { tenant, server }),
            "recovery" => id.parse().ok().map(|site| Self::Recovery { tenant, site }),
            "operator" => person().map(|person| Self::Operator { tenant, person }),
            "auditor" => person().map(|person| Self::Auditor { tenant, person }),
            "administrator" => person().map(|person| Self::Administrator { tenant, person }),
            _ => None,
        }
    }

    /// Reads the identity from a certificate whose chain the TLS layer has checked.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let parsed = parse(certificate)?;
        names(&parsed)?
            .find(|uri| uri.starts_with(SCHEME))
            .map(str::parse)
            .unwrap_or_else(|| {
                Err(IdentityError::Unknown(
                    "a certificate without a name".into(),
                ))
            })
    }
}

/// Since when and until when a certificate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// When it was issued.
    pub issued: Timestamp,
    /// When it stops being accepted.
    pub expires: Timestamp,
}

impl Validity {
    /// Of a certificate.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let parsed = parse(certificate)?;
        let seconds = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_millis(time.timestamp().saturating_mul(1000))
        };
        let from = seconds(parsed.validity().not_before).plus(CLOCKS_DIFFER);
        let named = names(&parsed)?
            .find_map(|uri| uri.strip_prefix(ISSUED))
            .and_then(|millis| millis.parse().ok())
            .map(Timestamp::from_millis);
        Ok(Self {
            issued: named.unwrap_or(from),
            expires: seconds(parsed.validity().not_after),
        })
    }

    /// True when less than half of it is left: time to renew.
    pub fn is_half_over(&self, now: Timestamp) -> bool {
        self.expires.since(now) < self.expires.since(self.issued) / 2
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, IdentityError> {
    X509Certificate::from_der(certificate)
        .map(|(_, parsed)| parsed)
        .map_err(|e| IdentityError::Certificate(e.to_string()))
}

/// The URIs that a certificate names.
fn names<'a>(
    parsed: &'a X509Certificate<'a>,
) -> Result<impl Iterator<Item = &'a str>, IdentityError> {
    let extension = parsed
        .subject_alternative_name()
        .map_err(|e| IdentityError::Certificate(e.to_string()))?;
    let names = extension
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    Ok(names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    }))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_identity_reads_back_from_its_text() {
        let (tenant, person) = (TenantId::random(), PersonId::random());
        let all = [
            Identity::Vault(VaultId::random()),
            Identity::Agent {
                tenant,
                server: ServerId::random(),
            },
            Identity::Recovery {
                tenant,
                site: SiteId::random(),
            },
            Identity::Operator { tenant, person },
            Identity::Auditor { tenant, person },
            Identity::Administrator { tenant, person },
        ];
        for identity in all {
            let text = identity.to_string();
            assert_eq!(text.parse::<Identity>().unwrap(), identity);
            let is_vault = matches!(identity, Identity::Vault(_));
            assert_eq!(identity.tenant(), (!is_vault).then_some(tenant));
            assert!(format!("{text}/x").parse::<Identity>().is_err());
        }
        for wrong in [
            "relevo:root/1/2",
            "relevo:issued/5",
            "agent/1/2",
            "relevo:operator",
        ] {
            assert!(wrong.parse::<Identity>().is_err(), "{wrong}");
        }
    }
}
