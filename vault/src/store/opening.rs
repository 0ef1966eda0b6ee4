//! How a ledger is opened over a catalogue whose index may be damaged.

use std::path::Path;
use std::sync::Arc;

use relevo_wire::VaultId;

use crate::catalogue::Catalogue;
use crate::error::StoreError;
use crate::ledger::{Finding, Ledger};
use crate::volume::Volume;

/// What was opened.
pub(crate) struct Opened<V> {
    /// The writer of packs and catalogue.
    pub ledger: Ledger<V>,
    /// What was amiss in the packs.
    pub findings: Vec<Finding>,
    /// All packs were read, because nothing was known of them, or not any more.
    pub fresh: bool,
}

/// Opens packs and catalogue. An index that is damaged keeps nobody from it: it follows from the
/// packs, which are then read anew at once. The directory's lock must be held.
pub(crate) fn open_ledger<V: Volume>(
    volume: &Arc<V>,
    vault: VaultId,
    catalogue: &Path,
) -> Result<Opened<V>, StoreError> {
    let opened = |ledger: Ledger<V>, findings| Opened {
        fresh: ledger.has_read_all(),
        ledger,
        findings,
    };
    let (known, fresh) = Catalogue::open(catalogue)?;
    let damage = match known.is_index_damaged()? {
        true => "damage was found while the vault ran".into(),
        false => {
            known.remove_unnamed_segments()?;
            match Ledger::open(volume.clone(), vault, known, fresh) {
                Ok((ledger, findings)) => return Ok(opened(ledger, findings)),
                Err(StoreError::Index(reason)) => reason,
                Err(error) => return Err(error),
            }
        }
    };
    tracing::error!(
        damage,
        "the index of the catalogue is damaged: it is made anew from the packs"
    );
    let (anew, _) = Catalogue::open(catalogue)?;
    anew.abandon_index()?;
    let (ledger, findings) = Ledger::open(volume.clone(), vault, anew, true)?;
    Ok(opened(ledger, findings))
}
