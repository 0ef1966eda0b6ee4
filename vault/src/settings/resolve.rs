//! Which settings count for whom: a server's own by id, by name, its tenant's, the general ones.

use relevo_wire::{ServerId, TenantId};

use super::{Backup, Immutability, Quota, Resolved, ServerSettings, Settings};
use crate::retention::{Keep, Policy};

/// Whom settings are looked up for.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// The tenant.
    pub tenant: TenantId,
    /// Its server.
    pub server: ServerId,
    /// The server's name.
    pub name: &'a str,
}

impl Settings {
    /// What is kept of a server. A section in a more particular place takes the whole place of
    /// the one below it, so that rules never mix; only a time zone that is not given comes from
    /// below.
    pub fn policy(&self, whose: Whose<'_>) -> Policy {
        let of_tenant = self
            .of_tenant(whose.tenant)
            .and_then(|t| t.retention.as_ref());
        let own = self.find(whose, |s| s.retention.as_ref());
        let zone = [own, of_tenant, Some(&self.retention)]
            .into_iter()
            .find_map(|keep| keep?.time_zone.clone());
        let keep: &Keep = own.or(of_tenant).unwrap_or(&self.retention);
        Policy {
            time_zone: zone.unwrap_or_default(),
            ..keep.policy()
        }
    }

    /// How long a recovery point of a server is locked from its commit on.
    pub fn immutability(&self, whose: Whose<'_>) -> Immutability {
        self.find(whose, |s| s.immutability.as_ref())
            .or_else(|| self.of_tenant(whose.tenant)?.immutability.as_ref())
            .copied()
            .unwrap_or(self.immutability)
    }

    /// What a tenant may store.
    pub fn quota(&self, tenant: TenantId) -> Quota {
        let own = self.of_tenant(tenant).and_then(|t| t.quota);
        own.unwrap_or_default().or(self.quota)
    }

    /// How a server is imaged: key by key, the most particular section that gives it.
    pub fn backup(&self, whose: Whose<'_>) -> Resolved {
        let servers = self.matching(whose).into_iter();
        let mut sections: Vec<(String, &Backup)> = servers
            .filter_map(|s| Some((s.title(), s.backup.as_ref()?)))
            .collect();
        let tenant = self.of_tenant(whose.tenant);
        let title = format!("[[tenant]] {}", whose.tenant);
        sections.extend(tenant.and_then(|t| Some((title, t.backup.as_ref()?))));
        sections.push(("[backup]".into(), &self.backup));
        super::backup::resolve(&sections)
    }

    fn of_tenant(&self, tenant: TenantId) -> Option<&super::TenantSettings> {
        self.tenant.iter().find(|t| t.id == tenant)
    }

    /// The most particular override that says something.
    fn find<'a, T>(
        &'a self,
        whose: Whose<'_>,
        what: impl Fn(&'a ServerSettings) -> Option<&'a T>,
    ) -> Option<&'a T> {
        self.matching(whose).into_iter().find_map(what)
    }

    /// The overrides that a server matches, the most particular first.
    fn matching(&self, whose: Whose<'_>) -> Vec<&ServerSettings> {
        let matching = |s: &&ServerSettings| s.tenant.is_none_or(|t| t == whose.tenant);
        let mut candidates: Vec<_> = self
            .server
            .iter()
            .filter(matching)
            .filter_map(|s| match (s.id, s.name.as_deref()) {
                (Some(id), _) if id == whose.server => Some((0, s)),
                (None, Some(name)) if name == whose.name => {
                    Some((1 + i32::from(s.tenant.is_none()), s))
                }
                _ => None,
            })
            .collect();
        candidates.sort_by_key(|(rank, _)| *rank);
        candidates.into_iter().map(|(_, s)| s).collect()
    }
}
