//! An entry of the audit log, from event to line and back.

use relevo_wire::{TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// Longest text of one field, in characters; what is longer is cut.
const MAX_TEXT: usize = 500;
/// What stands between an entry and its hash.
const BEFORE_HASH: &[u8] = br#","hash":""#;
const AFTER_HASH: &[u8] = br#""}"#;
const HASH_DIGITS: usize = 64;

/// Acts that go into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Somebody turned a token into an identity.
    Enrolled,
    /// Somebody was given a new certificate.
    Renewed,
    /// A token was made.
    TokenMade,
    /// Certificates were revoked.
    Revoked,
    /// A recovery point was deleted, or somebody tried.
    PointDeleted,
    /// A recovery point was held.
    Held,
    /// A hold was ended.
    Released,
    /// A recovery point was locked.
    Locked,
    /// The retention policy was applied.
    Pruned,
    /// Dead space was collected.
    Collected,
    /// A loss was accepted.
    LossAccepted,
    /// The settings were seen to have changed.
    SettingsChanged,
    /// The catalogue was made anew.
    Rebuilt,
    /// Damage was found.
    DamageFound,
    /// Damage was healed.
    Healed,
    /// Keys or wrappings of the vault's own were changed.
    KeysChanged,
    /// A tenant has stored all that it may.
    QuotaRefused,
    /// A token, certificate or request was not good enough.
    AuthenticationFailed,
    /// An unfinished last line was cut off.
    AuditRepaired,
}

impl Act {
    /// As the log has it.
    pub fn word(self) -> String {
        serde_json::to_value(self)
            .ok()
            .and_then(|value| value.as_str().map(str::to_string))
            .unwrap_or_default()
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Who: an identity, `local` for the vault's own command line, `vault` for itself, an
    /// address for somebody unknown.
    pub who: String,
    /// Whose data it is about, if one tenant's.
    pub tenant: Option<TenantId>,
    /// What.
    pub act: Act,
    /// On what.
    pub on: String,
    /// What came of it.
    pub result: String,
}

impl Event {
    /// Something that `who` did, and that is done.
    pub fn new(who: impl Into<String>, act: Act, on: impl Into<String>) -> Self {
        Self {
            who: who.into(),
            tenant: None,
            act,
            on: on.into(),
            result: "done".into(),
        }
    }

    /// About data of this tenant.
    pub fn of(mut self, tenant: TenantId) -> Self {
        self.tenant = Some(tenant);
        self
    }

    /// What came of it.
    pub fn result(mut self, result: impl Into<String>) -> Self {
        self.result = result.into();
        self
    }
}

/// A line of the log, without its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// From 1, without gaps, through all files.
    pub sequence: u64,
    /// When.
    pub time: Timestamp,
    /// See [`Event::who`].
    pub who: String,
    /// See [`Event::tenant`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// See [`Event::act`]. Text, since later releases know more acts.
    pub act: String,
    /// See [`Event::on`].
    pub on: String,
    /// See [`Event::result`].
    pub result: String,
    /// Hash of the entry before, in hexadecimal.
    pub previous: String,
}

/// Where a chain has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Entries so far.
    pub entries: u64,
    /// Hash of the last; of the vault's id before the first.
    pub hash: [u8; 32],
}

impl Line {
    /// What follows `head`.
    pub(super) fn next(head: &Head, event: &Event, time: Timestamp) -> Self {
        let cut = |text: &str| text.chars().take(MAX_TEXT).collect();
        Self {
            sequence: head.entries.saturating_add(1),
            time,
            who: cut(&event.who),
            tenant: event.tenant,
            act: event.act.word(),
            on: cut(&event.on),
            result: cut(&event.result),
            previous: blake3::Hash::from_bytes(head.hash).to_hex().to_string(),
        }
    }

    /// Its bytes with hash and line feed, and the hash.
    pub(super) fn encode(&self) -> Result<(Vec<u8>, [u8; 32]), serde_json::Error> {
        let mut bytes = serde_json::to_vec(self)?;
        // The closing brace comes after the hash.
        bytes.pop();
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(BEFORE_HASH);
        bytes.extend_from_slice(hash.to_hex().as_bytes());
        bytes.extend_from_slice(AFTER_HASH);
        bytes.push(b'\n');
        Ok((bytes, *hash.as_bytes()))
    }

    /// Reads a line without its line feed; why it is none, in words.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, [u8; 32]), &'static str> {
        const SHAPE: &str = "this is no entry";
        let rest = bytes.strip_suffix(AFTER_HASH).ok_or(SHAPE)?;
        let at = rest.len().checked_sub(HASH_DIGITS).ok_or(SHAPE)?;
        let (rest, digits) = rest.split_at(at);
        let rest = rest.strip_suffix(BEFORE_HASH).ok_or(SHAPE)?;
        let hash = blake3::hash(rest);
        if digits != hash.to_hex().as_bytes() {
            return Err("its bytes do not hash to what it says");
        }
        let whole = [rest, b"}"].concat();
        let line = serde_json::from_slice(&whole).map_err(|_| SHAPE)?;
        Ok((line, *hash.as_bytes()))
    }
}
