//! A site's certificate renews itself when it is used.

use std::path::Path;

use relevo_wire::client::{Renewal, renew_when_due};
use relevo_wire::enrollment::Enrollment;

/// The enrolment to connect with: a new one in the file's place when less than half of the
/// certificate's time was left, else the same. A renewal that fails is a warning until the old
/// certificate expires, since every start tries again.
pub(super) fn renewed(enrollment: &Enrollment, file: &Path) -> Enrollment {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(renew_when_due(enrollment, file)),
        Err(error) => Renewal::Failed(error.to_string()),
    };
    match outcome {
        Renewal::NotDue => enrollment.clone(),
        Renewal::Renewed(renewed) => {
            tracing::info!(expires = %renewed.expires, "certificate renewed");
            renewed
        }
        Renewal::Failed(reason) => {
            let expires = enrollment.expires;
            tracing::warn!("the certificate, good until {expires}, was not renewed: {reason}");
            enrollment.clone()
        }
    }
}
