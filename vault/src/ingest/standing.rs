//! Whether a certificate still counts, and what is noted of acts.

use std::collections::{BTreeMap, HashSet};

use relevo_wire::message::{Refusal, RefusalCode, Request};
use relevo_wire::{TenantId, Timestamp};

use super::permission::Kind;
use super::{Caller, Outcome, Peer, Vault};
use crate::audit::{Act, Audit, Event};
use crate::error::VaultError;
use crate::metrics::{Family, Metrics, Value};
use crate::record::{ClockRecord, Record};
use crate::retention::prune::Pruned;
use crate::settings::Settings;
use crate::volume::Volume;

impl<V: Volume> Vault<V> {
    /// As [`answer`](Self::answer), for somebody on a connection: his certificate must still
    /// count, and what he may not ask is noted with where he comes from.
    pub fn answer_to(&self, caller: &Caller, request: Request) -> Result<Outcome, Refusal> {
        let kind = Kind::of(&request);
        let done = self
            .check_standing(caller)
            .and_then(|()| self.judge(caller, request));
        self.metrics.request(kind, &done);
        if let Err(refusal) = &done
            && matches!(refusal.code, RefusalCode::Forbidden | RefusalCode::Token)
        {
            self.authentication_failed(caller, kind.word(), &refusal.message);
        }
        done
    }

    /// Refuses a certificate that was revoked.
    pub fn check_standing(&self, caller: &Caller) -> Result<(), Refusal> {
        let Some(identity) = caller.peer.identity() else {
            return Ok(());
        };
        match self.store.read(|c| c.revoked_until(&identity))? {
            Some(until) if caller.issued <= until => Err(Refusal::new(
                RefusalCode::Forbidden,
                "this certificate was revoked",
                "ask the vault's administrator why; a new token enrols again: \
                 'relevo-vault token --role ROLE --again NAME'",
            )),
            _ => Ok(()),
        }
    }

    /// Counts and notes that somebody was not good enough.
    pub fn authentication_failed(&self, caller: &Caller, on: &str, why: &str) {
        self.metrics.authentication_failures.increment();
        let mut event = Event::new(caller.text(), Act::AuthenticationFailed, on).result(why);
        event.tenant = caller.peer.tenant();
        self.note_rarely(event);
    }

    /// Whether the audit log can take what is about to be done; what it cannot is not done.
    pub fn check_audit(&self) -> Result<(), VaultError> {
        let ready = self.audit.as_ref().map_or(Ok(()), |audit| audit.ready());
        ready.inspect_err(|error| {
            self.metrics.audit_failures.increment();
            tracing::error!(%error, remedy = error.remedy(), "refused");
        })
    }

    /// Writes an act into the audit log. What cannot be noted is not answered.
    pub fn note(&self, event: &Event) -> Result<(), VaultError> {
        let Some(audit) = &self.audit else {
            return Ok(());
        };
        match audit.record(event) {
            Ok(head) => {
                self.metrics.audit_entries.set(head.entries);
                Ok(())
            }
            Err(error) => {
                self.metrics.audit_failures.increment();
                tracing::error!(%error, act = event.act.word(), "the audit log failed");
                Err(error)
            }
        }
    }

    /// Notes what a pruning deleted, tenant by tenant.
    pub fn note_pruned(&self, by: &str, pruned: &Pruned) -> Result<(), VaultError> {
        self.metrics.points_deleted.add(pruned.deleted.len() as u64);
        let mut gone: BTreeMap<(TenantId, String), usize> = BTreeMap::new();
        let deleted: HashSet<_> = pruned.deleted.iter().collect();
        for server in &pruned.servers {
            let count = server.points.iter();
            let count = count.filter(|p| deleted.contains(&p.point)).count();
            if count > 0 {
                *gone
                    .entry((server.tenant, server.name.clone()))
                    .or_default() += count;
            }
        }
        // One that cannot be noted keeps none of the others out of the log.
        let mut noted = Ok(());
        for ((tenant, name), count) in gone {
            let event = Event::new(by, Act::Pruned, name).of(tenant);
            let done = self.note(&event.result(format!("{count} recovery points deleted")));
            noted = noted.and(done);
        }
        noted
    }

    /// Notes settings that are others than those noted last.
    pub fn note_settings(&self) -> Result<(), VaultError> {
        let Some(audit) = &self.audit else {
            return Ok(());
        };
        let settings = self.settings.now();
        let text = toml::to_string(&*settings).unwrap_or_default();
        let result = format!(
            "BLAKE3 of what is in force: {}",
            blake3::hash(text.as_bytes())
        );
        let noted = audit.last_result(Act::SettingsChanged)?;
        let defaults = *settings == Settings::default();
        if noted.as_deref() == Some(result.as_str()) || (noted.is_none() && defaults) {
            return Ok(());
        }
        let event = Event::new("vault", Act::SettingsChanged, "settings.toml");
        self.note(&event.result(result))
    }

    /// Sections of the settings that count for nobody, in words.
    pub fn unmatched_settings(&self) -> Vec<String> {
        let settings = self.settings.now();
        let found = self.store.read(|c| settings.unmatched(c));
        // Who cannot read the catalogue hears of that elsewhere.
        found.unwrap_or_default()
    }

    /// Writes into the packs of each tenant how long the audit log is and where it ends, unless
    /// they know: from then on cutting it short or writing it anew is found.
    pub fn anchor_audit(&self) -> Result<(), VaultError> {
        let Some((audit_entries, audit_head)) = self.audit_anchor() else {
            return Ok(());
        };
        for tenant in self.store.read(|c| c.tenants())? {
            let known = self.store.read(|c| c.audit_anchor(tenant))?;
            if audit_entries == 0 || known.is_some_and(|(entries, _)| entries >= audit_entries) {
                continue;
            }
            let record = ClockRecord {
                time: self.store.vault_time(),
                wall: Timestamp::now(),
                audit_entries,
                audit_head,
            };
            self.store
                .append_blocking(tenant, vec![Record::Clock(record)])?;
        }
        Ok(())
    }

    /// Writes what can happen often into the audit log, once in a while.
    pub fn note_rarely(&self, event: Event) {
        if let Some(audit) = &self.audit
            && let Err(error) = audit.record_rarely(event)
        {
            self.metrics.audit_failures.increment();
            tracing::error!(%error, "the audit log failed");
        }
    }

    /// The audit log; none in tests and embeddings without one.
    pub fn audit(&self) -> Option<&Audit> {
        self.audit.as_deref()
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Tells whoever watches that certificates may have been revoked.
    pub fn revocations_changed(&self) {
        self.revocations.send_modify(|changes| *changes += 1);
    }

    /// Changes when certificates may have been revoked.
    pub fn watch_revocations(&self) -> tokio::sync::watch::Receiver<u64> {
        self.revocations.subscribe()
    }

    /// Everything that is counted, with what the catalogue says. Waits for it.
    pub fn families(&self) -> Vec<Family> {
        if let Some(audit) = &self.audit {
            self.metrics.audit_entries.set(audit.head().entries);
        }
        let mut families = self.metrics.families();
        let settings = self.settings.now();
        let (mut stored, mut dead, mut quota) = (Vec::new(), Vec::new(), Vec::new());
        for tenant in self.store.read(|c| c.tenants()).unwrap_or_default() {
            if let Ok((bytes, nothing)) = self.store.read(|c| c.stored_bytes(tenant)) {
                stored.push(Value::labelled("tenant", tenant.to_string(), bytes));
                dead.push(Value::labelled("tenant", tenant.to_string(), nothing));
            }
            if let Some(limit) = settings.quota(tenant).stored {
                quota.push(Value::labelled("tenant", tenant.to_string(), limit.bytes()));
            }
        }
        let unmatched = self.unmatched_settings().into_iter();
        let gauge = |name, help, values| Family {
            name,
            help,
            kind: "gauge",
            values,
        };
        families.push(Family {
            name: "relevo_vault_catalogue_reads_total",
            help: "Reads of the catalogue.",
            kind: "counter",
            values: Value::plain(self.store.catalogue_reads()),
        });
        families.extend([
            gauge(
                "relevo_vault_tenant_stored_bytes",
                "Bytes of a tenant's packs.",
                stored,
            ),
            gauge(
                "relevo_vault_tenant_dead_bytes",
                "Bytes of a tenant's packs that nothing refers to.",
                dead,
            ),
            gauge(
                "relevo_vault_tenant_quota_bytes",
                "Bytes that a tenant may store.",
                quota,
            ),
            gauge(
                "relevo_vault_settings_unmatched",
                "Sections of settings.toml for tenants and servers that nobody is.",
                unmatched
                    .map(|section| Value::labelled("section", section, 1))
                    .collect(),
            ),
        ]);
        families
    }
}

impl From<VaultError> for Refusal {
    fn from(error: VaultError) -> Self {
        let code = match &error {
            VaultError::Store(error) => return error.clone().into(),
            VaultError::Usage { .. } => RefusalCode::Malformed,
            VaultError::Refused { .. } => RefusalCode::Kept,
            _ => RefusalCode::Storage,
        };
        Self::new(code, error.to_string(), error.remedy())
    }
}

/// Somebody within the process: tests, simulations.
impl From<Peer> for Caller {
    fn from(peer: Peer) -> Self {
        Self {
            peer,
            issued: Timestamp::from_millis(i64::MAX),
            from: "here".into(),
        }
    }
}
