//! What agents are told: how to image their servers.

use relevo_wire::message::{Refusal, Response};
use relevo_wire::{ServerId, TenantId};

use super::Vault;
use crate::settings::Whose;
use crate::volume::Volume;

impl<V: Volume> Vault<V> {
    pub(super) fn backup_policy(
        &self,
        tenant: TenantId,
        server: ServerId,
    ) -> Result<Response, Refusal> {
        let name = self.store.read(|c| c.server_name(tenant, server))?;
        let whose = Whose {
            tenant,
            server,
            name: name.as_deref().unwrap_or_default(),
        };
        let resolved = self.settings.now().backup(whose);
        Ok(Response::Policy(Box::new(resolved.policy)))
    }
}
