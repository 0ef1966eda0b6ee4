//! Who may do what, over the network and at the command line: a real vault and real clients.
#![allow(clippy::unwrap_used)]

mod audit;
mod certificates;
mod flood;
mod quota;
mod remote;
mod roles;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;

use relevo_wire::TenantId;
use relevo_wire::client::{self, ClientError};
use relevo_wire::enrollment::Enrollment;
use relevo_wire::message::RefusalCode;

/// Enrols a person of this role.
async fn person(dir: &Path, address: &str, role: &str) -> Enrollment {
    let token = support::token(dir, role, &[]);
    let nobody = TenantId::from_bytes([0; 16]);
    client::enroll(address, &token, role, nobody).await.unwrap()
}

/// The code of a refusal; panics when it is another error.
fn code(error: &ClientError) -> RefusalCode {
    match error {
        ClientError::Refused(refusal) => refusal.code,
        other => panic!("{other}"),
    }
}
