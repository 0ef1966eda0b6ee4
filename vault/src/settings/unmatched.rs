//! Sections for tenants and servers that nobody is: a slip of the pen, or somebody yet to come.

use super::{ServerSettings, Settings};
use crate::catalogue::Catalogue;
use crate::error::StoreError;

impl Settings {
    /// Each `[[tenant]]` and `[[server]]` that counts for nobody whom the vault knows, in words.
    pub fn unmatched(&self, catalogue: &Catalogue) -> Result<Vec<String>, StoreError> {
        if self.tenant.is_empty() && self.server.is_empty() {
            return Ok(Vec::new());
        }
        let tenants = catalogue.tenants()?;
        let mut servers = Vec::new();
        for &tenant in &tenants {
            let found = catalogue.servers(tenant)?.into_iter();
            servers.extend(found.map(|server| (tenant, server.id, server.name)));
        }
        let unknown = self.tenant.iter().filter(|t| !tenants.contains(&t.id));
        let mut unmatched: Vec<String> = unknown.map(|t| format!("[[tenant]] {}", t.id)).collect();
        for section in &self.server {
            let is = |(tenant, id, name): &(_, _, String)| {
                section.tenant.is_none_or(|wanted| wanted == *tenant)
                    && (section.id == Some(*id) || section.name.as_ref() == Some(name))
            };
            if !servers.iter().any(is) {
                unmatched.push(section.title());
            }
        }
        Ok(unmatched)
    }
}

impl ServerSettings {
    /// How it is named to people.
    pub(super) fn title(&self) -> String {
        let mut title = match (&self.id, &self.name) {
            (Some(id), _) => format!("[[server]] {id}"),
            (None, name) => format!("[[server]] '{}'", name.as_deref().unwrap_or_default()),
        };
        if let Some(tenant) = self.tenant {
            title.push_str(&format!(" of tenant {tenant}"));
        }
        title
    }
}
