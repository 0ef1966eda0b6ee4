//! What people ask: reports, the audit log, holds, locks, deletions, tokens, revocations. All of
//! it within the tenant of their certificate.

use std::time::Duration;

use relevo_wire::message::{Refusal, RefusalCode, Response, TokenRole};
use relevo_wire::{PointId, TenantId, Timestamp};

use super::refusal::{malformed, not_found};
use super::{Caller, Vault};
use crate::audit::{Act, Event};
use crate::catalogue::Role;
use crate::ledger::{Deletion, Kept};
use crate::record::{HoldRecord, LockRecord, Record};
use crate::volume::Volume;
use crate::{revocation, token};

/// Longest time that a token may wait.
const MAX_WAIT: Duration = Duration::from_secs(366 * 24 * 3600);
const DAY: u64 = 24 * 3600 * 1000;

impl<V: Volume> Vault<V> {
    pub(super) fn report(&self, tenant: TenantId) -> Result<Response, Refusal> {
        let mut report = self.store.read(|c| c.report(tenant))?;
        let quota = self.settings.now().quota(tenant);
        report.quota_bytes = quota.stored.map(|stored| stored.bytes());
        report.quota_rate = quota.rate.map(|rate| rate.bytes_per_second());
        Ok(Response::Report(Box::new(report)))
    }

    pub(super) fn audit_log(&self, tenant: TenantId, after: u64) -> Result<Response, Refusal> {
        let entries = match &self.audit {
            Some(audit) => audit.entries(tenant, after)?,
            None => Vec::new(),
        };
        Ok(Response::AuditEntries(entries))
    }

    pub(super) fn set_hold(
        &self,
        tenant: TenantId,
        caller: &Caller,
        point: PointId,
        held: bool,
        reason: String,
    ) -> Result<Response, Refusal> {
        revocation::check_reason(&reason)?;
        self.check_point(tenant, point)?;
        if !held && self.store.read(|c| c.hold(tenant, point))?.is_none() {
            return Err(Refusal::new(
                RefusalCode::NotFound,
                format!("recovery point {point} is not held"),
                "see what is: 'relevo-vault remote report'",
            ));
        }
        // The latest counts: a wall clock that was set back must not make this one the earlier.
        let changed = self.store.read(|c| c.hold_changed(tenant, point))?;
        let after = changed.map(|changed| changed.plus(Duration::from_millis(1)));
        let record = HoldRecord {
            point,
            held,
            when: after.map_or(Timestamp::now(), |after| after.max(Timestamp::now())),
            by: caller.text(),
            reason: reason.clone(),
        };
        self.store
            .append_blocking(tenant, vec![Record::Hold(record)])?;
        // It may have been deleted while this was written.
        self.check_point(tenant, point)?;
        let act = if held { Act::Held } else { Act::Released };
        let event = Event::new(caller.text(), act, format!("recovery point {point}"));
        self.note(&event.of(tenant).result(reason))?;
        Ok(done(match held {
            true => format!("recovery point {point} is held"),
            false => format!("recovery point {point} is held no more"),
        }))
    }

    pub(super) fn lock_point(
        &self,
        tenant: TenantId,
        caller: &Caller,
        point: PointId,
        days: u16,
    ) -> Result<Response, Refusal> {
        self.check_point(tenant, point)?;
        let until = self.store.vault_time().plus_millis(u64::from(days) * DAY);
        if self.store.read(|c| c.locked_until(tenant, point))? >= until {
            return Err(Refusal::new(
                RefusalCode::Kept,
                format!("recovery point {point} is locked for as long already"),
                "a lock can be lengthened and never shortened",
            ));
        }
        let record = LockRecord {
            point,
            until,
            when: Timestamp::now(),
            by: caller.text(),
        };
        self.store
            .append_blocking(tenant, vec![Record::Lock(record)])?;
        // From here on what runs counts.
        self.store.note_clock(self.audit_anchor())?;
        self.check_point(tenant, point)?;
        let event = Event::new(
            caller.text(),
            Act::Locked,
            format!("recovery point {point}"),
        );
        self.note(&event.of(tenant).result(format!("for {days} days")))?;
        Ok(done(format!(
            "recovery point {point} is locked for {days} days"
        )))
    }

    pub(super) fn delete_point(
        &self,
        tenant: TenantId,
        caller: &Caller,
        point: PointId,
        reason: String,
        even_latest: bool,
    ) -> Result<Response, Refusal> {
        revocation::check_reason(&reason)?;
        let wanted = Deletion {
            point,
            by: caller.text(),
            reason: reason.clone(),
            latest_too: even_latest,
        };
        let judged = self.store.delete_blocking(tenant, vec![wanted])?;
        let kept = judged.into_iter().find_map(Result::err);
        let event = Event::new(
            caller.text(),
            Act::PointDeleted,
            format!("recovery point {point}"),
        );
        let result = match &kept {
            None => reason,
            Some(kept) => format!("refused: {kept}"),
        };
        self.note(&event.of(tenant).result(result))?;
        match kept {
            None => {
                self.metrics.points_deleted.increment();
                Ok(done(format!("recovery point {point} is deleted")))
            }
            Some(Kept::Unknown) => Err(unknown_point(point)),
            Some(kept) => {
                self.metrics.deletions_refused.increment();
                Err(Refusal::new(
                    RefusalCode::Kept,
                    format!("recovery point {point} is not deleted: {kept}"),
                    kept.remedy(),
                ))
            }
        }
    }

    pub(super) fn revoke_one(
        &self,
        tenant: TenantId,
        caller: &Caller,
        who: &str,
        reason: &str,
    ) -> Result<Response, Refusal> {
        revocation::check_reason(reason)?;
        let one = self.store.read(|c| revocation::find(c, &[tenant], who))??;
        self.revoke(&one, reason, &caller.text())?;
        Ok(done(format!(
            "certificates of {} are revoked",
            one.identity
        )))
    }

    pub(super) fn make_token(
        &self,
        tenant: TenantId,
        caller: &Caller,
        role: TokenRole,
        valid: u64,
        again: Option<&str>,
    ) -> Result<Response, Refusal> {
        let valid = Duration::from_millis(valid);
        if valid > MAX_WAIT {
            return Err(malformed("a token waits for a year at most".into()));
        }
        let wanted = token::Wanted {
            role: Role::from(role),
            valid,
            tenant: Some(tenant),
            again: again.map(str::to_string),
        };
        let fingerprint = self.authority.fingerprint();
        let made = self
            .store
            .read(|c| Ok(token::make_in(c, fingerprint, &wanted)))??;
        self.note(&token::event(&made, &caller.text()))?;
        Ok(Response::Token {
            token: made.token,
            expires: made.expires,
        })
    }

    /// What clock entries say of the audit log.
    pub fn audit_anchor(&self) -> Option<(u64, [u8; 32])> {
        let head = self.audit.as_ref()?.head();
        // Of a log that could not be read nothing is known: what packs know of it stays.
        (head.entries > 0).then_some((head.entries, head.hash))
    }

    fn check_point(&self, tenant: TenantId, point: PointId) -> Result<(), Refusal> {
        match self.store.read(|c| c.point(tenant, point))? {
            Some(_) => Ok(()),
            None => Err(unknown_point(point)),
        }
    }
}

/// Whoever asks for what is another tenant's, or nobody's, is told the same.
pub(super) fn unknown_point(point: PointId) -> Refusal {
    not_found(format!("there is no recovery point {point}"))
}

fn done(what: String) -> Response {
    Response::Done { what }
}
