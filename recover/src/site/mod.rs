//! A recovery site: its state directory, its keys, its place at a vault.
//!
//! ```text
//! STATE/enrollment.toml   the site's certificate and the vault's address
//! STATE/keys.toml         the tenant's keys, private half included
//! STATE/runs/SERVER/      one directory per recovered server (see `failover`)
//! ```

mod renewal;
mod select;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use relevo_wire::enrollment::{Enrollment, Token};
use relevo_wire::identity::Identity;
use relevo_wire::key::OpeningKeys;

use crate::failure::Failure;
use crate::image::{Patience, VaultLink};

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

/// The two files that [`keygen`] wrote.
#[derive(Debug, Clone)]
pub struct KeyFiles {
    /// For the recovery site: opens images. To be kept safe, and a copy elsewhere.
    pub opening: PathBuf,
    /// For agents: seals images, opens none.
    pub sealing: PathBuf,
}

/// Makes the keys of a new tenant in `dir`. Existing key files are never replaced.
pub fn keygen(dir: &Path) -> Result<KeyFiles, Failure> {
    make_private(dir).map_err(|e| Failure::io(dir, &e))?;
    let files = KeyFiles {
        opening: dir.join("opening-keys.toml"),
        sealing: dir.join("sealing-keys.toml"),
    };
    for path in [&files.opening, &files.sealing] {
        if path.exists() {
            return Err(Failure::new(
                format!("{} exists already", path.display()),
                "images made with those keys open with them only: choose another --out, or keep these",
            ));
        }
    }
    let keys = OpeningKeys::generate()?;
    keys.write(&files.opening)?;
    keys.sealing.write(&files.sealing)?;
    Ok(files)
}

/// An enrolled recovery site.
pub struct Site {
    state: PathBuf,
    enrollment: Enrollment,
    keys: Arc<OpeningKeys>,
}

impl Site {
    /// Opens the state directory of a site that was enrolled.
    pub fn open(state: &Path) -> Result<Self, Failure> {
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
            keys: Arc::new(OpeningKeys::read(&state.join(KEYS))?),
        })
    }

    /// Enrols with a token and writes the state directory.
    pub fn enroll(
        state: &Path,
        vault: &str,
        token: &str,
        keys: &Path,
        name: &str,
    ) -> Result<Self, Failure> {
        let token: Token = token
            .parse()
            .map_err(|e: relevo_wire::enrollment::TokenError| {
                Failure::new(
                    e.to_string(),
                    "copy the whole token that 'relevo-vault token --role recovery' printed",
                )
            })?;
        let keys = OpeningKeys::read(keys)?;
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
            keys.sealing.tenant,
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
        Ok(Self {
            state: absolute(state),
            enrollment,
            keys: Arc::new(keys),
        })
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
    pub fn connect(&self, patience: Patience) -> Result<Arc<VaultLink>, Failure> {
        let enrollment = renewal::renewed(&self.enrollment, &self.state.join(ENROLLMENT));
        VaultLink::connect(enrollment, patience)
    }
}
