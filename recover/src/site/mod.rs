//! A recovery site: its state directory, its keys, its place at a vault.
//!
//! ```text
//! STATE/enrollment.toml   the site's certificate and the vault's address
//! STATE/keys.toml         the tenant's keys, private half included; wrapped if so chosen
//! STATE/runs/SERVER/      one directory per recovered server (see `failover`)
//! ```

mod renewal;
pub(crate) mod select;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use relevo_wire::enrollment::{Enrollment, Token};
use relevo_wire::identity::Identity;
use relevo_wire::key::{KeyFile, OpeningKeys};

use crate::failure::Failure;
use crate::image::{Patience, Source, VaultLink};
use crate::keys::Unlocker;

pub use select::PointSelector;

/// Where a site keeps its state unless told otherwise.
pub const DEFAULT_STATE: &str = "/var/lib/relevo/recover";

const ENROLLMENT: &str = "enrollment.toml";
const KEYS: &str = "keys.toml";

/// A path that means the same to every process, wherever it was started: runs are found again
/// by it.
pub fn absolute(path: &Path) -> PathBuf {
    path.canonicalize()
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_path_buf())
}

/// Makes a directory that only its owner enters; one that exists stays as it is. What is above it
/// may be others' as well and is made as usual.
pub fn make_private(dir: &Path) -> std::io::Result<()> {
    if let Some(above) = dir.parent() {
        std::fs::create_dir_all(above)?;
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// An enrolled recovery site.
pub struct Site {
    state: PathBuf,
    enrollment: Enrollment,
    keys: Arc<OpeningKeys>,
}

impl Site {
    /// Opens the state directory of a site that was enrolled, without asking anybody: wrapped
    /// keys want the file that `RELEVO_PASSPHRASE_FILE` names.
    pub fn open(state: &Path) -> Result<Self, Failure> {
        Self::open_with(state, &Unlocker::unattended())
    }

    /// The same with a person or more files at hand.
    pub fn open_with(state: &Path, unlocker: &Unlocker) -> Result<Self, Failure> {
        let enrollment = state.join(ENROLLMENT);
        if !enrollment.exists() {
            return Err(Failure::new(
                format!(
                    "{} is not the state of an enrolled recovery site",
                    state.display()
                ),
                "enrol with 'relevo-recover enroll --vault HOST:PORT --token TOKEN --keys opening-keys.toml', \
                 or name the directory with --state",
            ));
        }
        Ok(Self {
            state: absolute(state),
            enrollment: Enrollment::read(&enrollment)?,
            keys: Arc::new(unlocker.read(&state.join(KEYS))?),
        })
    }

    /// Enrols with a token and writes the state directory. `keys` are kept there as they are given:
    /// wrapped ones stay wrapped, and failover then wants their passphrase.
    pub fn enroll(
        state: &Path,
        vault: &str,
        token: &str,
        keys: &KeyFile,
        name: &str,
    ) -> Result<Enrollment, Failure> {
        let token: Token = token
            .parse()
            .map_err(|e: relevo_wire::enrollment::TokenError| {
                Failure::new(
                    e.to_string(),
                    "copy the whole token that 'relevo-vault token --role recovery' printed",
                )
            })?;
        make_private(state).map_err(|e| Failure::io(state, &e))?;
        let (enrollment_path, keys_path) = (state.join(ENROLLMENT), state.join(KEYS));
        if enrollment_path.exists() {
            return Err(Failure::new(
                format!("{} holds an enrolment already", state.display()),
                "name another --state, or remove enrollment.toml and keys.toml there to enrol anew",
            ));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::io(state, &e))?;
        let enrolled = runtime.block_on(relevo_wire::client::enroll(
            vault,
            &token,
            name,
            keys.tenant(),
        ));
        let enrollment = enrolled?;
        match enrollment.identity() {
            Ok(Identity::Recovery { .. }) => {}
            Ok(_) => {
                return Err(Failure::new(
                    "the token was made for an agent, not for a recovery site",
                    "ask for one made with 'relevo-vault token --role recovery'",
                ));
            }
            Err(e) => {
                return Err(Failure::new(e.to_string(), "update Relevo at this site"));
            }
        }
        // The keys are there before the enrolment says so; a copy left by an attempt that
        // did not get further is replaced.
        if keys_path.exists() {
            std::fs::remove_file(&keys_path).map_err(|e| Failure::io(&keys_path, &e))?;
        }
        keys.write(&keys_path)?;
        enrollment.write(&enrollment_path)?;
        Ok(enrollment)
    }

    /// Puts keys in the place of those in the state directory: of the same tenant, and such that
    /// open all that those open.
    pub fn take_keys(state: &Path, given: &KeyFile) -> Result<(), Failure> {
        let path = state.join(KEYS);
        let kept = KeyFile::read(&path)?;
        if kept.tenant() != given.tenant() {
            return Err(Failure::new(
                format!(
                    "the keys are of tenant {}, this site is of {}",
                    given.tenant(),
                    kept.tenant()
                ),
                "give the keys of this site's tenant, or enrol with another --state",
            ));
        }
        let numbers = |file: &KeyFile| file.generations().into_iter().map(|(n, _)| n);
        if let Some(lost) = numbers(&kept).find(|kept| !numbers(given).any(|n| n == *kept)) {
            return Err(Failure::new(
                format!("the keys lack generation {lost}, which this site has"),
                "give the newest opening keys: older ones would leave images that nothing opens",
            ));
        }
        Ok(given.replace(&path)?)
    }

    /// The state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// What came of enrolling.
    pub fn enrollment(&self) -> &Enrollment {
        &self.enrollment
    }

    /// The tenant's keys.
    pub fn keys(&self) -> &Arc<OpeningKeys> {
        &self.keys
    }

    /// Connects to the vault.
    pub fn connect(&self, patience: Patience) -> Result<Arc<Source>, Failure> {
        let enrollment = renewal::renewed(&self.enrollment, &self.state.join(ENROLLMENT));
        let link = VaultLink::connect(enrollment, patience)?;
        Ok(Arc::new(Source::Vault(link)))
    }
}
