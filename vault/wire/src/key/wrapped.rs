//! Key files whose secrets are sealed: one content key, wrapped as often as there are ways in.
//!
//! ```text
//! secrets of all generations ── AES-256-GCM, content key, clear parts as associated data
//!                content key ── wrapped by argon2id(passphrase, salt)
//!                            └─ wrapped to the public half of a recovery key
//! ```
//!
//! Every wrapping makes a fresh content key, and every key that seals is used once, so that its
//! nonce may be zero. Who once opened an older state of a file learns nothing about a newer one.

use zeroize::Zeroizing;

use super::file::{ClearGeneration, OPENING, OpeningFile, Slot};
use super::hex::{Hex, HexBytes};
use super::passphrase::{Passphrase, PassphraseCost};
use super::recovery::{RecoveryId, RecoveryKey, RecoveryPublicKey};
use super::{Generation, KeyError, OpeningKeys, TenantPrivateKey, TenantSecret};
use crate::chunk::{NONCE, open_with, seal_tail};
use crate::id::{TenantId, random_bytes};

/// Most ways into one file.
pub(super) const MOST_SLOTS: usize = 8;
/// Bytes of one generation's secrets: tenant secret, private key.
const SECRETS: usize = 64;

/// One way into a file, when it is made.
pub enum Wrapping<'a> {
    /// By a passphrase.
    Passphrase(&'a Passphrase, PassphraseCost),
    /// By a recovery key, of which only the public half is needed.
    Recovery(RecoveryPublicKey),
}

/// What opens a file.
pub enum Unlock {
    /// A passphrase.
    Passphrase(Passphrase),
    /// A recovery key.
    Recovery(RecoveryKey),
}

/// Opening keys at rest: of no use without a passphrase or a recovery key.
#[derive(Clone)]
pub struct WrappedKeys {
    pub(super) file: OpeningFile,
}

impl WrappedKeys {
    /// Wraps keys in each of these ways.
    pub fn wrap(keys: &OpeningKeys, wrappings: &[Wrapping<'_>]) -> Result<Self, KeyError> {
        if wrappings.is_empty() || wrappings.len() > MOST_SLOTS {
            return Err(KeyError::NoWrapping);
        }
        let content_key = Zeroizing::new(random_bytes());
        let mut file = OpeningFile {
            format: OPENING.into(),
            tenant: keys.sealing.tenant,
            generation: keys
                .generations()
                .map(|g| ClearGeneration::of(&g, false))
                .collect(),
            sealed: None,
            wrapping: Vec::new(),
        };
        let mut secrets = Zeroizing::new(Vec::new());
        for generation in keys.generations() {
            secrets.extend_from_slice(generation.secret.as_bytes());
            secrets.extend_from_slice(&generation.private.0);
        }
        file.sealed = Some(HexBytes(seal(&content_key, &file.clear_parts()?, &secrets)));
        for wrapping in wrappings {
            let slot = match wrapping {
                Wrapping::Passphrase(passphrase, cost) => {
                    let salt = random_bytes();
                    let key = passphrase.key(&salt, cost)?;
                    let mut slot = Slot::Passphrase {
                        memory_kib: cost.memory_kib,
                        passes: cost.passes,
                        lanes: cost.lanes,
                        salt: Hex(salt),
                        key: HexBytes(Vec::new()),
                    };
                    slot.fill(seal(&key, &slot.clear_parts(&file.tenant)?, &*content_key));
                    slot
                }
                Wrapping::Recovery(recipient) => {
                    let (ephemeral, key) = recipient.encapsulate()?;
                    let mut slot = Slot::RecoveryKey {
                        recipient: Hex(recipient.0),
                        ephemeral: Hex(ephemeral),
                        key: HexBytes(Vec::new()),
                    };
                    slot.fill(seal(&key, &slot.clear_parts(&file.tenant)?, &*content_key));
                    slot
                }
            };
            file.wrapping.push(slot);
        }
        Ok(Self { file })
    }

    /// Opens the file.
    pub fn open(&self, with: &Unlock) -> Result<OpeningKeys, KeyError> {
        let content_key = self.content_key(with)?;
        let sealed = self.file.sealed.as_ref().map_or(&[][..], |s| &s.0);
        let secrets = unseal(&content_key, &self.file.clear_parts()?, sealed)
            .filter(|secrets| secrets.len() == SECRETS * self.file.generation.len())
            .ok_or(KeyError::Altered)?;
        let mut generations = Vec::new();
        for (clear, secrets) in self.file.generation.iter().zip(secrets.chunks(SECRETS)) {
            let (mut secret, mut private) = ([0; 32], [0; 32]);
            secret.copy_from_slice(&secrets[..32]);
            private.copy_from_slice(&secrets[32..]);
            generations.push(Generation {
                number: clear.number,
                made: clear.made,
                secret: TenantSecret::from_bytes(secret),
                public: super::TenantPublicKey(clear.public.0),
                private: TenantPrivateKey(private),
            });
        }
        OpeningKeys::from_generations(self.file.tenant, generations)
    }

    /// Whose keys these are.
    pub fn tenant(&self) -> TenantId {
        self.file.tenant
    }

    /// Whether a passphrase opens it.
    pub fn takes_passphrase(&self) -> bool {
        let is = |slot: &Slot| matches!(slot, Slot::Passphrase { .. });
        self.file.wrapping.iter().any(is)
    }

    /// The recovery keys that open it.
    pub fn recovery_keys(&self) -> Vec<RecoveryPublicKey> {
        let of = |slot: &Slot| match slot {
            Slot::RecoveryKey { recipient, .. } => Some(RecoveryPublicKey(recipient.0)),
            Slot::Passphrase { .. } => None,
        };
        self.file.wrapping.iter().filter_map(of).collect()
    }

    /// What opens it, in words.
    pub fn ways(&self) -> String {
        let way = |slot: &Slot| match slot {
            Slot::Passphrase { .. } => "a passphrase".to_string(),
            Slot::RecoveryKey { recipient, .. } => {
                format!("recovery key {}", RecoveryPublicKey(recipient.0).id())
            }
        };
        let ways: Vec<_> = self.file.wrapping.iter().map(way).collect();
        ways.join(" or ")
    }

    fn content_key(&self, with: &Unlock) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let tenant = &self.file.tenant;
        let mut tried = false;
        for slot in &self.file.wrapping {
            let (key, sealed) = match (slot, with) {
                (
                    Slot::Passphrase {
                        memory_kib,
                        passes,
                        lanes,
                        salt,
                        key,
                    },
                    Unlock::Passphrase(p),
                ) => {
                    let (memory_kib, passes, lanes) = (*memory_kib, *passes, *lanes);
                    let cost = PassphraseCost {
                        memory_kib,
                        passes,
                        lanes,
                    };
                    (p.key(&salt.0, &cost)?, &key.0)
                }
                (
                    Slot::RecoveryKey {
                        recipient,
                        ephemeral,
                        key,
                    },
                    Unlock::Recovery(r),
                ) if r.public()?.0 == recipient.0 => (r.decapsulate(&ephemeral.0)?, &key.0),
                _ => continue,
            };
            tried = true;
            let opened = unseal(&key, &slot.clear_parts(tenant)?, sealed);
            if let Some(key) = opened.and_then(|k| <[u8; 32]>::try_from(&k[..]).ok()) {
                return Ok(Zeroizing::new(key));
            }
        }
        Err(match with {
            Unlock::Passphrase(_) if tried => KeyError::WrongPassphrase,
            Unlock::Passphrase(_) => KeyError::NotByPassphrase(self.ways()),
            Unlock::Recovery(_) if tried => KeyError::Altered,
            Unlock::Recovery(given) => KeyError::WrongRecoveryKey {
                given: given.public()?.id(),
                ways: self.ways(),
            },
        })
    }

    /// Whether this recovery key is one of those that open it.
    pub fn takes(&self, id: RecoveryId) -> bool {
        self.recovery_keys().iter().any(|key| key.id() == id)
    }
}

fn seal(key: &[u8; 32], clear: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(NONCE + secret.len() + 16);
    bytes.resize(NONCE, 0);
    bytes.extend_from_slice(secret);
    seal_tail(&mut bytes, NONCE, key, [0; NONCE], clear);
    bytes.split_off(NONCE)
}

fn unseal(key: &[u8; 32], clear: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let tail = [&[0; NONCE][..], sealed].concat();
    open_with(&tail, key, clear).map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CHEAP: PassphraseCost = PassphraseCost {
        memory_kib: 64,
        passes: 1,
        lanes: 1,
    };

    fn by(passphrase: &str) -> Unlock {
        Unlock::Passphrase(Passphrase::new(passphrase))
    }

    fn failure(wrapped: &WrappedKeys, with: &Unlock) -> KeyError {
        match wrapped.open(with) {
            Ok(_) => panic!("it opened"),
            Err(error) => error,
        }
    }

    /// Guards: each way opens all generations, and no other does.
    #[test]
    fn every_way_opens_all_generations_and_wrong_ones_none() {
        let mut keys = OpeningKeys::generate().unwrap();
        keys.rotate(true).unwrap();
        let (passphrase, recovery) = (
            Passphrase::new("correct horse battery"),
            RecoveryKey::generate(),
        );
        let wrapped = WrappedKeys::wrap(
            &keys,
            &[
                Wrapping::Passphrase(&passphrase, CHEAP),
                Wrapping::Recovery(recovery.public().unwrap()),
            ],
        )
        .unwrap();
        for unlock in [
            by("correct horse battery"),
            Unlock::Recovery(recovery.clone()),
        ] {
            assert!(wrapped.open(&unlock).unwrap().same_as(&keys));
        }
        let wrong = failure(&wrapped, &by("Correct horse battery"));
        assert!(matches!(wrong, KeyError::WrongPassphrase), "{wrong}");
        let other = failure(&wrapped, &Unlock::Recovery(RecoveryKey::generate()));
        let id = recovery.public().unwrap().id().to_string();
        assert!(other.to_string().contains(&id), "{other}");
        let by_key = WrappedKeys::wrap(&keys, &[Wrapping::Recovery(recovery.public().unwrap())]);
        let none = failure(&by_key.unwrap(), &by("correct horse battery"));
        assert!(matches!(none, KeyError::NotByPassphrase(_)), "{none}");
    }

    /// Guards the clear parts: a public key exchanged in the file must not be sealed to.
    #[test]
    fn altered_clear_parts_are_noticed() {
        let keys = OpeningKeys::generate().unwrap();
        let recovery = RecoveryKey::generate();
        let wrapped =
            WrappedKeys::wrap(&keys, &[Wrapping::Recovery(recovery.public().unwrap())]).unwrap();
        let unlock = Unlock::Recovery(recovery);
        let mut changed = wrapped.clone();
        changed.file.generation[0].public = Hex([5; 32]);
        assert!(matches!(failure(&changed, &unlock), KeyError::Altered));
        let mut changed = wrapped.clone();
        changed.file.generation[0].number += 1;
        assert!(matches!(failure(&changed, &unlock), KeyError::Altered));
        let mut changed = wrapped;
        changed.file.tenant = TenantId::random();
        assert!(matches!(failure(&changed, &unlock), KeyError::Altered));
    }
}
