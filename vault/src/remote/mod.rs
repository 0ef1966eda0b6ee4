//! A vault from afar: what operators, auditors and administrators ask over the network, from a
//! directory that holds their enrolment.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use relevo_wire::client::{self, ClientError, Renewal, VaultConnection};
use relevo_wire::enrollment::{Enrollment, EnrollmentError, Token};
use relevo_wire::identity::Identity;
use relevo_wire::message::{AuditEntry, PointEntry, Request, Response, ServerEntry, TenantReport};
use relevo_wire::{PointId, TenantId};

use crate::error::VaultError;

/// What somebody without keys names as his tenant: the token names it.
const NO_TENANT: TenantId = TenantId::from_bytes([0; 16]);

/// Somebody's enrolment with a vault.
pub struct Remote {
    path: PathBuf,
    enrollment: Enrollment,
}

impl Remote {
    /// Enrols with a token and keeps what comes of it in a directory, made for its owner only.
    pub async fn enroll(
        state: &Path,
        vault: &str,
        token: &str,
        name: &str,
    ) -> Result<Self, VaultError> {
        let token: Token = token
            .parse()
            .map_err(|e: relevo_wire::enrollment::TokenError| VaultError::Usage {
                reason: e.to_string(),
                remedy: "copy the whole token that 'relevo-vault token' printed".into(),
            })?;
        let path = state.join("enrollment.toml");
        if path.exists() {
            return Err(VaultError::Usage {
                reason: format!("{} holds an enrolment already", state.display()),
                remedy: "name another --state, or remove enrollment.toml there to enrol anew"
                    .into(),
            });
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state)
            .map_err(|e| VaultError::io(state, e))?;
        let enrollment = client::enroll(vault, &token, name, NO_TENANT).await?;
        check_role(&enrollment)?;
        enrollment.write(&path)?;
        Ok(Self { path, enrollment })
    }

    /// Opens what [`enroll`](Self::enroll) left.
    pub fn open(state: &Path) -> Result<Self, VaultError> {
        let path = state.join("enrollment.toml");
        if !path.exists() {
            return Err(VaultError::Usage {
                reason: format!("{} holds no enrolment", state.display()),
                remedy: "enrol with 'relevo-vault remote enroll --vault HOST:PORT --token TOKEN', \
                         or name the directory with --state"
                    .into(),
            });
        }
        let enrollment = Enrollment::read(&path)?;
        check_role(&enrollment)?;
        Ok(Self { path, enrollment })
    }

    /// Who this is.
    pub fn enrollment(&self) -> &Enrollment {
        &self.enrollment
    }

    /// Connects; renews the certificate first when that is due.
    pub async fn connect(&mut self) -> Result<Connected, VaultError> {
        match client::renew_when_due(&self.enrollment, &self.path).await {
            Renewal::NotDue => {}
            Renewal::Renewed(renewed) => self.enrollment = renewed,
            Renewal::Failed(reason) => {
                let expires = self.enrollment.expires;
                tracing::warn!(reason, %expires, "the certificate could not be renewed");
            }
        }
        Ok(Connected(VaultConnection::connect(&self.enrollment).await?))
    }
}

fn check_role(enrollment: &Enrollment) -> Result<(), VaultError> {
    match enrollment.identity()? {
        Identity::Operator { .. } | Identity::Auditor { .. } | Identity::Administrator { .. } => {
            Ok(())
        }
        other => Err(VaultError::Usage {
            reason: format!("the enrolment is not a person's but {other}"),
            remedy: "ask for a token made with --role operator, auditor or administrator".into(),
        }),
    }
}

/// A connection to the vault.
pub struct Connected(VaultConnection);

impl Connected {
    /// The tenant's servers.
    pub async fn servers(&self) -> Result<Vec<ServerEntry>, VaultError> {
        match self.0.request(&Request::ListServers).await? {
            Response::Servers(servers) => Ok(servers),
            other => Err(strange(&other)),
        }
    }

    /// The server of this name or id.
    pub async fn server(&self, wanted: &str) -> Result<ServerEntry, VaultError> {
        let servers = self.servers().await?;
        let mut found: Vec<_> = servers
            .into_iter()
            .filter(|s| s.name == wanted || s.id.to_string() == wanted)
            .collect();
        let usage = |reason: String| VaultError::Usage {
            reason,
            remedy: "'relevo-vault remote servers' lists them with their ids".into(),
        };
        match (found.pop(), found.len()) {
            (Some(one), 0) => Ok(one),
            (Some(_), more) => Err(usage(format!("{} servers are called '{wanted}'", more + 1))),
            (None, _) => Err(usage(format!("there is no server '{wanted}'"))),
        }
    }

    /// A server's recovery points, newest first.
    pub async fn points(&self, server: &ServerEntry) -> Result<Vec<PointEntry>, VaultError> {
        Ok(self.0.points(server.id).await?)
    }

    /// The recovery point of a server whose id begins so, or its `latest`.
    pub async fn point(&self, server: &str, wanted: &str) -> Result<PointId, VaultError> {
        let server = self.server(server).await?;
        let points = self.points(&server).await?;
        let usage = |reason: String| VaultError::Usage {
            reason,
            remedy: format!("'relevo-vault remote points {}' lists them", server.name),
        };
        if wanted == "latest" {
            let latest = points.first().map(|point| point.manifest.point);
            return latest.ok_or_else(|| usage(format!("{} has none", server.name)));
        }
        let mut found = points
            .iter()
            .map(|point| point.manifest.point)
            .filter(|point| wanted.len() >= 4 && point.to_string().starts_with(wanted));
        match (found.next(), found.next()) {
            (Some(point), None) => Ok(point),
            (Some(_), Some(_)) => Err(usage(format!("several recovery points begin '{wanted}'"))),
            (None, _) => Err(usage(format!(
                "{} has no recovery point that begins with '{wanted}' (4 digits or more)",
                server.name
            ))),
        }
    }

    /// What the tenant keeps.
    pub async fn report(&self) -> Result<TenantReport, VaultError> {
        match self.0.request(&Request::Report).await? {
            Response::Report(report) => Ok(*report),
            other => Err(strange(&other)),
        }
    }

    /// The tenant's entries in the audit log behind the `after`th, all of them.
    pub async fn audit(&self, mut after: u64) -> Result<Vec<AuditEntry>, VaultError> {
        let mut all = Vec::new();
        loop {
            match self.0.request(&Request::AuditLog { after }).await? {
                Response::AuditEntries(page) => match page.last() {
                    Some(last) if last.sequence > after => {
                        after = last.sequence;
                        all.extend(page);
                    }
                    _ => return Ok(all),
                },
                other => return Err(strange(&other)),
            }
        }
    }

    /// Has something done; what came of it, in words.
    pub async fn act(&self, request: &Request) -> Result<String, VaultError> {
        match self.0.request(request).await? {
            Response::Done { what } => Ok(what),
            other => Err(strange(&other)),
        }
    }

    /// Has a token made; its text and until when it may be used.
    pub async fn token(
        &self,
        request: &Request,
    ) -> Result<(String, relevo_wire::Timestamp), VaultError> {
        match self.0.request(request).await? {
            Response::Token { token, expires } => Ok((token, expires)),
            other => Err(strange(&other)),
        }
    }

    /// Says goodbye.
    pub async fn close(self) {
        self.0.close().await;
    }
}

fn strange(response: &Response) -> VaultError {
    let text: String = format!("{response:?}").chars().take(60).collect();
    VaultError::Refused {
        reason: format!("the vault gave an answer that fits no question ({text})"),
        remedy: "update this program and the vault to the same release".into(),
    }
}

impl From<ClientError> for VaultError {
    fn from(error: ClientError) -> Self {
        Self::Refused {
            reason: error.to_string(),
            remedy: error.remedy(),
        }
    }
}

impl From<EnrollmentError> for VaultError {
    fn from(error: EnrollmentError) -> Self {
        Self::Refused {
            reason: error.to_string(),
            remedy: "name the directory with --state; a new token enrols anew".into(),
        }
    }
}
