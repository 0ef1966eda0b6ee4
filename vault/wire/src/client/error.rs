//! What can go wrong between a client and its vault, in words and with the remedy.

use quinn::ConnectionError;

use crate::chunk::SealError;
use crate::frame::FrameError;
use crate::id::ChunkId;
use crate::identity::IdentityError;
use crate::message::{Refusal, Response};

/// Why the vault could not be spoken with.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The name has no address, or no socket could be made.
    #[error("vault {vault}: {reason}")]
    Address {
        /// As configured.
        vault: String,
        /// Why.
        reason: String,
    },
    /// No connection, or it broke.
    #[error("vault {vault}: {reason}")]
    Connection {
        /// As configured.
        vault: String,
        /// In words.
        reason: String,
        /// What to do.
        remedy: &'static str,
        /// Whether another try may work without anybody doing anything.
        transient: bool,
    },
    /// The vault said no.
    #[error("the vault refused: {0}")]
    Refused(#[from] Refusal),
    /// The vault spoke out of turn.
    #[error("the vault broke the protocol: {0}")]
    Protocol(String),
    /// The vault has no such chunk.
    #[error("the vault does not have chunk {0}")]
    MissingChunk(ChunkId),
    /// A chunk arrived damaged.
    #[error(transparent)]
    Chunk(#[from] SealError),
    /// This side's certificate or key is unusable.
    #[error("own credentials: {0}")]
    Credentials(String),
}

impl ClientError {
    /// What the administrator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Address { .. } => "check the vault's address (HOST:PORT) and name service".into(),
            Self::Connection { remedy, .. } => (*remedy).into(),
            Self::Refused(refusal) => refusal.remedy.clone(),
            Self::Protocol(_) => "update this program and the vault to the same release".into(),
            Self::MissingChunk(_) | Self::Chunk(_) => {
                "run 'relevo-vault verify' to see what else is damaged; take an older recovery point".into()
            }
            Self::Credentials(_) => "enrol again with a new token".into(),
        }
    }

    /// Whether another try may work by itself.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Connection {
                transient: true,
                ..
            }
        )
    }
}

impl From<FrameError> for ClientError {
    fn from(error: FrameError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<IdentityError> for ClientError {
    fn from(error: IdentityError) -> Self {
        Self::Credentials(error.to_string())
    }
}

pub(super) fn unexpected(response: &Response) -> ClientError {
    let text: String = format!("{response:?}").chars().take(80).collect();
    ClientError::Protocol(format!("an answer that fits no question ({text})"))
}

pub(super) fn write_error(vault: &str, error: quinn::WriteError) -> ClientError {
    match error {
        quinn::WriteError::ConnectionLost(e) => describe(vault, &e),
        quinn::WriteError::Stopped(_) => broke_off(vault, "it stopped taking the request"),
        other => ClientError::Protocol(other.to_string()),
    }
}

/// A stream that the vault gave up, as it does when nothing moves on it for half a minute.
pub(super) fn broke_off(vault: &str, reason: &str) -> ClientError {
    ClientError::Connection {
        vault: vault.into(),
        reason: reason.into(),
        remedy: "try again; see the vault's log for its side",
        transient: true,
    }
}

/// TLS alerts (RFC 8446, section 6) as QUIC carries them: 0x100 + the alert.
pub(super) fn alert(error: &ConnectionError) -> Option<u8> {
    let code = match error {
        ConnectionError::TransportError(e) => u64::from(e.code),
        ConnectionError::ConnectionClosed(e) => u64::from(e.error_code),
        _ => return None,
    };
    code.checked_sub(0x100)
        .and_then(|alert| u8::try_from(alert).ok())
}

/// What a vault closes a connection with when the certificate was revoked.
pub const CLOSED_REVOKED: u32 = 3;

fn is_revocation(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::ApplicationClosed(close)
        if u64::from(close.error_code) == u64::from(CLOSED_REVOKED))
}

/// A broken connection in words that name the remedy.
pub(super) fn describe(vault: &str, error: &ConnectionError) -> ClientError {
    let own = matches!(error, ConnectionError::TransportError(_));
    let (reason, remedy, transient) = match (alert(error), error) {
        (Some(45), _) if own => (
            "its certificate has expired".into(),
            "restart the vault, which renews it; check both clocks",
            false,
        ),
        (Some(45), _) => (
            "it does not accept this certificate: it has expired".into(),
            "enrol again with a new token; check both clocks",
            false,
        ),
        (Some(42 | 46 | 48 | 49 | 51), _) if own => (
            "its certificate is not of the vault that was enrolled with".into(),
            "check the address; if the vault was set up anew, enrol again",
            false,
        ),
        (Some(42 | 46 | 48 | 49 | 51), _) => (
            "it does not know this certificate".into(),
            "enrol again with a new token",
            false,
        ),
        (Some(120), _) => (
            "it speaks another version of the protocol".into(),
            "update this program and the vault to the same release",
            false,
        ),
        (_, error) if is_revocation(error) => (
            "it does not accept this certificate: it was revoked".into(),
            "ask the vault's administrator why; a new token enrols again: \
             'relevo-vault token --role ROLE --again NAME'",
            false,
        ),
        (_, ConnectionError::TimedOut) => (
            "no answer".into(),
            "check that the vault runs and that UDP reaches its port",
            true,
        ),
        (_, ConnectionError::Reset) => (
            "it was started anew and knows this connection no more".into(),
            "try again",
            true,
        ),
        (_, ConnectionError::VersionMismatch) => (
            "it does not speak this version of QUIC".into(),
            "check that the address is a Relevo vault's",
            false,
        ),
        (_, other) => (
            other.to_string(),
            "try again; see the vault's log for its side",
            true,
        ),
    };
    ClientError::Connection {
        vault: vault.into(),
        reason,
        remedy,
        transient,
    }
}
