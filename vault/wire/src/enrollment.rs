//! How somebody becomes known to a vault: the token that an administrator hands over, and the
//! file that holds what came of it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde::{Deserialize, Serialize};

use crate::id::random_bytes;
use crate::identity::{Credentials, Identity, IdentityError, Validity};
use crate::secret_file;
use crate::time::Timestamp;

/// A single-use token: proves to the vault that an administrator let the bearer in, and to the
/// bearer that it speaks with that administrator's vault.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What the vault compares, by its hash.
    pub secret: [u8; 32],
    /// BLAKE3 of the vault's authority.
    pub authority: [u8; 32],
}

const TOKEN_PREFIX: &str = "relevo1-";

/// A text that is not a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a Relevo token: expected '{TOKEN_PREFIX}' and 86 characters more")]
pub struct TokenError;

impl Token {
    /// A new token for a vault with this authority.
    pub fn generate(authority: [u8; 32]) -> Self {
        Self {
            secret: random_bytes(),
            authority,
        }
    }

    /// What the vault keeps of it.
    pub fn secret_hash(secret: &[u8; 32]) -> [u8; 32] {
        blake3::derive_key("relevo 1 token", secret)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let both = [self.secret, self.authority].concat();
        write!(f, "{TOKEN_PREFIX}{}", BASE64URL_NOPAD.encode(&both))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let encoded = text.trim().strip_prefix(TOKEN_PREFIX).ok_or(TokenError)?;
        let both = BASE64URL_NOPAD
            .decode(encoded.as_bytes())
            .map_err(|_| TokenError)?;
        let (secret, authority) = both.split_at_checked(32).ok_or(TokenError)?;
        Ok(Self {
            secret: secret.try_into().map_err(|_| TokenError)?,
            authority: authority.try_into().map_err(|_| TokenError)?,
        })
    }
}

/// Why an enrolment file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum EnrollmentError {
    /// The file could not be read or written.
    #[error("enrolment file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not an enrolment file.
    #[error("enrolment file {path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What an enrolled agent or recovery site keeps: which vault, and its proof of identity.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrollment {
    /// Where the vault is, `HOST:PORT`.
    pub vault: String,
    /// Name given at enrolment.
    pub name: String,
    /// The identity, as text.
    pub identity: String,
    /// When the certificate expires.
    pub expires: Timestamp,
    certificate: String,
    authority: String,
    key: String,
}

impl Enrollment {
    /// From what the vault answered and the applicant's key, PKCS #8 DER.
    pub fn new(
        vault: String,
        name: String,
        identity: &Identity,
        expires: Timestamp,
        certificate: &[u8],
        authority: &[u8],
        key: &[u8],
    ) -> Self {
        Self {
            vault,
            name,
            identity: identity.to_string(),
            expires,
            certificate: BASE64.encode(certificate),
            authority: BASE64.encode(authority),
            key: BASE64.encode(key),
        }
    }

    /// Who this is.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        self.identity.parse()
    }

    /// The certificate and key for TLS.
    pub fn credentials(&self) -> Result<Credentials, IdentityError> {
        let certificate = decode(&self.certificate)?;
        Ok(Credentials::new(
            vec![certificate.into()],
            decode(&self.key)?,
        ))
    }

    /// Since when and until when the certificate counts.
    pub fn validity(&self) -> Result<Validity, IdentityError> {
        Validity::of_certificate(&decode(&self.certificate)?.into())
    }

    /// The vault's authority, DER.
    pub fn authority(&self) -> Result<Vec<u8>, IdentityError> {
        decode(&self.authority)
    }

    /// Writes a new file that only its owner can read; refuses to replace one.
    pub fn write(&self, path: &Path) -> Result<(), EnrollmentError> {
        let fail = |source| EnrollmentError::Io {
            path: path.to_path_buf(),
            source,
        };
        let text = toml::to_string(self).map_err(|e| EnrollmentError::Malformed {
            path: path.to_path_buf(),
            reason: e.to_string(),
        })?;
        secret_file::create(path, &text).map_err(fail)
    }

    /// Takes the place of an enrolment file: whoever reads it, or comes back after a power cut,
    /// finds the old one or this one whole.
    pub fn replace(&self, path: &Path) -> Result<(), EnrollmentError> {
        // The process in its name: two that renew at once must not write into one file.
        let new = path.with_extension(format!("toml.{}", std::process::id()));
        let fail = |source| EnrollmentError::Io {
            path: path.to_path_buf(),
            source,
        };
        match std::fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
            _ => {}
        }
        self.write(&new)?;
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        std::fs::rename(&new, path)
            .and_then(|()| std::fs::File::open(above.unwrap_or(Path::new("."))))
            .and_then(|directory| directory.sync_all())
            .map_err(fail)
    }

    /// Reads what [`write`](Self::write) wrote.
    pub fn read(path: &Path) -> Result<Self, EnrollmentError> {
        let text = std::fs::read_to_string(path).map_err(|source| EnrollmentError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        toml::from_str(&text).map_err(|e| EnrollmentError::Malformed {
            path: path.to_path_buf(),
            reason: e.message().to_string(),
        })
    }
}

fn decode(text: &str) -> Result<Vec<u8>, IdentityError> {
    BASE64
        .decode(text.as_bytes())
        .map_err(|_| IdentityError::Certificate("the enrolment file is damaged".into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards a renewal that is cut short: the file is one enrolment or the other.
    #[test]
    fn a_renewed_enrolment_takes_the_place_of_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("enrollment.toml");
        let identity = Identity::Vault(crate::id::VaultId::random());
        let of = |name: &str| {
            let now = Timestamp::now();
            Enrollment::new("v:1".into(), name.into(), &identity, now, b"c", b"a", b"k")
        };
        of("old").write(&path).unwrap();
        assert!(of("new").write(&path).is_err());
        // What an attempt that was killed has left.
        std::fs::write(
            path.with_extension(format!("toml.{}", std::process::id())),
            "x",
        )
        .unwrap();
        of("new").replace(&path).unwrap();
        assert_eq!(Enrollment::read(&path).unwrap().name, "new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn tokens_read_back_and_mistyped_ones_do_not() {
        let token = Token::generate([5; 32]);
        let text = token.to_string();
        assert!(format!(" {text}\n").parse::<Token>().unwrap() == token);
        assert!(text[..text.len() - 2].parse::<Token>().is_err());
        assert!("relevo1-".parse::<Token>().is_err());
    }
}
