//! Certificates renew themselves: while the old one still counts, the vault gives a new one for a
//! new key.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::{ClientError, VaultConnection, unexpected};
use crate::enrollment::{Enrollment, EnrollmentError};
use crate::identity::Applicant;
use crate::message::{Request, Response};
use crate::time::Timestamp;

/// How long a renewal may hold up what is to be done besides.
const PATIENCE: Duration = Duration::from_secs(20);

/// What [`renew_when_due`] did.
#[derive(Debug)]
pub enum Renewal {
    /// More than half of the certificate's time is left.
    NotDue,
    /// This took the file's place.
    Renewed(Enrollment),
    /// It is due and could not be had, for this reason; the old one counts until it expires.
    Failed(String),
}

/// Asks for a new certificate of the same identity, for a new key.
pub async fn renew(enrollment: &Enrollment) -> Result<Enrollment, ClientError> {
    let applicant = Applicant::generate()?;
    let vault = VaultConnection::connect(enrollment).await?;
    let request = Request::Renew {
        certificate_request: applicant.request,
    };
    let answer = vault.request(&request).await;
    vault.close().await;
    match answer? {
        Response::Enrolled {
            certificate,
            authority,
            identity,
            expires,
        } => {
            if identity != enrollment.identity {
                return Err(ClientError::Protocol(
                    "its new certificate is somebody else's".into(),
                ));
            }
            if authority != enrollment.authority()? {
                return Err(ClientError::Protocol(
                    "its authority is not the one enrolled with".into(),
                ));
            }
            Ok(Enrollment::new(
                enrollment.vault.clone(),
                enrollment.name.clone(),
                &enrollment.identity()?,
                expires,
                &certificate,
                &authority,
                applicant.credentials.key_der(),
            ))
        }
        other => Err(unexpected(&other)),
    }
}

/// Renews when less than half of the certificate's time is left, and puts the new enrolment in
/// the place of `file`. Until the old one expires, failing is no reason to do nothing else.
pub async fn renew_when_due(enrollment: &Enrollment, file: &Path) -> Renewal {
    match enrollment.validity() {
        Ok(validity) if !validity.is_half_over(Timestamp::now()) => return Renewal::NotDue,
        Ok(_) => {}
        Err(error) => return Renewal::Failed(error.to_string()),
    }
    let renewed = match timeout(PATIENCE, renew(enrollment)).await {
        Ok(Ok(renewed)) => renewed,
        Ok(Err(error)) => return Renewal::Failed(error.to_string()),
        Err(_) => return Renewal::Failed("the vault did not answer".into()),
    };
    match renewed.replace(file) {
        Ok(()) => Renewal::Renewed(renewed),
        Err(error @ (EnrollmentError::Io { .. } | EnrollmentError::Malformed { .. })) => {
            Renewal::Failed(error.to_string())
        }
    }
}
