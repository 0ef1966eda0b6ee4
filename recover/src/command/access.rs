//! Where a command reads images from: the vault that this site is enrolled with, or packs.

use std::path::Path;
use std::sync::Arc;

use relevo_wire::key::OpeningKeys;

use super::options::SourceArgs;
use crate::failure::Failure;
use crate::image::{Packs, Patience, Source};
use crate::keys::Unlocker;
use crate::site::Site;

/// Damages told at most, one by one.
const TOLD: usize = 20;

/// Images, and the keys that open them.
pub struct Access {
    /// Where they are.
    pub source: Arc<Source>,
    /// What opens them.
    pub keys: Arc<OpeningKeys>,
}

impl Access {
    /// As the options ask.
    pub fn open(state: &Path, args: &SourceArgs, patience: Patience) -> Result<Self, Failure> {
        let unlocker = Unlocker::from(&args.unlock);
        let (Some(packs), Some(keys)) = (&args.packs, &args.keys) else {
            let site = Site::open_with(state, &unlocker)?;
            let source = site.connect(patience)?;
            let keys = site.keys().clone();
            return Ok(Self { source, keys });
        };
        let keys = unlocker.read(keys)?;
        let packs = Packs::open(packs, keys.sealing.tenant, args.include_deleted)?;
        let damage = packs.damage();
        for one in damage.iter().take(TOLD) {
            tracing::warn!("{one}");
        }
        if damage.len() > TOLD {
            tracing::warn!("and {} further damages", damage.len() - TOLD);
        }
        Ok(Self {
            source: Arc::new(Source::Packs(Box::new(packs))),
            keys: Arc::new(keys),
        })
    }
}
