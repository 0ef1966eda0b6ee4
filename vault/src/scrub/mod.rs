//! Reads everything again and again while the vault serves, and has damage healed.
//!
//! One thread, one file at a time, the one whose check is longest ago first; at the pace that
//! reads every byte within the days of `[scrub] every-days` ([`pace`](Pace)), never faster than
//! its `rate`, and not while clients read, unless something is overdue. A file is read from the
//! disk, not from memory. When it was checked stands in the catalogue, so that a restart goes on
//! where it was. The same thread forms parity groups of packs that are closed.

mod header;
mod pace;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use relevo_wire::{TenantId, Timestamp, VaultId};

use crate::background::Background;
use crate::catalogue::Catalogue;
use crate::error::{StoreError, VaultError};
use crate::heal::{self, Healed, Healer};
use crate::ingest::Vault;
use crate::ledger::open_pack_header;
use crate::pack::FIRST_ENTRY;
use crate::parity::{self, Closed, Group, Member, Plan};
use crate::settings::Settings;
use crate::store::Store;
use crate::verify::{Damage, check_pack};
use crate::volume::{FileId, PackId, Volume};

pub use pace::{Due, Pace};

/// How often it looks what is due.
const TURN: Duration = Duration::from_secs(1);
/// How often losses that are left are looked at: an agent may have sent what was lost.
const COVER: Duration = Duration::from_secs(60);
/// How often all of healing is tried again: another vault may be there by now.
const RETRY: Duration = Duration::from_secs(3600);
/// How often packs that were closed are looked for.
const GROUP: Duration = Duration::from_secs(60);
/// Files are read in pieces of this many bytes.
const PIECE: usize = 1024 * 1024;
/// Longest that a piece waits for clients to be quiet.
const YIELD: Duration = Duration::from_secs(10);
/// A closed pack that waited so long gets parity without others.
const WAITED: Duration = Duration::from_secs(24 * 3600);

/// The thread that does it.
pub struct Scrub(Background);

impl Scrub {
    /// Starts it.
    pub fn start<V: Volume + 'static>(vault: Arc<Vault<V>>) -> Result<Self, VaultError> {
        let work = move |stopped: &Receiver<()>| Scrubber::new(&vault, stopped).run();
        Ok(Self(Background::start("relevo-scrub", work)?))
    }

    /// Ends it, within a file.
    pub fn stop(self) {
        drop(self.0);
    }
}

/// All files with the time of their last check, oldest first.
pub fn files<V: Volume>(
    volume: &V,
    vault: VaultId,
    catalogue: &Catalogue,
) -> Result<Vec<Due>, StoreError> {
    let checked = catalogue.checked()?;
    let mut files = Vec::new();
    for (pack, bytes) in catalogue.packs()? {
        let file = FileId::from(pack);
        let checked = match checked.get(&file) {
            Some(when) => *when,
            None => begun(volume, vault, pack)?,
        };
        files.push(Due {
            file,
            bytes,
            checked,
        });
    }
    for group in parity::groups(volume, vault, None)?.usable {
        let file = group.file();
        files.push(Due {
            file,
            bytes: group.file_length(),
            checked: checked
                .get(&file)
                .copied()
                .unwrap_or(Timestamp::from_millis(0)),
        });
    }
    files.sort_by_key(|due| (due.checked, due.file));
    Ok(files)
}

fn begun<V: Volume>(volume: &V, vault: VaultId, pack: PackId) -> Result<Timestamp, StoreError> {
    let header = open_pack_header(volume, vault, pack)?;
    Ok(header.map_or(Timestamp::from_millis(0), |header| header.created))
}

/// One vault's checking.
struct Scrubber<'a, V> {
    vault: &'a Vault<V>,
    stopped: &'a Receiver<()>,
    covered: Instant,
    healed: Option<Instant>,
    grouped: Option<Instant>,
    /// The promise is kept; said when it changes.
    kept: bool,
    client_reads: u64,
}

/// The vault stops.
struct Stopped;

impl<'a, V: Volume> Scrubber<'a, V> {
    fn new(vault: &'a Vault<V>, stopped: &'a Receiver<()>) -> Self {
        Self {
            vault,
            stopped,
            covered: Instant::now(),
            healed: None,
            grouped: None,
            kept: true,
            client_reads: 0,
        }
    }

    fn store(&self) -> &Store<V> {
        self.vault.store()
    }

    fn run(mut self) {
        let mut next = Instant::now();
        loop {
            self.look_after();
            if Instant::now() >= next {
                match self.check_next() {
                    Ok(Ok(pause)) => next = Instant::now() + pause,
                    Ok(Err(Stopped)) => return,
                    Err(StoreError::Stopped) => return,
                    Err(error) => {
                        tracing::error!(%error, remedy = error.remedy(), "a check failed");
                        next = Instant::now() + COVER;
                    }
                }
            }
            if self.wait(TURN).is_err() {
                return;
            }
        }
    }

    fn wait(&self, time: Duration) -> Result<(), Stopped> {
        match self.stopped.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(Stopped),
        }
    }

    /// What is to be done now and then.
    fn look_after(&mut self) {
        if self.healed.is_none_or(|last| last.elapsed() >= RETRY) {
            self.healed = Some(Instant::now());
            self.heal();
        }
        if self.covered.elapsed() >= COVER {
            self.covered = Instant::now();
            self.say(self.healer(&self.settings()).cover_stored_again());
        }
        let settings = self.settings();
        if let Some(parity) = settings.parity
            && self.grouped.is_none_or(|last| last.elapsed() >= GROUP)
        {
            self.grouped = Some(Instant::now());
            let shape = (
                usize::from(parity.data.get()),
                usize::from(parity.parity.get()),
            );
            if let Err(error) = protect(self.store(), self.vault.id(), shape) {
                tracing::error!(%error, remedy = error.remedy(), "parity could not be written");
            }
        }
    }

    fn settings(&self) -> Arc<Settings> {
        self.vault.settings().now()
    }

    fn healer<'s>(&'s self, settings: &'s Settings) -> Healer<'s, V> {
        Healer {
            store: self.store(),
            vault: self.vault.id(),
            heal_from: &settings.heal_from,
            give_up: false,
        }
    }

    fn heal(&self) {
        self.say(self.healer(&self.settings()).heal());
    }

    fn say(&self, healed: Result<Healed, StoreError>) {
        match healed {
            Ok(healed) if healed.did_something() || !healed.failures.is_empty() => {
                let done = healed.blocks + healed.fetched + healed.records + healed.covered;
                self.vault.metrics().damage_healed.add(done);
                for line in heal::text(&healed).lines() {
                    tracing::warn!("{line}");
                }
            }
            Ok(_) | Err(StoreError::Stopped) => {}
            Err(error) => tracing::error!(%error, remedy = error.remedy(), "healing failed"),
        }
    }

    /// Checks the file whose check is longest ago; how long to wait then.
    fn check_next(&mut self) -> Result<Result<Duration, Stopped>, StoreError> {
        let settings = self.settings();
        let volume = self.store().volume().clone();
        let files = self.store().read(|c| files(&*volume, self.vault.id(), c))?;
        let rate = settings.scrub.rate.bytes_per_second();
        let days = settings.scrub.every_days.get();
        let pace = Pace::of(&files, Timestamp::now(), days, rate);
        let metrics = self.vault.metrics();
        metrics.scrub_overdue.set(pace.overdue);
        let oldest = pace.oldest.map_or(0, Timestamp::as_millis).max(0);
        metrics.scrub_oldest.set(oldest as u64 / 1000);
        if pace.kept != self.kept {
            self.kept = pace.kept;
            match pace.kept {
                true => tracing::info!(days, "every byte is read within the days promised again"),
                false => tracing::warn!(
                    days,
                    overdue = pace.overdue,
                    needed = pace.needed,
                    rate,
                    "bytes were not read within the days promised: raise [scrub] rate or every-days"
                ),
            }
        }
        let Some(due) = files.first() else {
            return Ok(Ok(TURN));
        };
        let started = Instant::now();
        if self.read(due, rate, pace.overdue == 0).is_err() {
            return Ok(Err(Stopped));
        }
        self.vault.metrics().scrubbed_bytes.add(due.bytes);
        let intact = check(self.store(), self.vault.id(), due.file, || self.heal())?;
        if !intact {
            self.vault.metrics().damage_found.increment();
        }
        Ok(Ok(pace
            .time_for(due.bytes)
            .saturating_sub(started.elapsed())))
    }

    /// Reads a file from the disk, no faster than `rate`; what is read is checked afterwards,
    /// from memory. Sectors that cannot be read are found there too.
    fn read(&mut self, due: &Due, rate: u64, yielding: bool) -> Result<(), Stopped> {
        let volume = self.store().volume().clone();
        volume.drop_cached(due.file);
        let mut piece = vec![0; PIECE];
        let started = Instant::now();
        for at in (0..due.bytes).step_by(PIECE) {
            if yielding {
                self.let_clients_pass()?;
            }
            if let Ok(0) = volume.read_at(due.file, at, &mut piece) {
                break;
            }
            let planned = Duration::from_secs_f64((at + PIECE as u64) as f64 / rate.max(1) as f64);
            let ahead = planned.saturating_sub(started.elapsed());
            self.wait(ahead)?;
        }
        Ok(())
    }

    /// Waits while clients are given chunks.
    fn let_clients_pass(&mut self) -> Result<(), Stopped> {
        let began = Instant::now();
        loop {
            let reads = self.store().client_reads();
            let busy = reads != std::mem::replace(&mut self.client_reads, reads);
            if !busy || began.elapsed() >= YIELD {
                return Ok(());
            }
            self.wait(Duration::from_millis(100))?;
        }
    }
}

/// Checks one file whole, notes what is found, and has it healed. True when it was intact.
pub fn check<V: Volume>(
    store: &Store<V>,
    vault: VaultId,
    file: FileId,
    heal: impl FnOnce(),
) -> Result<bool, StoreError> {
    let volume = &**store.volume();
    let groups = parity::groups(volume, vault, Some(file.tenant))?.usable;
    let of_file = |group: &&Group| match file.pack() {
        Some(pack) => group.slot(pack).is_some(),
        None => group.file() == file,
    };
    let mut intact = true;
    let mut damage = Vec::new();
    if let Some(pack) = file.pack() {
        let Some(scanned) = store.read(|c| c.pack_scanned(pack))? else {
            return Ok(true);
        };
        let found = store.read(|c| check_pack(volume, vault, c, pack, scanned))?;
        for notice in &found.notices {
            tracing::warn!("{notice}");
        }
        header::mend(volume, vault, pack)?;
        damage = found.damage;
    }
    // Blocks that no entry's hash covers count as well: they are what others are healed from.
    for group in groups.iter().filter(of_file) {
        let columns = parity::damaged_columns(volume, group, file);
        if let (Some(first), Some(last)) = (columns.first(), columns.last()) {
            intact = false;
            tracing::warn!(%file, blocks = columns.len(), "blocks are damaged");
            if damage.is_empty() {
                let restored = parity::heal(volume, group, *first..last + 1)?;
                tracing::warn!(%file, restored = restored.restored, "healed from parity");
                if restored.stale || !restored.beyond.is_empty() {
                    tracing::warn!(group = %group.file(), "parity is made anew");
                    parity::drop_group(volume, group)?;
                }
            }
        }
    }
    for damage in &damage {
        tell(damage);
    }
    let bad = !damage.is_empty();
    store.read(|c| {
        c.transaction(|c| {
            damage.iter().try_for_each(|damage| damage.note(c))?;
            // Damaged or not: it was read.
            c.set_checked(file, Some(Timestamp::now()))
        })
    })?;
    if bad {
        heal();
    }
    Ok(intact && !bad)
}

fn tell(damage: &Damage) {
    tracing::error!(
        pack = damage.pack,
        offset = damage.offset,
        length = damage.length,
        chunks = damage.chunks.len(),
        "damage: {}; 'relevo-vault verify' says which recovery points it hits",
        damage.reason
    );
}

/// Writes the parity of closed packs that have none, and drops groups that are half empty. How
/// many groups were formed.
pub fn protect<V: Volume>(
    store: &Store<V>,
    vault: VaultId,
    shape: (usize, usize),
) -> Result<usize, StoreError> {
    let volume = &**store.volume();
    let mut formed = 0;
    for tenant in store.read(|c| c.tenants())? {
        let existing = parity::groups(volume, vault, Some(tenant))?;
        if !existing.highest.is_empty() {
            parity::keep_names(volume, tenant)?;
        }
        let closed = closed_packs(store, vault, tenant, &existing.usable)?;
        let plan = Plan::of(vault, tenant, &closed, &existing, shape);
        let mut all = true;
        for group in &plan.form {
            match form(store, vault, group)? {
                true => {
                    formed += 1;
                    let file = group.file();
                    store
                        .read(|c| c.transaction(|c| c.set_checked(file, Some(Timestamp::now()))))?;
                    tracing::info!(%file, packs = group.occupied(), "parity written");
                }
                false => all = false,
            }
        }
        for group in plan.drop.iter().filter(|_| all) {
            parity::drop_group(volume, group)?;
        }
    }
    Ok(formed)
}

/// Packs that get no entry any more.
fn closed_packs<V: Volume>(
    store: &Store<V>,
    vault: VaultId,
    tenant: TenantId,
    groups: &[Group],
) -> Result<Vec<Closed>, StoreError> {
    let mut packs = store.read(|c| c.packs())?;
    packs.retain(|(pack, length)| pack.tenant == tenant && *length > FIRST_ENTRY);
    packs.sort_unstable();
    packs.pop();
    let lost = store.read(|c| c.losses(tenant))?;
    packs.retain(|(pack, _)| lost.iter().all(|loss| loss.pack != pack.number));
    let mut closed = Vec::with_capacity(packs.len());
    let covered = |pack| {
        let mut dense = groups.iter().filter(|group| !group.is_sparse());
        dense.any(|group| group.slot(pack).is_some())
    };
    for (pack, length) in packs.into_iter().filter(|(pack, _)| !covered(*pack)) {
        let begun = begun(&**store.volume(), vault, pack)?;
        closed.push(Closed {
            member: Member {
                pack: pack.number,
                length,
            },
            waited: begun.plus(WAITED) < Timestamp::now(),
        });
    }
    Ok(closed)
}

/// Forms a group when all its packs are intact; what is not is noted.
fn form<V: Volume>(store: &Store<V>, vault: VaultId, group: &Group) -> Result<bool, StoreError> {
    let volume = &**store.volume();
    for (_, pack, length) in group.members() {
        let found = store.read(|c| check_pack(volume, vault, c, pack, length))?;
        if !found.damage.is_empty() {
            for damage in &found.damage {
                tell(damage);
            }
            store.read(|c| c.transaction(|c| found.damage.iter().try_for_each(|d| d.note(c))))?;
            return Ok(false);
        }
        header::mend(volume, vault, pack)?;
    }
    let wanted = || {
        let retired = store.read(|c| c.retired())?;
        let packs = store.read(|c| c.packs())?;
        Ok(group.members().all(|(_, pack, _)| {
            !retired.contains(&pack) && packs.iter().any(|(known, _)| *known == pack)
        }))
    };
    parity::form(volume, group, wanted)
}
