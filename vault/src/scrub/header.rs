//! A pack's header stands there twice: while one copy is left, the other is written again.

use relevo_wire::VaultId;

use crate::error::StoreError;
use crate::ledger::open_pack_header;
use crate::pack::FIRST_ENTRY;
use crate::volume::{PackId, Volume, read_exact};

/// Writes both copies again when one cannot be read or is damaged. Leaves a pack alone of which
/// neither is left.
pub(super) fn mend<V: Volume>(volume: &V, vault: VaultId, pack: PackId) -> Result<(), StoreError> {
    let Ok(header) = open_pack_header(volume, vault, pack)? else {
        return Ok(());
    };
    let whole = header.encode();
    let half = FIRST_ENTRY as usize / 2;
    for (at, copy) in [(0, &whole[..half]), (half, &whole[half..])] {
        let found = read_exact(volume, pack, at as u64, half);
        if found.is_ok_and(|found| found[..] == *copy) {
            continue;
        }
        tracing::warn!(%pack, at, "a copy of its header is written again");
        // Never the other one along: a write that the power cuts off may cost what it covers.
        volume
            .write_at(pack, at as u64, copy)
            .and_then(|()| volume.sync(pack))
            .map_err(|e| StoreError::io(format_args!("write the header of pack {pack}"), &e))?;
    }
    Ok(())
}
