//! Swap areas: only their first page is worth anything after a restart, unless the server sleeps
//! in one (`include/linux/swap.h`, `union swap_header`).

use super::area::Found;
use super::map::FreeRuns;
use super::volume::Volume;
use super::whole::{Seen, Whole, le32};

/// Page sizes of machines that Linux runs on.
const PAGES: [u64; 5] = [4096, 8192, 16384, 32768, 65536];

/// The page size of a swap area that nobody sleeps in; an error if somebody does.
pub fn detect(head: &[u8]) -> Seen<Option<u64>> {
    for page in PAGES {
        let magic = head.get(page as usize - 10..page as usize);
        let Some(magic) = magic else { break };
        match magic {
            b"SWAPSPACE2" => return Ok(Some(page)),
            _ if magic.starts_with(b"S1SUSPEND")
                || magic.starts_with(b"S2SUSPEND")
                || magic.starts_with(b"ULSUSPEND")
                || magic.starts_with(b"LINHIB0001")
                || magic.starts_with(b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c") =>
            {
                return Err(Whole::new("it holds the memory of a sleeping server"));
            }
            _ => {}
        }
    }
    Ok(None)
}

/// Frees all pages but the first.
pub fn survey(volume: &Volume<'_>, page: u64, free: &mut FreeRuns) -> Seen<Found> {
    let head = volume.bytes(1024, 12)?;
    let (version, last) = (le32(&head, 0), u64::from(le32(&head, 4)));
    let end = (last + 1).saturating_mul(page);
    if version != 1 || last == 0 || end > volume.size() {
        return Err(Whole::new("the header of the swap area makes no sense"));
    }
    free.push(page, end);
    Ok(Found::default())
}
