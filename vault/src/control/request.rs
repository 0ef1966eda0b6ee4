//! The requests, and the one function that does what they ask.

use std::sync::atomic::Ordering;

use relevo_wire::TenantId;
use serde::{Deserialize, Serialize};

use crate::audit::{Act, Event};
use crate::collect::{self, Rule};
use crate::error::VaultError;
use crate::heal::{self, Healer};
use crate::ingest::Vault;
use crate::retention::points::{self, Which};
use crate::retention::prune::{self, Scope};
use crate::settings::Span;
use crate::volume::Volume;
use crate::{metrics, revocation};

/// Who a request comes from, as records have it: whoever may use the vault's directory.
const LOCAL: &str = "local";

/// What a command may ask.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Delete what the policies do not keep.
    Prune {
        /// Which servers, by which rules.
        scope: Scope,
        /// Only say what would go.
        dry_run: bool,
    },
    /// Hold a recovery point back from deletion.
    Hold {
        /// Which.
        which: Which,
        /// Why.
        reason: String,
    },
    /// End a hold.
    Release {
        /// Which.
        which: Which,
        /// Why.
        reason: String,
    },
    /// Lock a recovery point, or lengthen its lock.
    Lock {
        /// Which.
        which: Which,
        /// From now on for so long.
        length: Span,
    },
    /// List the locks.
    Locks,
    /// Delete a recovery point.
    Delete {
        /// Which.
        which: Which,
        /// Why.
        reason: String,
        /// Also when it is its server's latest.
        even_latest: bool,
    },
    /// Revoke all certificates of somebody.
    Revoke {
        /// Only of this tenant.
        tenant: Option<TenantId>,
        /// Name, id or identity.
        who: String,
        /// Why.
        reason: String,
    },
    /// Take back the space of what no recovery point needs.
    Collect {
        /// Only say what would go.
        dry_run: bool,
        /// Also where something is lost that may come back.
        accept_loss: bool,
    },
    /// Say what the vault counts.
    Status,
    /// Heal what was noted as damaged.
    Heal {
        /// Go on without what cannot be known.
        give_up: bool,
    },
}

impl Request {
    /// True when the audit log must tell it: then it is not done without.
    fn is_noted(&self) -> bool {
        match self {
            Self::Prune { dry_run, .. } => !dry_run,
            Self::Collect {
                dry_run,
                accept_loss,
            } => *accept_loss && !dry_run,
            Self::Heal { give_up } => *give_up,
            Self::Hold { .. }
            | Self::Release { .. }
            | Self::Lock { .. }
            | Self::Delete { .. }
            | Self::Revoke { .. } => true,
            Self::Locks | Self::Status => false,
        }
    }
}

/// What was done: for programs, and for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// For programs.
    pub facts: serde_json::Value,
    /// For people.
    pub text: String,
    /// False when the command is to end with code 1 all the same.
    pub success: bool,
}

impl Answer {
    /// Something was done.
    pub fn done(facts: &impl Serialize, text: String) -> Result<Self, VaultError> {
        let facts = serde_json::to_value(facts)
            .map_err(|e| VaultError::io(super::SOCKET, std::io::Error::from(e)))?;
        Ok(Self {
            facts,
            text,
            success: true,
        })
    }
}

/// A line that comes back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// On the way, for people.
    Note(String),
    /// The last line: done.
    Done(Answer),
    /// The last line: not done.
    Failed {
        /// Why.
        error: String,
        /// What to do.
        remedy: String,
        /// True when the command line was wrong.
        usage: bool,
    },
}

impl From<&VaultError> for Reply {
    fn from(error: &VaultError) -> Self {
        Self::Failed {
            error: error.to_string(),
            remedy: error.remedy(),
            usage: matches!(error, VaultError::Usage { .. }),
        }
    }
}

/// Does what is asked, in the process that has the store open. `note` tells people how it goes.
pub fn perform<V: Volume>(
    vault: &Vault<V>,
    request: Request,
    note: &mut dyn FnMut(String),
) -> Result<Answer, VaultError> {
    let store = vault.store();
    if request.is_noted() {
        vault.check_audit()?;
    }
    match request {
        Request::Prune { scope, dry_run } => {
            let settings = vault.settings().now();
            note_unmatched(vault, note);
            if !dry_run {
                note("deleting what no rule keeps".into());
            }
            let pruned = prune::prune(store, &settings, &scope, LOCAL, dry_run)?;
            if !dry_run {
                vault.note_pruned(LOCAL, &pruned)?;
            }
            Answer::done(&pruned, prune::text(&pruned, dry_run))
        }
        Request::Hold { which, reason } => {
            let found = points::set_hold(store, &which, true, &reason, LOCAL)?;
            note_act(vault, Act::Held, &found, reason)?;
            Answer::done(&found, format!("held: {} of {}\n", found.point, found.name))
        }
        Request::Release { which, reason } => {
            let found = points::set_hold(store, &which, false, &reason, LOCAL)?;
            note_act(vault, Act::Released, &found, reason)?;
            Answer::done(
                &found,
                format!("released: {} of {}\n", found.point, found.name),
            )
        }
        Request::Lock { which, length } => {
            let lock = points::lock(store, &which, length, LOCAL)?;
            note_act(vault, Act::Locked, &lock.found, format!("for {length}"))?;
            let text = format!(
                "locked: {} of {} for {length}, until about {}\n",
                lock.found.point, lock.found.name, lock.ends_about
            );
            Answer::done(&lock, text)
        }
        Request::Locks => {
            let locks = points::locks(store)?;
            let mut text = String::new();
            for lock in &locks {
                let left = Span::from_secs(lock.seconds_left);
                text.push_str(&format!(
                    "{}  {}  taken {}  {left} left, until about {}\n",
                    lock.found.name, lock.found.point, lock.found.taken, lock.ends_about
                ));
            }
            if locks.is_empty() {
                text.push_str("nothing is locked\n");
            }
            Answer::done(&locks, text)
        }
        Request::Heal { give_up } => {
            note("healing".into());
            let healed = Healer {
                store,
                vault: vault.id(),
                heal_from: &vault.settings().now().heal_from,
                give_up,
            }
            .heal()?;
            if healed.did_something() {
                let how = if give_up {
                    "giving up what cannot be known"
                } else {
                    "asked for"
                };
                let event = Event::new(LOCAL, Act::Healed, "packs");
                if let Err(error) = vault.note(&event.result(how)) {
                    note(format!("healed, and not noted: {error}"));
                }
            }
            let success = healed.is_whole();
            let answer = Answer::done(&healed, heal::text(&healed))?;
            Ok(Answer { success, ..answer })
        }
        Request::Delete {
            which,
            reason,
            even_latest,
        } => {
            let deleted = points::delete(store, &which, &reason, even_latest, LOCAL);
            let found = match deleted {
                Ok(found) => found,
                Err(error) => {
                    let event = Event::new(LOCAL, Act::PointDeleted, which.to_string());
                    vault.note(&event.result(format!("refused: {error}")))?;
                    return Err(error);
                }
            };
            vault.metrics().points_deleted.increment();
            note_act(vault, Act::PointDeleted, &found, reason)?;
            Answer::done(
                &found,
                format!("deleted: {} of {}\n", found.point, found.name),
            )
        }
        Request::Revoke {
            tenant,
            who,
            reason,
        } => {
            let revoked = revocation::revoke(vault, tenant, &who, &reason, LOCAL)?;
            let text = format!("revoked: {} ({})\n", revoked.name, revoked.identity);
            Answer::done(&revoked, text)
        }
        Request::Collect {
            dry_run,
            accept_loss,
        } => {
            let rule = Rule {
                dry_run,
                accept_loss,
                ..Rule::of(&vault.settings().now().collect)
            };
            if accept_loss && !dry_run {
                let event = Event::new(LOCAL, Act::LossAccepted, "packs");
                vault.note(&event.result("to collect"))?;
            }
            let report = collect::collect(store, &rule, vault.stopping())?;
            collect::note(vault, LOCAL, &report);
            let stopped = vault.stopping().load(Ordering::Relaxed);
            if stopped {
                note("the vault stops: the next collection goes on from here".into());
            }
            let success = report.held_back.is_empty()
                && report.damage.is_empty()
                && report.failures.is_empty()
                && !stopped;
            let answer = Answer::done(&report, collect::text(&report))?;
            Ok(Answer { success, ..answer })
        }
        Request::Status => {
            note_unmatched(vault, note);
            let families = vault.families();
            Answer::done(&families, metrics::text(&families))
        }
    }
}

fn note_unmatched<V: Volume>(vault: &Vault<V>, note: &mut dyn FnMut(String)) {
    for section in vault.unmatched_settings() {
        note(format!(
            "{section} of settings.toml counts for nobody: look at its spelling"
        ));
    }
}

fn note_act<V: Volume>(
    vault: &Vault<V>,
    act: Act,
    found: &points::Found,
    result: String,
) -> Result<(), VaultError> {
    let on = format!("recovery point {} of {}", found.point, found.name);
    vault.note(&Event::new(LOCAL, act, on).of(found.tenant).result(result))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use relevo_wire::chunk::CheckedChunk;
    use relevo_wire::identity::Authority;
    use relevo_wire::{TenantId, VaultId};

    use super::*;
    use crate::record::Record;
    use crate::settings::{Settings, SettingsWatch};
    use crate::store::Store;
    use crate::volume::simulated::SimulatedDisk;

    fn vault(dir: &std::path::Path, settings: &str) -> Vault<SimulatedDisk> {
        let (id, disk) = (VaultId::random(), Arc::new(SimulatedDisk::new(1)));
        let (store, _) = Store::open(disk, id, &dir.join("catalogue.sqlite")).unwrap();
        let settings = Settings::parse(settings).unwrap();
        Vault::new(id, store, Authority::from_der(Vec::new(), Vec::new()))
            .with_settings(Arc::new(SettingsWatch::fixed(settings)))
    }

    /// Guards the stop of a vault against a collection that somebody asked for: it may take hours.
    #[test]
    fn a_collection_that_was_asked_for_ends_when_the_vault_stops() {
        let dir = tempfile::tempdir().unwrap();
        let vault = vault(dir.path(), "[collect]\ngrace = \"0s\"\n");
        let tenant = TenantId::random();
        let chunk = Record::Chunk(CheckedChunk::of(vec![1; 1000].into()));
        vault.store().append_blocking(tenant, vec![chunk]).unwrap();
        let waiting = || {
            vault
                .store()
                .read(|c| c.count_unreferenced(tenant))
                .unwrap()
        };
        vault.stop();
        let request = Request::Collect {
            dry_run: false,
            accept_loss: false,
        };
        let mut notes = Vec::new();
        let answer = perform(&vault, request, &mut |text| notes.push(text)).unwrap();
        assert!(!answer.success);
        assert_eq!(waiting(), 1);
        assert!(notes.iter().any(|text| text.contains("stops")), "{notes:?}");
    }

    /// Guards an operator against a section that he believes in and that counts for nobody.
    #[test]
    fn sections_for_nobody_are_said() {
        let dir = tempfile::tempdir().unwrap();
        let vault = vault(dir.path(), "[[server]]\nname = \"db1\"\n");
        let mut notes = Vec::new();
        let answer = perform(&vault, Request::Status, &mut |text| notes.push(text)).unwrap();
        assert!(notes.iter().any(|text| text.contains("'db1'")), "{notes:?}");
        assert!(
            answer.text.contains("section=\"[[server]] 'db1'\""),
            "{}",
            answer.text
        );
    }
}
