//! Stateless resets (RFC 9000, section 10.3): a vault that was started anew tells peers of its
//! former life so at their next packet, and they connect again instead of waiting for 30 s.
//!
//! The key follows from the authority's, which outlives the process: from a packet's connection
//! id the new process finds the reset token that the former one gave out with it.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};

use relevo_wire::id::random_bytes;
use relevo_wire::identity::Authority;

struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        match blake3::keyed_hash(&self.0, data) == *signature {
            true => Ok(()),
            false => Err(CryptoError),
        }
    }
}

/// Ids that no process takes for another's: quinn's own bear the mark of a key that it draws at
/// each start, and leave packets with ids of a former process unanswered.
struct PlainIds;

impl ConnectionIdGenerator for PlainIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&random_bytes::<8>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The endpoint's settings, the same in every life of a vault.
pub(super) fn endpoint(authority: &Authority) -> EndpointConfig {
    let key = blake3::derive_key("relevo 1 stateless reset", authority.key_der());
    let mut config = EndpointConfig::new(Arc::new(ResetKey(key)));
    config.cid_generator(|| Box::new(PlainIds));
    config
}
