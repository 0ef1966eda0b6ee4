//! The vault's machine: a disk that fails, a catalogue that ages, a process that dies and is
//! started again.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use relevo_vault::catalogue::Catalogue;
use relevo_vault::clock::BootClock;
use relevo_vault::error::StoreError;
use relevo_vault::ingest::Peer;
use relevo_vault::ledger::Finding;
use relevo_vault::rebuild::{note_findings, prepare_packs};
use relevo_vault::settings::{Immutability, Settings, SettingsWatch};
use relevo_vault::store::Store;
use relevo_vault::volume::simulated::{Dice, Fault, SimulatedDisk};
use relevo_wire::VaultId;
use relevo_wire::identity::Authority;

use crate::aside::Aside;
use crate::catalogue::CatalogueFiles;
use crate::fates::Fates;
use crate::serve::{SimulatedVault, serve};

/// Attempts to start, each of which a crash may end.
const STARTS: usize = 60;

/// The machine.
pub struct Machine {
    /// Its disk.
    pub disk: Arc<SimulatedDisk>,
    id: VaultId,
    dir: tempfile::TempDir,
    roll_at: u64,
    settings: Settings,
    /// What its kernel tells of the time since it was started.
    pub boot: Arc<Boot>,
    aside: Aside,
    /// The catalogue's files.
    pub catalogue: Mutex<CatalogueFiles>,
    state: Mutex<State>,
}

/// The time since the machine was started, which only its power cut sets back.
#[derive(Default)]
pub struct Boot {
    now: AtomicU64,
    begun: AtomicU64,
}

impl Boot {
    /// The world's time goes on.
    pub fn set(&self, now: u64) {
        self.now.store(now, Ordering::Relaxed);
    }

    fn begin(&self) {
        let now = self.now.load(Ordering::Relaxed);
        self.begun.store(now, Ordering::Relaxed);
    }
}

impl BootClock for Boot {
    fn since_boot(&self) -> Duration {
        let now = self.now.load(Ordering::Relaxed);
        Duration::from_millis(now - self.begun.load(Ordering::Relaxed))
    }
}

struct State {
    vault: Option<Arc<SimulatedVault>>,
    /// Counts starts, so that a connection knows its vault is gone.
    life: u64,
}

/// How the vault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Killed; what it wrote is in the kernel's memory.
    Killed,
    /// The power was cut.
    PowerCut,
}

impl Machine {
    /// An empty one. `roll_at`: packs begin anew at this size.
    pub fn new(seed: u64, roll_at: u64, fates: &Fates) -> Self {
        let memory = std::path::Path::new("/dev/shm");
        let dir = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let dir = dir.unwrap();
        Self {
            disk: Arc::new(SimulatedDisk::new(seed)),
            id: VaultId::random(),
            catalogue: Mutex::new(CatalogueFiles::new(dir.path())),
            dir,
            roll_at,
            settings: Settings {
                immutability: Immutability {
                    days: fates.locked_days as u16,
                },
                parity: fates.parity,
                ..Settings::default()
            },
            boot: Arc::default(),
            aside: Aside::new(),
            state: Mutex::new(State {
                vault: None,
                life: 0,
            }),
        }
    }

    /// The vault.
    pub fn id(&self) -> VaultId {
        self.id
    }

    /// A directory in memory that ends with the machine.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Counts the vault's starts and ends.
    pub fn life(&self) -> u64 {
        self.state().life
    }

    /// Whether the vault runs.
    pub fn is_up(&self) -> bool {
        self.state().vault.is_some()
    }

    /// The vault's process ends, whatever it does.
    pub fn fall(&self) {
        let vault = {
            let mut state = self.state();
            state.life += 1;
            state.vault.take()
        };
        self.aside.run(move || drop(vault));
    }

    /// Serves a stream; nothing when nobody is there to answer. A disk that stopped took the
    /// machine with it: then no answer leaves it.
    pub fn serve(&self, peer: Peer, bytes: &[u8], ended: bool, piece: usize) -> Option<Vec<u8>> {
        let (vault, bytes) = (self.state().vault.clone()?, bytes.to_vec());
        let answer = self
            .aside
            .run(move || serve(&vault, peer, &bytes, ended, piece));
        answer.filter(|_| !self.disk.is_down())
    }

    /// Does something with the vault itself, as its own tasks and commands do.
    pub fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&SimulatedVault) -> T + Send + 'static,
    ) -> Option<T> {
        let vault = self.state().vault.clone()?;
        Some(self.aside.run(move || work(&vault)))
    }

    /// What the machine's end leaves.
    pub fn end(&self, end: End) {
        match end {
            End::Killed => self.disk.kill(),
            End::PowerCut => {
                self.disk.crash();
                self.boot.begin();
            }
        }
    }

    /// Starts the vault, whatever its catalogue is; crashes may come in the middle of that too.
    /// What it found.
    pub fn start(&self, dice: &mut Dice, faults: bool) -> Vec<Finding> {
        for _ in 0..STARTS {
            if faults && dice.once_in(3) {
                self.disk.plan(dice.roll(12), Fault::Crash);
            }
            let (disk, id) = (self.disk.clone(), self.id);
            let path = self.catalogue.lock().unwrap().path();
            let (roll_at, boot) = (self.roll_at, self.boot.clone());
            let settings = Arc::new(SettingsWatch::fixed(self.settings.clone()));
            let opened = self.aside.run(move || {
                let (store, findings) = open_store(disk, id, &path, roll_at, boot)?;
                let authority = Authority::from_der(Vec::new(), Vec::new());
                let vault = SimulatedVault::new(id, store, authority).with_settings(settings);
                Ok::<_, StoreError>((Arc::new(vault), findings))
            });
            match opened {
                // It passed over what failed last, and the machine stopped all the same.
                Ok(opened) if self.disk.is_down() => {
                    self.aside.run(move || drop(opened));
                    self.end(match dice.once_in(2) {
                        true => End::Killed,
                        false => End::PowerCut,
                    });
                }
                Ok((vault, findings)) => {
                    self.disk.calm();
                    let mut state = self.state();
                    state.vault = Some(vault);
                    state.life += 1;
                    return findings;
                }
                Err(_) if self.disk.is_down() => self.end(match dice.once_in(2) {
                    true => End::Killed,
                    false => End::PowerCut,
                }),
                Err(error) => panic!("the vault does not open: {error}"),
            }
        }
        panic!("the vault does not open however often it is started");
    }
}

/// Opens packs and catalogue as the vault does that serves.
fn open_store(
    disk: Arc<SimulatedDisk>,
    id: VaultId,
    path: &Path,
    roll_at: u64,
    boot: Arc<Boot>,
) -> Result<(Store<SimulatedDisk>, Vec<Finding>), StoreError> {
    let (catalogue, _) = Catalogue::open(path)?;
    prepare_packs(&*disk, id, Some(&catalogue))?;
    let (store, findings) = Store::open_timed(disk, id, path, roll_at, Some(boot))?;
    note_findings(&catalogue, &findings, store.has_read_all())?;
    Ok((store, findings))
}
